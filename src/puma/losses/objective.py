"""The trainer's loss object: runs the model on a step's chunks and adds up contrastive and distillation terms.

Source: method.md: ``0.9 * contrastive + 0.1 * scale * distillation`` (stage 1), MAC-Loss (stage 2).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from puma.errors import InputError
from puma.losses.distillation import distillation_loss
from puma.losses.mac import hard_temperature, mac_loss
from puma.pooling import last_token_state


class RetrievalObjective(nn.Module):
    """Contrastive loss over a step's pairs, with the teacher's states beside it where the step carries them.

    Args:
        model: a ``SentenceTransformer``; its pipeline's token states are pooled here, raw.
        temperature: tau_norm.
        decay: of the hard temperature; 0 makes it plain InfoNCE.
        contrastive_weight, distillation_weight: of the two terms (the recipe: 0.9 and 0.1 * 0.05; 1 and 0 in stage 2).
        distillation: the kind, see :func:`puma.losses.distillation_loss`.
        symmetric: whether the candidates' view (which query is mine?) is averaged in. The paper's loss has only the
            queries'.
    """

    def __init__(
        self,
        model: Any,
        *,
        temperature: float,
        decay: float = 0.0,
        contrastive_weight: float = 1.0,
        distillation_weight: float = 0.0,
        distillation: str = "mse",
        symmetric: bool = False,
    ) -> None:
        super().__init__()
        self.model = model
        self.temperature, self.decay, self.symmetric = temperature, decay, symmetric
        self.contrastive_weight, self.distillation_weight = contrastive_weight, distillation_weight
        self.distillation = distillation
        self.progress = 0.0
        """Fraction of training done; a callback sets it from the trainer's state, so it survives a resume."""
        hard_temperature(temperature, decay, 0.0)  # refuse wrong values now, not at the first step

    def forward(self, features: list[dict[str, Any]], labels: Any = None) -> dict[str, torch.Tensor]:
        """The weighted terms by name; the trainer logs and sums them."""
        extra = {
            key: features[0].pop(key) for key in list(features[0]) if key.startswith("puma_") and key != "puma_rows"
        }
        states = self._states(features)  # [2q, d]: queries, then candidates
        half = states.shape[0] // 2
        queries, candidates = states[:half], states[half:]
        hard = hard_temperature(self.temperature, self.decay, self.progress)
        target, modality = extra["puma_target_modality"], extra["puma_candidate_modality"]
        exclude = extra["puma_exclude"]
        temperatures = {"temperature": self.temperature, "hard_temperature": hard}
        contrastive = mac_loss(queries, candidates, target, modality, exclude=exclude, **temperatures)
        if self.symmetric:
            # Seen from candidate j every query that aims at j's modality shares its temperature, as in
            # the queries' view.
            backward = mac_loss(candidates, queries, modality, target, exclude=exclude.T, **temperatures)
            contrastive = (contrastive + backward) / 2
        terms = {"contrastive": self.contrastive_weight * contrastive}
        if self.distillation_weight:
            if "puma_teacher" not in extra:
                raise InputError(
                    "distillation_weight > 0 but the batch carries no teacher states: give the collator a teacher"
                )
            rows = extra["puma_taught"]  # [2q] bool: which items have a target
            loss = distillation_loss(states[rows], extra["puma_teacher"][rows], self.distillation)
            terms["distillation"] = self.distillation_weight * loss
        return terms

    def _states(self, chunks: list[dict[str, Any]]) -> torch.Tensor:
        parts, rows = [], []
        for chunk in chunks:
            rows.append(chunk.pop("puma_rows"))
            mask = chunk["attention_mask"]
            parts.append(last_token_state(self.model(chunk)["token_embeddings"], mask).float())
        states, order = torch.cat(parts), torch.cat(rows)
        return states[torch.argsort(order)]
