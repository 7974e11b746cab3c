"""What a check of a benchmark's folder finds: faults with file and line, counted and listed; images looked at.

Loads no torch.
"""

from __future__ import annotations

import hashlib
import heapq
import os
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from puma.data.lines import Faults
from puma.errors import ImageError, InputError
from puma.items.item import Item, open_image

LISTED = 20
"""Faults of one kind in one file that are kept word for word."""
NUMBERS = 2**40
"""Numbers of ids stay below this."""

MISSING_FILE = "missing file"
UNREADABLE_FILE = "unreadable file"
MALFORMED_LINE = "malformed line"
REPEATED_ID = "repeated id"
UNKNOWN_ID = "unknown id"
DISAGREEMENT = "disagreement between files"
MISSING_IMAGE = "missing image"
BROKEN_IMAGE = "broken image"
REFUSED_IMAGE = "image the model refuses"


TryOnModel = Callable[[Item], "str | None"]


@dataclass(frozen=True, order=True)
class Fault:
    """One thing that is wrong. ``file`` is relative to the root; ``line`` counts from 1, 0 is the whole file."""

    file: str
    line: int
    kind: str
    message: str

    def __str__(self) -> str:
        place = f"{self.file}, line {self.line}" if self.line else self.file
        return f"{place}: {self.message}"


@dataclass
class Findings:
    """What was looked at and what is wrong with it.

    Args:
        root: the folder.
        files, records: how many were read.
        images, opened: images whose presence was looked up, and those that were decoded.
        counts: all faults by kind; ``faults`` lists the first :data:`LISTED` of each kind in each file.
        notes: what is odd but may be meant; no fault.
    """

    root: str
    files: int = 0
    records: int = 0
    images: int = 0
    opened: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    faults: list[Fault] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    listed: int = LISTED
    _met: Counter[tuple[str, str]] = field(default_factory=Counter, repr=False)

    def add(self, kind: str, file: str, line: int, message: str) -> None:
        """Note a fault; word for word as long as its file has few of this kind."""
        self.counts[kind] += 1
        self._met[file, kind] += 1
        if self._met[file, kind] <= self.listed:
            self.faults.append(Fault(file, line, kind, message))

    def count_in(self, file: str, kind: str) -> int:
        """All faults of one kind in one file, listed or not."""
        return self._met[file, kind]

    @property
    def total(self) -> int:
        """All faults, listed or not."""
        return sum(self.counts.values())

    def as_json(self) -> dict[str, Any]:
        """A plain dict for JSON."""
        return {
            "root": self.root,
            "files": self.files,
            "records": self.records,
            "images": self.images,
            "opened": self.opened,
            "faults": self.total,
            "counts": dict(sorted(self.counts.items())),
            "listed": [
                {"file": one.file, "line": one.line, "kind": one.kind, "message": one.message}
                for one in sorted(self.faults)
            ],
            "notes": self.notes,
        }


class Noted(Faults):
    """The faults of one file's lines, noted among the findings."""

    def __init__(self, findings: Findings, file: str, what: str) -> None:
        super().__init__(file, what)
        self.findings = findings

    def add(self, line: int, message: str) -> None:
        self.findings.add(MALFORMED_LINE, self.path, line, message)


class Images:
    """Looks images up, and opens all of them, a fair sample, or none.

    Args:
        wanted: "all", "none" (not even looked up), or how many are opened: those whose paths hash lowest, so that the
            same folder always gives the same sample.
        try_on_model: raises ImageError for an item whose image a model refuses, and returns what it does to the image
            that its owner should know, or None; None asks no model.

    Raises:
        InputError: another value.
    """

    def __init__(
        self, root: Path, findings: Findings, wanted: str | int, try_on_model: TryOnModel | None = None
    ) -> None:
        number = int(wanted) if isinstance(wanted, int) or str(wanted).isdigit() else -1
        if wanted not in ("all", "none") and (number < 0 or isinstance(wanted, bool)):
            raise InputError(f"images must be all, none or how many are to be opened, got {wanted!r}")
        self.root, self.findings, self.try_on_model = root, findings, try_on_model
        self.noted: list[tuple[str, str]] = []  # (path, what the model does to it)
        self.off, self.every, self.most = wanted == "none", wanted == "all", max(number, 0)
        self._drawn: list[tuple[int, str, str, int]] = []  # a heap; the largest hash (negated) first
        self._paths: set[str] = set()

    def look(self, path: str | None, file: str, line: int) -> None:
        """Look one image up, as ``file`` names it in ``line``."""
        if path is None or self.off:
            return
        self.findings.images += 1
        if not os.path.isfile(self.root / path):
            self.findings.add(MISSING_IMAGE, file, line, f"shows {path}, which is missing")
        elif self.every:
            self._open(path, file, line)
        elif self.most and path not in self._paths:
            rank = -int.from_bytes(hashlib.blake2b(path.encode(), digest_size=8).digest(), "big")
            if len(self._drawn) < self.most:
                heapq.heappush(self._drawn, (rank, path, file, line))
                self._paths.add(path)
            elif rank > self._drawn[0][0]:
                self._paths.remove(heapq.heapreplace(self._drawn, (rank, path, file, line))[1])
                self._paths.add(path)

    def finish(self) -> None:
        """Open the sample, and sum up what the model does to some of the images."""
        for _, path, file, line in sorted(self._drawn, reverse=True):
            self._open(path, file, line)
        if self.noted:
            path, what = self.noted[0]
            self.findings.notes.append(f"{len(self.noted):,} of the images opened, {path} the first: {what}")

    def _open(self, path: str, file: str, line: int) -> None:
        self.findings.opened += 1
        try:
            open_image(self.root / path)
        except ImageError as error:
            reason = str(error).removeprefix(f"{self.root / path}: ")
            self.findings.add(BROKEN_IMAGE, file, line, f"shows {path}, which cannot be used: {reason}")
            return
        if self.try_on_model is None:
            return
        try:
            what = self.try_on_model(Item(image=self.root / path))
        except ImageError as error:
            reason = str(error).removeprefix(f"{self.root / path}: ")
            self.findings.add(REFUSED_IMAGE, file, line, f"shows {path}: {reason}")
            return
        if what:
            self.noted.append((path, what))


class Ids:
    """Ids with their lines and the digests of what they stand for: 20 bytes each, 16 once sorted."""

    def __init__(self) -> None:
        self._codes, self._digests, self._lines = array("q"), array("q"), array("I")
        self.codes = np.zeros(0, np.int64)  # sorted, once closed
        self.digests = np.zeros(0, np.int64)

    def __len__(self) -> int:
        return max(len(self._codes), len(self.codes))

    def add(self, code: int, line: int, digest: int = 0) -> None:
        self._codes.append(code)
        self._digests.append(digest)
        self._lines.append(line)

    def close(self) -> list[tuple[int, int, int]]:
        """Sort; ids that came again as (code, first line, other line). Only now can :meth:`find` be asked."""
        codes = np.frombuffer(self._codes, np.int64) if self._codes else np.zeros(0, np.int64)
        order = np.argsort(codes, kind="stable")
        lines = np.frombuffer(self._lines, np.uint32)[order] if self._codes else np.zeros(0, np.uint32)
        codes = codes[order]
        digests = np.frombuffer(self._digests, np.int64)[order] if self._codes else np.zeros(0, np.int64)
        fresh = np.ones(len(codes), bool)
        fresh[1:] = codes[1:] != codes[:-1]
        starts = np.flatnonzero(fresh)
        again = np.flatnonzero(~fresh)
        firsts = starts[np.searchsorted(starts, again, side="right") - 1]
        repeated = [(int(codes[a]), int(lines[f]), int(lines[a])) for a, f in zip(again, firsts, strict=True)]
        self.codes, self.digests = codes[fresh], digests[fresh]
        self._codes, self._digests, self._lines = array("q"), array("q"), array("I")
        return repeated

    def find(self, codes: Sequence[int] | np.ndarray) -> np.ndarray:
        """Where each id is among the sorted ones; -1 where it is not. int64 [n]."""
        wanted = np.asarray(codes, np.int64)
        places = np.searchsorted(self.codes, wanted)
        inside = places < len(self.codes)
        good = np.zeros(len(wanted), bool)
        good[inside] = self.codes[places[inside]] == wanted[inside]
        return np.where(good, places, -1)


def code_of(identity: str) -> int | None:
    """An id as one number; None where it is too large for that."""
    dataset, _, number = identity.partition(":")
    left, right = int(dataset), int(number)
    return left * NUMBERS + right if right < NUMBERS and left < 2**22 else None


def id_of(code: int) -> str:
    """The id that :func:`code_of` made the number of."""
    return f"{code // NUMBERS}:{code % NUMBERS}"


def pairs_of(left: Iterable[int], right: Iterable[int]) -> np.ndarray:
    """Pairs of numbers, each once, in order: structured int64 fields ``q`` and ``d``."""
    q, d = np.fromiter(left, np.int64), np.fromiter(right, np.int64)
    pairs = np.empty(len(q), [("q", np.int64), ("d", np.int64)])
    pairs["q"], pairs["d"] = q, d
    return np.unique(pairs)
