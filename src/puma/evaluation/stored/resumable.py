"""Embedding that goes on after a kill and is shared between processes, as evaluate, mine and embed do it.

Items are cut into parts of a fixed number. A part is embedded as a whole, by one process, and kept; so its vectors are
the same bits whoever made it and whatever was interrupted before. Loads no torch.
"""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from puma.errors import InputError
from puma.evaluation.processes import first_does, processes, wait
from puma.items.encoder import BATCH, Batch, Encoder, embed_batches
from puma.items.fetching import fetched
from puma.items.item import Item
from puma.items.objects import ObjectPath
from puma.storage.vectors import Group, VectorStore

FORMAT = 1
"""Raised whenever the same items would get other vectors than before."""

GPU_PART = 1024

Found = tuple[np.ndarray, np.ndarray, list[tuple[int, str]]]
"""Vectors [n, dim], which items could be embedded [n], and (position, reason) of the others."""


@dataclass(frozen=True)
class Wanted:
    """Items to embed under one name.

    Args:
        name: of the folder; letters, digits, dots, dashes and underscores.
        items: what is embedded; asked for when it is needed.
        size: how many they are.
        instruction: goes before every item.
        label: of the progress bar.
    """

    name: str
    items: Callable[[], Sequence[Item]]
    size: int
    instruction: str | None = None
    label: str = "embedding"


@dataclass(frozen=True)
class Work:
    """Where vectors are kept while they are made.

    Args:
        folder: their place; None for one beside the result.
        resume: False throws away what an interrupted run left there.
        say: gets a line on how many vectors were there already.
    """

    folder: str | os.PathLike[str] | None = None
    resume: bool = True
    say: Callable[[str], None] | None = None


class Resumable:
    """Embeds lists of items through an encoder into a store.

    Args:
        encoder: embeds a part.
        store: an open one; every process has its own on the same folder.
        batch_size: items of a part: what a kill costs, and what the encoder gets at once.
        progress: whether bars go to stderr.
    """

    def __init__(self, encoder: Encoder, store: VectorStore, *, batch_size: int = BATCH, progress: bool = True) -> None:
        self.encoder, self.store, self.batch_size, self.progress = encoder, store, batch_size, progress
        self._checked: dict[str, set[int]] = {}

    def share(self, every: Sequence[Wanted]) -> None:
        """Embed this process's share of all lists, and wait for the others."""
        rank, world = processes()
        open_parts = [self._open_parts(wanted, wanted.items()) for wanted in every]
        wait()  # nobody writes before everybody has seen what is there: the shares are cut from one list
        before = 0
        for wanted, parts in zip(every, open_parts, strict=True):
            self._embed(wanted, wanted.items(), parts[(rank - before) % world :: world])
            before += len(parts)
        wait()

    def embedded(self, wanted: Wanted) -> Found:
        """The vectors of a list, a memory map; what is missing of them is embedded here."""
        items = wanted.items()
        group = self._group(wanted)
        group.reload()
        self._embed(wanted, items, self._open_parts(wanted, items))
        readable = np.ones(wanted.size, dtype=bool)
        faults = sorted(
            fault
            for part, finished in group.finished.items()
            if part * self.batch_size < wanted.size
            for fault in finished.faults
        )
        readable[[place for place, _ in faults]] = False
        return group.matrix(), readable, faults

    def _group(self, wanted: Wanted) -> Group:
        return self.store.group(wanted.name, wanted.size, self.encoder.dim)

    def _open_parts(self, wanted: Wanted, items: Sequence[Item]) -> list[int]:
        group, checked = self._group(wanted), self._checked.setdefault(wanted.name, set())
        for part, finished in group.finished.items():
            if part in checked or part * self.batch_size >= wanted.size:
                continue
            # What this run made is trusted; of what was there before, the items are compared once.
            if finished.run >= group.run or finished.digest == _digest(self._of(items, part), wanted.instruction):
                checked.add(part)
        return [part for part in range(-(-wanted.size // self.batch_size)) if part not in checked]

    def _of(self, items: Sequence[Item], part: int) -> Sequence[Item]:
        return items[part * self.batch_size : (part + 1) * self.batch_size]

    def _embed(self, wanted: Wanted, items: Sequence[Item], parts: Sequence[int]) -> None:
        if not parts:
            return
        group = self._group(wanted)
        total = sum(len(self._of(items, part)) for part in parts)
        hidden = not self.progress or processes()[0] > 0
        with tqdm(total=total, desc=wanted.label, unit="item", disable=hidden, smoothing=0.1) as bar:
            drawn: deque[tuple[int, str]] = deque()

            def batches() -> Iterator[Batch]:
                for part in parts:
                    own = self._of(items, part)
                    # The digest before its images are read: a later change is noticed.
                    drawn.append((part, _digest(own, wanted.instruction)))
                    yield fetched(own), wanted.instruction

            for vectors, _, faults in embed_batches(self.encoder, batches()):
                part, digest = drawn.popleft()
                start = part * self.batch_size
                group.write(part, start, vectors, digest, [(start + place, reason) for place, reason in faults])
                bar.update(len(vectors))


def part_size(encoder: Any) -> int:
    """Items of a part: more where a model is on a GPU, which each end of a part keeps waiting for its next images."""
    return GPU_PART if encoder_settings(encoder).get("device") == "cuda" else BATCH


def made_with(encoder: Encoder, batch_size: int, **more: Any) -> dict[str, Any]:
    """What vectors depend on beside the items: for :class:`puma.storage.vectors.VectorStore`."""
    return {"format": FORMAT, "model": encoder.fingerprint, "dim": encoder.dim, "batch": batch_size} | {
        **encoder_settings(encoder),
        **more,
    }


def encoder_settings(encoder: Any) -> dict[str, str]:
    """Number type, attention and kind of device of an encoder around a torch model; empty for another one."""
    settings = getattr(encoder, "settings", None)
    if isinstance(settings, dict):  # of an encoder that is elsewhere
        return dict(settings)
    model = getattr(encoder, "model", None)
    parameters = getattr(model, "parameters", None)
    first = next(iter(parameters()), None) if callable(parameters) else None
    if first is None:
        return {}
    config = getattr(model, "config", None)
    return {
        "number type": str(first.dtype),
        "autocast": str(getattr(encoder, "autocast", None)),
        "attention": str(getattr(config, "_attn_implementation", None)),
        "device": str(first.device.type),
    }


@contextmanager
def opened_store(
    base: str | os.PathLike[str], name: str, values: Mapping[str, Any], work: Work | None = None
) -> Iterator[VectorStore]:
    """The store in ``base``, or in the folder that ``work`` names, for these values; open on all processes.

    Raises:
        InputError: another run is at work in it. StorageError: the folder cannot be written.
    """
    chosen = work or Work()
    rank, _ = processes()
    store = VectorStore.below(Path(chosen.folder or base), name, values, process=rank)

    def begin() -> None:
        store.open()
        if not chosen.resume:
            store.clear()
        rows = store.kept_rows()
        if rows and chosen.say is not None:
            chosen.say(f"{rows:,} vectors were there already ({store.folder}); going on from there")

    first_does(begin)
    try:
        yield store
    finally:
        store.close()


def _digest(items: Sequence[Item], instruction: str | None) -> str:
    """64 bits of the items' texts, and of their image files' paths, lengths and times."""
    digest = hashlib.sha256((instruction or "").encode() + b"\0")
    for item in items:
        digest.update(b"t" + (item.text or "").encode("utf-8", "surrogatepass") + b"\0")
        image = item.image
        if image is None:
            continue
        if isinstance(image, ObjectPath):  # as it was listed or read: no further request for each
            digest.update(b"o" + f"{image} {image.version}".encode() + b"\0")
        elif isinstance(image, (str, os.PathLike)):
            try:
                about = os.stat(image)
                state = f"{os.fspath(image)} {about.st_size} {about.st_mtime_ns}"
            except (OSError, ValueError):
                state = f"{os.fspath(image)} is missing"
            digest.update(b"f" + state.encode("utf-8", "surrogateescape") + b"\0")
        elif isinstance(image, bytes):
            digest.update(b"b" + hashlib.sha256(image).digest())
        else:
            pixels = np.asarray(image)
            digest.update(b"p" + str(pixels.shape).encode() + hashlib.sha256(pixels.tobytes()).digest())
    return digest.hexdigest()[:16]


def safe_name(text: str) -> str:
    """A folder's name of a task's label or a subset.

    Raises:
        InputError: nothing of it is left.
    """
    name = "".join(letter if letter.isalnum() or letter in "._-" else "_" for letter in text).strip(".")
    if not name:
        raise InputError(f"no folder can be named after {text!r}")
    return name
