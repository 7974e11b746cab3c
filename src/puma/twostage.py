"""From a base and a data set to a trained retriever folder: both stages of the method in order.

Here: :func:`train_two_stages`, what ``puma train`` does, on one process or several. Not here: a stage (training).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from puma.data.pairs import Pair, first_instructions, read_pairs
from puma.dual_depth import DualDepth
from puma.errors import InputError
from puma.model import PROMPT_FILE, Retriever
from puma.pruning import decoder_of
from puma.replicas import join, processes, wait
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
    image_tokens: tuple[int, int] | None = None,
    distil: TrainConfig | None = None,
    retrieve: TrainConfig | None = None,
) -> dict[str, list[dict[str, float]]]:
    """Prune, distil on the data's pairs of texts, train on all its tasks, save.

    Args:
        base: a base model, or a retriever folder, which is trained on as it is.
        data: root of a benchmark in M-BEIR's layout.
        out: the retriever's folder; ``out`` + ``.work`` holds checkpoints until it is whole.
        layers, keep_last, prompt, image_tokens: as :meth:`puma.model.Retriever.from_base`.
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
    join()
    retrieve = retrieve or TrainConfig()
    asked_for = max(stage.hard_negatives for stage in (distil, retrieve) if stage is not None)
    pairs = read_pairs(data, negatives=asked_for)
    shared = distil is not None and distil.distillation_weight > 0 and distil.teacher == "shared"
    if trained_before:
        retriever = Retriever.from_pretrained(base, dtype=torch.float32)
    elif shared:  # whole, and its deep layers in the type they were saved in: they are never trained
        retriever = Retriever.from_base(base, prompt=prompt, image_tokens=image_tokens)
    else:
        retriever = Retriever.from_base(
            base, layers=layers, keep_last=keep_last, prompt=prompt, image_tokens=image_tokens, dtype=torch.float32
        )
    work = target.with_name(target.name + ".work")
    logs = {}
    if distil is not None:
        texts = [pair for pair in pairs if pair.query.image is None and pair.candidate.image is None]
        if not texts:
            raise InputError(f"data={str(data)!r}: no pairs of two texts to distil on; leave stage 1 out")
        teacher: DualDepth | PromptTargets | None = None
        if shared:
            depth = layers or len(decoder_of(retriever.model).layers)
            teacher = DualDepth(retriever.model, depth, keep_last=keep_last, ret_id=retriever.inputs.ret_id)
        elif distil.distillation_weight > 0:
            teacher = _stored_targets(base, prompt, texts, work / "teacher")
        logs["distil"] = train(retriever, texts, distil, work / "distil", teacher=teacher).log
    logs["retrieve"] = train(retriever, pairs, retrieve, work / "retrieve").log
    retriever.instructions = first_instructions(data)
    if processes()[0] == 0:
        retriever.save_pretrained(target)
    wait()
    return logs


def _stored_targets(base: str | os.PathLike[str], prompt: str, pairs: Sequence[Pair], store: Path) -> PromptTargets:
    """The unpruned base's states of all texts, each process computing its part of them."""
    rank, ranks = processes()
    teacher = Retriever.from_base(base, prompt=prompt)
    asked = [(p.query, p.instruction) for p in pairs] + [(p.candidate, None) for p in pairs]
    states: dict[str, np.ndarray] = {}
    # Its own part first: the others' are there by the time they are read. One writer a folder.
    for part in sorted(range(ranks), key=lambda number: number != rank):
        folder = store / f"{part}-of-{ranks}" if ranks > 1 else store
        states |= teacher_states(teacher, asked[part::ranks], store=folder, show_progress=part == rank == 0)
        if part == rank:
            wait()
    return PromptTargets(teacher, states)
