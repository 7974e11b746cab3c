"""From a base and a data set to a trained retriever folder: both stages of the method in order.

Here: :func:`train_two_stages`, what ``puma train`` does. Not here: a stage (training).
"""

from __future__ import annotations

import os
from pathlib import Path

import torch

from puma.data.pairs import first_instructions, read_pairs
from puma.errors import InputError
from puma.model import PROMPT_FILE, Retriever
from puma.settings import TrainConfig
from puma.teacher import PromptTargets, teacher_states
from puma.training import train


def train_two_stages(
    base: str | os.PathLike[str],
    data: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    layers: int | None = None,
    keep_last: bool = False,
    prompt: str = "chat",
    distil: TrainConfig | None = None,
    retrieve: TrainConfig | None = None,
) -> dict[str, list[dict[str, float]]]:
    """Prune, distil on the data's pairs of texts, train on all its tasks, save.

    Args:
        base: a base model, or a retriever folder, which is trained on as it is.
        data: root of a benchmark in M-BEIR's layout.
        out: the retriever's folder; ``out`` + ``.work`` holds checkpoints until it is whole.
        layers, keep_last, prompt: as :meth:`puma.model.Retriever.from_base`.
        distil: stage 1, or None to leave it out.
        retrieve: stage 2.

    Returns:
        The stages' logs.

    Raises:
        InputError: ``out`` is there already; distillation of a retriever that has no teacher; no pairs of texts.
    """
    target = Path(out)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InputError(f"out={str(out)!r}: exists; give another folder or remove it first")
    trained_before = (Path(base) / PROMPT_FILE).is_file()
    if trained_before and (layers is not None or distil is not None):
        raise InputError(
            f"base={str(base)!r} is a retriever already: it can be trained on, not pruned or distilled again"
        )
    pairs = read_pairs(data)
    if trained_before:
        retriever = Retriever.from_pretrained(base, dtype=torch.float32)
    else:
        retriever = Retriever.from_base(base, layers=layers, keep_last=keep_last, prompt=prompt, dtype=torch.float32)
    work = target.with_name(target.name + ".work")
    logs = {}
    if distil is not None:
        texts = [pair for pair in pairs if pair.query.image is None and pair.candidate.image is None]
        if not texts:
            raise InputError(f"data={str(data)!r}: no pairs of two texts to distil on; leave stage 1 out")
        teacher = Retriever.from_base(base, prompt=prompt)
        asked = [(p.query, p.instruction) for p in texts] + [(p.candidate, None) for p in texts]
        states = teacher_states(teacher, asked, store=work / "teacher", show_progress=True)
        targets = PromptTargets(teacher, states)
        del teacher
        logs["distil"] = train(retriever, texts, distil, work / "distil", teacher=targets).log
    logs["retrieve"] = train(retriever, pairs, retrieve or TrainConfig(), work / "retrieve").log
    retriever.instructions = first_instructions(data)
    retriever.save_pretrained(target)
    return logs
