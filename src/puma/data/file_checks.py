"""Checks of single files of a benchmark's folder: a candidate pool, a task's queries, the union's queries.

Loads no torch.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from puma.data.findings import (
    DISAGREEMENT,
    MALFORMED_LINE,
    MISSING_FILE,
    REPEATED_ID,
    UNKNOWN_ID,
    UNREADABLE_FILE,
    Findings,
    Ids,
    Images,
    Noted,
    TryOnModel,
    code_of,
    id_of,
)
from puma.data.layout import IMAGES
from puma.data.plan import Part, is_published
from puma.data.records import TASK_MODALITIES, Candidate, Query, iterate_pool, iterate_queries
from puma.errors import DataError


@dataclass
class PartQueries:
    """The queries of one part: their ids, and (query, positive) pairs."""

    ids: Ids = field(default_factory=Ids)
    left: array[int] = field(default_factory=lambda: array("q"))
    right: array[int] = field(default_factory=lambda: array("q"))


class FileChecks:
    """Reads the files of one folder; pools that several splits share are read once."""

    def __init__(
        self,
        root: Path,
        findings: Findings,
        images: str | int,
        say: Callable[[str], None],
        try_on_model: TryOnModel | None,
    ) -> None:
        self.root, self.findings, self.say = root, findings, say
        self.published = is_published(root)
        self.images = Images(root, findings, images, try_on_model)
        if self.published and not self.images.off and not (root / IMAGES).is_dir():
            self.fault(MISSING_FILE, IMAGES, 0, f"no such folder; unpack {IMAGES}.tar.gz.part-* into the root")
            self.images.off = True
        self.pools: dict[Path, Ids | None] = {}
        self.kinds: dict[int, set[int]] = {}  # tasks met, by data set's number

    def fault(self, kind: str, file: str, line: int, message: str) -> None:
        self.findings.add(kind, file, line, message)

    def pool(self, path: Path, union: Ids | None) -> Ids | None:
        """The pool's ids, each of which must be the same candidate in the union, if there is one."""
        if path in self.pools:
            return self.pools[path]
        name, ids = self.begin(path), Ids()
        records = 0
        try:
            for line, candidate in iterate_pool(path, Noted(self.findings, name, "the candidate pool")):
                records += 1
                code = self.code(candidate.did, name, line)
                if code is None:
                    continue
                digest = _digest(candidate)
                ids.add(code, line, digest)
                place = int(union.find([code])[0]) if union is not None else -1
                if union is not None and place < 0:
                    self.fault(DISAGREEMENT, name, line, f"{candidate.did} is not in the global pool")
                elif union is not None and union.digests[place] != digest:
                    self.fault(
                        DISAGREEMENT, name, line, f"{candidate.did} is not the same candidate in the global pool"
                    )
                if union is None or place < 0 or union.digests[place] != digest:  # else it was looked up there
                    self.images.look(candidate.image_path, name, line)
        except DataError as error:
            self.unreadable(path, error)
            self.pools[path] = None
            return None
        self.end(name, ids, records)
        self.pools[path] = ids
        return ids

    def queries(self, part: Part, pools: Sequence[Ids], local: Ids | None) -> PartQueries | None:
        """The part's queries, whose positives must be in one of the pools, one of them in the local one."""
        name, part_queries, records = self.begin(part.queries), PartQueries(), 0
        try:
            for line, query in iterate_queries(part.queries, Noted(self.findings, name, "the queries")):
                records += 1
                self._one_query(part, query, name, line, part_queries, pools, local)
        except DataError as error:
            self.unreadable(part.queries, error)
            return None
        self.end(name, part_queries.ids, records)
        return part_queries

    def _one_query(
        self,
        part: Part,
        query: Query,
        name: str,
        line: int,
        part_queries: PartQueries,
        pools: Sequence[Ids],
        local: Ids | None,
    ) -> None:
        code = self.code(query.qid, name, line)
        if code is None:
            return
        part_queries.ids.add(code, line)
        task = query.task_id if part.task is None else part.task
        if task is None:
            self.fault(MALFORMED_LINE, name, line, f"{query.qid} has no task_id, and the file's name tells none")
        elif query.task_id not in (None, task):
            self.fault(MALFORMED_LINE, name, line, f"{query.qid} has task_id {query.task_id}, the file is of {task}")
        elif query.modality != TASK_MODALITIES.get(task, (query.modality,))[0]:
            wanted = TASK_MODALITIES[task][0]
            self.fault(MALFORMED_LINE, name, line, f"{query.qid} is {query.modality!r}, task {task} asks by {wanted!r}")
        if task is not None:
            self.kinds.setdefault(int(query.qid.partition(":")[0]), set()).add(task)
        self.images.look(query.image_path, name, line)
        codes = [found for did in query.positives if (found := self.code(did, name, line)) is not None]
        part_queries.left.extend([code] * len(codes))
        part_queries.right.extend(codes)
        if not query.positives:
            self.fault(MALFORMED_LINE, name, line, f"{query.qid} has no positive")
        if pools and codes:
            there = [pool.find(codes) >= 0 for pool in pools]
            # Without the published union one cannot know what is in none: that it is missing has been reported.
            blind = self.published and local is not None and len(pools) < 2
            for place in () if blind else np.flatnonzero(~np.any(there, axis=0)):
                self.fault(UNKNOWN_ID, name, line, f"{query.qid} names {id_of(codes[place])}, not in the pool")
            # OVEN's and InfoSeek's positives may be the other's candidates, which only the union holds.
            if local is not None and (blind or np.any(there)) and not np.any(there[0]):
                self.fault(UNKNOWN_ID, name, line, f"{query.qid} has no positive in its local pool")

    def union_queries(self, path: Path, union: Ids | None, known: Ids | None, *, repeated: bool) -> None:
        """M-BEIR's queries of all data sets in one file, upsampled or not."""
        name, ids, records = self.begin(path), Ids(), 0
        try:
            for line, query in iterate_queries(path, Noted(self.findings, name, "the queries")):
                records += 1
                code = self.code(query.qid, name, line)
                if code is None:
                    continue
                if not repeated:
                    ids.add(code, line)
                if known is not None and known.find([code])[0] < 0:
                    self.fault(UNKNOWN_ID, name, line, f"{query.qid} is in none of the split's query files")
                codes = [found for did in query.positives if (found := self.code(did, name, line)) is not None]
                for place in np.flatnonzero(union.find(codes) < 0) if union is not None else ():
                    self.fault(UNKNOWN_ID, name, line, f"{query.qid} names {id_of(codes[place])}, not in the pool")
        except DataError as error:
            self.unreadable(path, error)
            return
        self.end(name, ids, records)

    def name(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()

    def begin(self, path: Path) -> str:
        name = self.name(path)
        self.say(name)
        return name

    def end(self, name: str, ids: Ids, records: int) -> None:
        self.findings.files += 1
        self.findings.records += records
        for code, first, line in ids.close():
            self.fault(REPEATED_ID, name, line, f"the id {id_of(code)} was already used in line {first}")

    def unreadable(self, path: Path, error: DataError) -> None:
        kind = UNREADABLE_FILE if path.exists() else MISSING_FILE
        self.fault(kind, self.name(path), 0, str(error).removeprefix(f"{path}: "))

    def code(self, identity: str, name: str, line: int) -> int | None:
        code = code_of(identity)
        if code is None:
            self.fault(MALFORMED_LINE, name, line, f"the id {identity} is too large")
        return code


def _digest(candidate: Candidate) -> int:
    """Equal for equal candidates, within this process; ``src_content`` aside, which nothing uses."""
    return hash((candidate.text, candidate.image_path, candidate.modality))
