"""The teacher of self-distillation: the frozen, unpruned base, its ``[RET]`` states kept on disk, and the targets that
training reads.

A frozen teacher gives the same states for the same prompt for ever, so they are computed once, under the facts that
they depend on (weights, ``[RET]`` row, prompt, pixels: :func:`puma.training.teacher.identity.teacher_facts`).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from puma.errors import ImageError, InputError
from puma.items.item import ImageSource, Item
from puma.retriever.encoding.loop import encode_batches
from puma.retriever.encoding.states import forward_states
from puma.retriever.model import Retriever
from puma.storage.shards import KEY_BYTES, Shards
from puma.training.teacher.filling import fill
from puma.training.teacher.identity import digest, image_identity, teacher_facts

Prompt = tuple[Item, str | None]
"""An item and the instruction before it, if any."""


class FeatureStore:
    """The teacher's raw ``[RET]`` states on disk, of texts and of items with images: compute once, then train on it.

    An instance is also what training takes as ``teacher``: called with an item and its instruction it gives the
    target, or None for what was never computed. It holds on to the teacher's way of writing items out, not to its
    weights.

    A killed :meth:`compute` goes on where it was. Items differ where the prompt as written does (instruction, cut text,
    closing line) and by their image's content, so a moved or renamed image is found again.

    Args:
        folder: where the shards are; see :class:`puma.storage.shards.Shards`.
        teacher: the unpruned base as a retriever.
        autocast: the type the states are computed in; None for the weights' own.

    Raises:
        InputError: the folder holds states of another teacher; the message names what differs.

    Examples:
        >>> store = FeatureStore("teacher", Retriever.from_base(base))                     # doctest: +SKIP
        >>> store.compute(teacher, [(pair.query, pair.instruction) for pair in pairs])     # doctest: +SKIP
        >>> train(student, pairs, config, "run", teacher=store)                            # doctest: +SKIP
    """

    def __init__(
        self, folder: str | os.PathLike[str], teacher: Retriever, *, autocast: torch.dtype | None = None
    ) -> None:
        self.shards = Shards(folder, teacher_facts(teacher, autocast), teacher.dim)
        self._autocast, self._inputs = autocast, teacher.inputs
        self._images: dict[tuple[str, int, int], bytes] = {}

    def __len__(self) -> int:
        return len(self.shards)

    @property
    def dim(self) -> int:
        """Features of a state."""
        return self.shards.dim

    def key(self, item: Item, instruction: str | None = None) -> bytes:
        """An item's key: 16 bytes of its written prompt and its image's content.

        Raises:
            ImageError: the image cannot be read.
        """
        image = b"" if item.image is None else self._image(item.image)
        written = self._inputs.written([item], instruction)[0]
        return hashlib.sha256(written.encode() + b"\0" + image).digest()[:KEY_BYTES]

    def compute(
        self,
        teacher: Retriever,
        prompts: Sequence[Prompt],
        *,
        batch_size: int = 64,
        shard_size: int = 512,
        show_progress: bool = False,
    ) -> None:
        """Compute and keep what is not there yet.

        Args:
            teacher: the one that the store was opened with, or its equal.
            prompts: items with instructions; what occurs twice is computed once.
            batch_size: items a forward pass.
            shard_size: items a shard: a kill loses at most so many.

        Raises:
            InputError: another teacher; the message names what differs.
            ImageError: an image cannot be opened.
        """
        Shards(self.shards.folder, teacher_facts(teacher, self._autocast), self.shards.dim)  # compares, or raises
        unique = {self.key(item, instruction): (item, instruction) for item, instruction in prompts}

        def states(keys: Sequence[bytes]) -> np.ndarray:
            return _states(teacher, [unique[key] for key in keys], batch_size, self._autocast)

        fill(self.shards, unique, states, size=shard_size, unit="item", show_progress=show_progress)

    def states_for(self, items: Sequence[Item], instructions: Sequence[str | None] | str | None = None) -> np.ndarray:
        """The states of items, float16 [n, dim], read by memory map.

        Args:
            items: n items.
            instructions: one for all, or one an item.

        Raises:
            InputError: some were never computed.
        """
        if isinstance(instructions, str) or instructions is None:
            instructions = [instructions] * len(items)
        return self.shards.rows([self.key(*prompt) for prompt in zip(items, instructions, strict=True)])

    def __call__(self, item: Item, instruction: str | None) -> np.ndarray | None:
        """The target [dim] of an item, or None where the store has none."""
        key = self.key(item, instruction)
        return self.shards.rows([key])[0] if key in self.shards else None

    def _image(self, image: ImageSource) -> bytes:
        if not isinstance(image, (str, os.PathLike)):
            return image_identity(image)
        try:  # a step asks for the same files again and again
            status = os.stat(image)
        except OSError as error:
            raise ImageError(f"{os.fspath(image)}: cannot be read ({error.strerror})") from None
        place = (os.fspath(image), status.st_size, status.st_mtime_ns)
        if place not in self._images:
            self._images[place] = image_identity(image)
        return self._images[place]


def teacher_states(
    teacher: Retriever,
    prompts: Sequence[Prompt],
    *,
    store: str | os.PathLike[str] | None = None,
    batch_size: int = 64,
    shard_size: int = 512,
    autocast: torch.dtype | None = None,
    show_progress: bool = False,
) -> dict[str, np.ndarray]:
    """Raw ``[RET]`` states of the teacher (after its final norm, not normalised to length one), by written prompt.

    For texts, whose whole meaning is in the written prompt; :class:`FeatureStore` takes items with images too.

    Args:
        teacher: the unpruned base as a retriever; it is never trained here and no gradient is recorded.
        prompts: items with instructions; repeated prompts are computed once.
        store: a folder in which each teacher gets a :class:`FeatureStore` of its own; with it a killed run goes on
            where it was, and a later one reads instead of computing.

    Returns:
        ``{written prompt: fp16 [dim]}``.

    Raises:
        InputError: an item holds an image.
    """
    if any(item.image is not None for item, _ in prompts):
        raise InputError("teacher_states takes text items: an image is not known by its written prompt")
    unique = {teacher.inputs.written([item], instruction)[0]: (item, instruction) for item, instruction in prompts}
    pairs = list(unique.values())
    if store is None:
        return dict(zip(unique, _states(teacher, pairs, batch_size, autocast, show_progress), strict=True))
    name = digest(json.dumps(teacher_facts(teacher, autocast)).encode())
    kept = FeatureStore(Path(store) / name, teacher, autocast=autocast)
    kept.compute(teacher, pairs, batch_size=batch_size, shard_size=shard_size, show_progress=show_progress)
    states = kept.states_for([item for item, _ in pairs], [instruction for _, instruction in pairs])
    return dict(zip(unique, states, strict=True))


class PromptTargets:
    """The paper's targets: what the unpruned base makes of the very prompt that the student reads, instruction
    included.

    Args:
        teacher: the teacher; only its way of writing items out is kept.
        states: by written prompt, from :func:`teacher_states`.
    """

    def __init__(self, teacher: Retriever, states: Mapping[str, np.ndarray]) -> None:
        self._inputs, self._states, self.dim = teacher.inputs, states, teacher.dim

    def __call__(self, item: Item, instruction: str | None) -> np.ndarray | None:
        """The target [dim], or None for an item with an image or one whose state was not computed."""
        if item.image is not None:
            return None
        return self._states.get(self._inputs.written([item], instruction)[0])


class CaptionTargets:
    """Targets for texts and images in the teacher's space of texts: a text takes the unpruned base's state of itself,
    an image that of its caption, whatever the instruction.

    An extension of the paper's: a base whose vision projector is young (the mini base's is fitted in closed form) knows
    concepts by their names, and that is what the deep layers can teach about an image.

    Args:
        states: by text, raw, without instruction.
        captions: text by image path.
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
        self.dim = rows.shape[1] if len(rows) else None

    def __call__(self, item: Item, instruction: str | None) -> np.ndarray | None:
        """The target [dim]; None for what has no state, and for items with both text and image, whose meaning no
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
    """:class:`CaptionTargets` of texts and of captions by image path; ``options`` go to :func:`teacher_states`."""
    unique = list(dict.fromkeys([*texts, *(captions or {}).values()]))
    items = [Item(text=text) for text in unique]
    states = teacher_states(teacher, [(item, None) for item in items], **options)
    by_text = {text: states[teacher.inputs.written([item])[0]] for text, item in zip(unique, items, strict=True)}
    return CaptionTargets(by_text, captions, centre=centre)


def _states(
    teacher: Retriever,
    prompts: Sequence[Prompt],
    batch_size: int,
    autocast: torch.dtype | None,
    show_progress: bool = False,
) -> np.ndarray:
    """float16 [n, dim], in the order given."""
    from tqdm import tqdm

    out = np.empty((len(prompts), teacher.dim), dtype=np.float16)
    teacher.model.eval()
    batches = encode_batches(
        teacher.model,
        teacher.inputs,
        [item for item, _ in prompts],
        [instruction for _, instruction in prompts],
        batch_size=batch_size,
        forward=forward_states,
        vision=teacher.vision,
        autocast=autocast,
    )
    with tqdm(total=len(prompts), unit="item", desc="teacher", disable=not show_progress) as bar:
        for rows, _, states in batches:
            out[rows] = states.cpu().numpy()
            bar.update(len(rows))
    return out
