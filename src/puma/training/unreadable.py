"""The list of a training's pairs whose images cannot be used: each written once, and too many of them end the run."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock

from puma.errors import DataError, InputError
from puma.items.item import Item
from puma.retriever.inputs import Inputs, why_unusable
from puma.storage.folders import storage_errors
from puma.training.collating import CANDIDATE_IMAGE, HARD_NEGATIVE, QUERY_IMAGE
from puma.training.pairs import Pair

FILE = "unreadable.jsonl"
FEWEST = 20
"""So many pairs may be unreadable whatever share of the data they are, unless none may be."""
PARTS = {QUERY_IMAGE: "query image", CANDIDATE_IMAGE: "candidate image", HARD_NEGATIVE: "hard negative"}


class Unreadable:
    """Counts and lists the pairs that :class:`puma.training.collating.PairCollator` could not use.

    ``unreadable.jsonl`` in the run's folder has a line for each: row, part, query's id, what the images are, the
    reason. It is on disk when :meth:`add` returns, is read again when a run goes on after a kill, and may be shared by
    several processes, whose limit is one.

    Args:
        folder: the run's.
        pairs: all pairs of the run.
        max_share: the most of all pairs that may be unreadable, in [0, 1]. Below :data:`FEWEST` pairs a run goes on
            whatever share they are; 0 ends it at the first.
        inputs: the model's, so that an image which only its processor refuses has its reason, too.

    Raises:
        InputError: ``max_share`` is not in [0, 1].
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        pairs: Sequence[Pair],
        max_share: float = 0.01,
        inputs: Inputs | None = None,
    ) -> None:
        if not 0 <= max_share <= 1:
            raise InputError(f"max_unreadable={max_share!r}: give a share of all pairs, from 0 to 1")
        self.path, self.pairs, self.max_share, self.inputs = Path(folder) / FILE, pairs, max_share, inputs
        self.limit = max(FEWEST, int(max_share * len(pairs))) if max_share else 0
        """Pairs that may be unreadable."""
        self._listed: set[tuple[int, int]] = set()
        self._end = 0
        self._read()

    @property
    def count(self) -> int:
        """Different pairs with an image that cannot be used, in this run and before it was interrupted."""
        return len({row for row, _ in self._listed})

    def add(self, replaced: Iterable[Sequence[int]]) -> int:
        """List what is new among these.

        Args:
            replaced: (row, which) each, as a batch carries them (:data:`puma.losses.batch_keys.REPLACED`): a list or a
                tensor [m, 2].

        Returns:
            How many lines were added.

        Raises:
            DataError: more pairs are unreadable than may be.
        """
        given = replaced.tolist() if hasattr(replaced, "tolist") else replaced
        met = [(int(row), int(which)) for row, which in given]
        new = self._write(met) if any(entry not in self._listed for entry in met) else 0
        if met and self.count > self.limit:
            raise DataError(
                f"{self.count:,} of {len(self.pairs):,} training pairs ({self.count / len(self.pairs):.2%}) have an "
                f"image that cannot be used, over the limit of {self.limit:,} (max_unreadable={self.max_share:g}); "
                f"{self.path} lists them with the reasons: mend the images and remove that file, or raise "
                "max_unreadable"
            )
        return new

    def _write(self, met: Sequence[tuple[int, int]]) -> int:
        with storage_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
        with storage_errors(self.path), FileLock(f"{self.path}.lock"):
            self._read()  # what other processes wrote since
            new = [entry for entry in dict.fromkeys(met) if entry not in self._listed]
            lines = b"".join(json.dumps(self._entry(*entry)).encode() + b"\n" for entry in new)
            with open(self.path, "ab") as stream:
                stream.truncate(self._end)  # a line that a kill cut off
                stream.write(lines)
                stream.flush()
                os.fsync(stream.fileno())
            self._end += len(lines)
            self._listed.update(new)
        return len(new)

    def _read(self) -> None:
        if not self.path.is_file():
            return
        with open(self.path, "rb") as stream:
            stream.seek(self._end)
            data = stream.read()
        whole = data[: data.rfind(b"\n") + 1]
        parts = {name: which for which, name in PARTS.items()}
        for line in whole.splitlines():
            try:
                found = json.loads(line)
                self._listed.add((int(found["row"]), parts[found["part"]]))
            except (ValueError, KeyError, TypeError):
                raise DataError(
                    f"{self.path}: holds a line that is none of its own: {line[:60]!r}; remove the file"
                ) from None
        self._end += len(whole)

    def _entry(self, row: int, which: int) -> dict[str, Any]:
        pair = self.pairs[row]
        items: list[tuple[str, Item]] = {
            QUERY_IMAGE: [(pair.query_id, pair.query)],
            CANDIDATE_IMAGE: [(pair.candidate_id, pair.candidate)],
            HARD_NEGATIVE: list(pair.negatives),
        }[which]
        reasons = {identity: self._reason(item) for identity, item in items}
        wrong = [identity for identity, reason in reasons.items() if reason]
        return {
            "row": row,
            "part": PARTS[which],
            "task": pair.task,
            "query": pair.query_id,
            "ids": wrong or list(reasons),
            "reason": "; ".join(filter(None, reasons.values())) or "could be read when it was looked at again",
        }

    def _reason(self, item: Item) -> str | None:
        return why_unusable(None, item) or (why_unusable(self.inputs, item) if self.inputs is not None else None)
