"""The teacher of self-distillation: the frozen, unpruned base, and its ``[RET]`` states kept on disk.

A frozen teacher says the same of the same prompt for ever, so its states are computed once, in shards that survive a
kill, under a fingerprint of everything that shapes them (weights, prompt, pixels). Not here: the loss on them
(losses.distillation).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from puma.encoding import Inputs, forward_states, length_sorted_groups, prefetched
from puma.errors import InputError
from puma.folders import storage_errors
from puma.items import Item
from puma.model import Retriever

Asked = tuple[Item, str | None]
"""An item and the instruction before it, if any."""


def teacher_states(
    teacher: Retriever,
    asked: Sequence[Asked],
    *,
    store: str | os.PathLike[str] | None = None,
    batch_size: int = 64,
    shard_size: int = 512,
    autocast: torch.dtype | None = None,
    show_progress: bool = False,
) -> dict[str, np.ndarray]:
    """Raw ``[RET]`` states of the teacher (after its final norm, not normalised to length one), by written prompt.

    Text items only carry their whole meaning in the written prompt; items with pictures are refused here.

    Args:
        teacher: the unpruned base as a retriever; it is never trained here and no gradient is recorded.
        asked: items with instructions; repeated prompts are computed once.
        store: a folder for the shards; with it a killed run goes on where it was, and a later one reads instead of
            computing.

    Returns:
        ``{written prompt: fp16 [dim]}``.

    Raises:
        InputError: an item holds a picture.
    """
    from tqdm import tqdm

    if any(item.image is not None for item, _ in asked):
        raise InputError("teacher_states takes text items: a picture is not told apart by its written prompt")
    written = [teacher.inputs.written([item], ask)[0] for item, ask in asked]
    unique = {text: pair for text, pair in zip(written, asked, strict=True)}
    folder = Path(store) / teacher.fingerprint if store is not None else None
    known = _read_shards(folder)
    todo = [text for text in unique if text not in known]
    with tqdm(
        total=len(unique), initial=len(unique) - len(todo), unit="text", desc="teacher", disable=not show_progress
    ) as bar:
        for start in range(0, len(todo), shard_size):
            shard = todo[start : start + shard_size]
            states = _states(teacher, [unique[text] for text in shard], batch_size, autocast)
            known.update(zip(shard, states, strict=True))
            if folder is not None:
                _write_shard(folder, shard, states)
            bar.update(len(shard))
    return {text: known[text] for text in unique}


class PromptTargets:
    """The paper's targets: what the unpruned base makes of the very prompt that the student reads, instruction
    included.

    Args:
        teacher: the teacher; only its way of writing items out is kept.
        states: by written prompt, from :func:`teacher_states`.
    """

    def __init__(self, teacher: Retriever, states: Mapping[str, np.ndarray]) -> None:
        self._inputs, self._states = teacher.inputs, states

    def __call__(self, item: Item, instruction: str | None) -> np.ndarray | None:
        """The target [dim], or None for an item with a picture or one that the teacher was not asked about."""
        if item.image is not None:
            return None
        return self._states.get(self._inputs.written([item], instruction)[0])


class CaptionTargets:
    """Targets for texts and pictures in the teacher's space of texts: a text takes the unpruned base's state of itself,
    a picture that of its caption, whatever is asked of them.

    An extension of the paper's: a base whose vision projector is young (the mini base's is fitted in closed form) knows
    concepts by their names, and that is what the deep layers can teach about a picture.

    Args:
        states: by text, raw, without instruction.
        captions: text by picture path.
        centre: subtract the mean state. Raw states share a large offset, under which every cosine is near one.
    """

    def __init__(
        self, states: Mapping[str, np.ndarray], captions: Mapping[str, str] | None = None, *, centre: bool = False
    ) -> None:
        self.captions = dict(captions or {})
        rows = np.stack(list(states.values())).astype(np.float32) if states else np.zeros((0, 1), np.float32)
        if centre and len(rows):
            rows = rows - rows.mean(0)
        self.states = dict(zip(states, rows, strict=True))

    def __call__(self, item: Item, instruction: str | None) -> np.ndarray | None:
        """The target [dim]; None for what has no state, and for items with both text and picture, whose meaning no
        caption tells."""
        if item.image is None:
            return self.states.get(item.text or "")
        if item.text is not None or not isinstance(item.image, (str, os.PathLike)):
            return None
        return self.states.get(self.captions.get(os.fspath(item.image), ""))


def caption_targets(
    teacher: Retriever,
    texts: Sequence[str],
    captions: Mapping[str, str] | None = None,
    *,
    centre: bool = False,
    **options: Any,
) -> CaptionTargets:
    """:class:`CaptionTargets` of texts and of captions by picture path; ``options`` go to :func:`teacher_states`."""
    unique = list(dict.fromkeys([*texts, *(captions or {}).values()]))
    items = [Item(text=text) for text in unique]
    states = teacher_states(teacher, [(item, None) for item in items], **options)
    by_text = {text: states[teacher.inputs.written([item])[0]] for text, item in zip(unique, items, strict=True)}
    return CaptionTargets(by_text, captions, centre=centre)


def _states(teacher: Retriever, asked: Sequence[Asked], batch_size: int, autocast: torch.dtype | None) -> np.ndarray:
    inputs: Inputs = teacher.inputs
    device = next(teacher.model.parameters()).device
    out = np.empty((len(asked), teacher.dim), dtype=np.float16)

    def prepare(rows: list[int]) -> dict[str, torch.Tensor]:
        return inputs.features([asked[i][0] for i in rows], [asked[i][1] for i in rows])

    teacher.model.eval()
    with torch.inference_mode(), torch.autocast(device.type, dtype=autocast, enabled=autocast is not None):
        for rows, features in prefetched(length_sorted_groups([item for item, _ in asked], batch_size), prepare):
            moved: dict[str, Any] = {key: value.to(device) for key, value in features.items()}
            out[rows] = forward_states(teacher.model, moved).cpu().numpy()
    return out


def _read_shards(folder: Path | None) -> dict[str, np.ndarray]:
    known: dict[str, np.ndarray] = {}
    if folder is not None and folder.is_dir():
        for path in sorted(folder.glob("shard-*.npz")):
            with np.load(path, allow_pickle=False) as shard:
                known.update(zip(shard["texts"].tolist(), shard["states"], strict=True))
    return known


def _write_shard(folder: Path, texts: Sequence[str], states: np.ndarray) -> None:
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        number = len(list(folder.glob("shard-*.npz")))
        part = folder / f".shard-{number:05d}.{os.getpid()}.part"
        with part.open("wb") as stream:
            np.savez(stream, texts=np.array(texts), states=states)
        os.replace(part, folder / f"shard-{number:05d}.npz")
