"""``puma doctor --mbeir``: everything that is wrong with a benchmark's folder, file by file and line by line, together.

Here: which files are looked at, and how they are compared: every published file is there; every line follows its
format; ids are unique, in each pool and in the union; local pools agree with the union; positives are in the pools;
qrels agree with the queries; every task has instructions; every image is there and can be opened. Files are read
line by line, and only numbers are kept of them: 16 bytes a candidate, 75 while a file's ids are sorted. The published
5.6 million therefore take about 410 MB at the most, and half a minute (measured: a million lines, 73 MB, 4.6 s).
Not here: the records of the outcome (:mod:`puma.data.findings`). Nothing in this module loads torch.
"""

from __future__ import annotations

import os
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
    pairs_of,
)
from puma.data.layout import DATASETS, IMAGES, INSTRUCTIONS, SPLITS, UNION_TRAIN, UNION_VAL, global_pool_path
from puma.data.plan import Part, is_published, planned, strangers
from puma.data.records import (
    TASK_MODALITIES,
    Candidate,
    Query,
    iterate_pool,
    iterate_qrels,
    iterate_queries,
    read_instructions,
)
from puma.errors import DataError, InputError

IMAGES_OPENED = 1000
"""Images that are decoded where nothing else is asked for."""
ENOUGH = 0.95
"""A published file with less than this share of the published count is noted as cut short."""
PROMPTS = 4
"""Prompts that M-BEIR gives each task."""


def examine(
    root: str | os.PathLike[str],
    *,
    splits: Sequence[str] | None = None,
    images: str | int = IMAGES_OPENED,
    say: Callable[[str], None] | None = None,
    try_on_model: TryOnModel | None = None,
) -> Findings:
    """Check a folder in M-BEIR's layout: M-BEIR itself as published, or one of its kind.

    A folder that holds any of M-BEIR's data sets is measured against all of M-BEIR's published files; another against
    what its own query files call for.

    Args:
        root: the folder that holds ``query``, ``cand_pool``, ``qrels`` and ``instructions``.
        splits: some of train, val and test; all if None.
        images: "all" opens every image, "none" looks at none, a number opens so many of them; every image's file is
            looked up, but for "none".
        say: called with a line for each file before it is read.
        try_on_model: asked about each image that is opened: raises ImageError where a model refuses it
            (:class:`puma.retriever.trying.ImageTrial`). None asks no model.

    Returns:
        What is wrong. Nothing in the folder raises.

    Raises:
        DataError: ``root`` is no folder in this layout at all.
        InputError: an unknown split, or another value of ``images``.
    """
    base = Path(root)
    unknown = sorted(set(splits or ()) - set(SPLITS))
    if unknown:
        raise InputError(f"splits must be some of {SPLITS}, got {unknown}")
    if not base.is_dir():
        raise DataError(f"{base}: no such folder; expected a benchmark in M-BEIR's layout")
    if not any((base / name).is_dir() for name in ("query", "cand_pool", "qrels")):
        raise DataError(f"{base}: holds none of query, cand_pool and qrels, so it is no benchmark in M-BEIR's layout")
    check = _Check(base, Findings(str(base)), images, say or (lambda line: None), try_on_model)
    for split in splits or SPLITS:
        check.split(split)
    check.instructions()
    check.images.finish()
    check.findings.notes += strangers(base)
    return check.findings


@dataclass
class _Asked:
    """The queries of one part: their ids, and (query, positive) pairs."""

    ids: Ids = field(default_factory=Ids)
    left: array[int] = field(default_factory=lambda: array("q"))
    right: array[int] = field(default_factory=lambda: array("q"))


class _Check:
    """One run over a folder; pools that several splits share are read once."""

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

    def split(self, split: str) -> None:
        parts = planned(self.root, split, self.published)
        if not parts:
            return
        path = global_pool_path(self.root, split)
        union = self.pool(path, None) if self.published or path.is_file() else None
        train: Ids | None = Ids()
        for part in parts:
            # M-BEIR's val union holds what the val queries need, not the local pools, which val and test share.
            whole = union if not self.published or split == "test" else None
            local = self.pool(part.pool, whole) if part.pool else None
            asked = self.queries(part, [pool for pool in (local, union) if pool is not None], local)
            self.qrels(part, asked)
            self.sizes(part, asked, local)
            if asked is None:
                train = None  # a file that is missing is one fault, not one a query that was in it
            elif train is not None and split == "train":
                for code in asked.ids.codes:
                    train.add(int(code), 0)
        if train is not None:
            train.close()
        extra = {"train": UNION_TRAIN, "val": UNION_VAL}.get(split)
        if extra and (self.published or (self.root / extra).is_file()):
            known = train if split == "train" and train else None
            self.union_queries(self.root / extra, union, known, repeated=split == "train")

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

    def queries(self, part: Part, pools: Sequence[Ids], local: Ids | None) -> _Asked | None:
        """The part's queries, whose positives must be in one of the pools, one of them in the local one."""
        name, asked, records = self.begin(part.queries), _Asked(), 0
        try:
            for line, query in iterate_queries(part.queries, Noted(self.findings, name, "the queries")):
                records += 1
                self._one_query(part, query, name, line, asked, pools, local)
        except DataError as error:
            self.unreadable(part.queries, error)
            return None
        self.end(name, asked.ids, records)
        return asked

    def _one_query(
        self, part: Part, query: Query, name: str, line: int, asked: _Asked, pools: Sequence[Ids], local: Ids | None
    ) -> None:
        code = self.code(query.qid, name, line)
        if code is None:
            return
        asked.ids.add(code, line)
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
        asked.left.extend([code] * len(codes))
        asked.right.extend(codes)
        if not query.positives:
            self.fault(MALFORMED_LINE, name, line, f"{query.qid} has no positive")
        if pools and codes:
            there = [pool.find(codes) >= 0 for pool in pools]
            # Without the published union one cannot know what is in none: that it is missing has been told.
            blind = self.published and local is not None and len(pools) < 2
            for place in () if blind else np.flatnonzero(~np.any(there, axis=0)):
                self.fault(UNKNOWN_ID, name, line, f"{query.qid} names {id_of(codes[place])}, not in the pool")
            # OVEN's and InfoSeek's positives may be the other's candidates, which only the union holds.
            if local is not None and (blind or np.any(there)) and not np.any(there[0]):
                self.fault(UNKNOWN_ID, name, line, f"{query.qid} has no positive in its local pool")

    def qrels(self, part: Part, asked: _Asked | None) -> None:
        """The judgements, which must name these queries and call their positives right, and no others; where the
        queries could not be read, their lines only."""
        if part.qrels is None:
            return
        name, left, right, records = self.begin(part.qrels), array("q"), array("q"), 0
        seen = Ids()
        try:
            for line, qid, did, grade, task in iterate_qrels(part.qrels, Noted(self.findings, name, "the qrels")):
                records += 1
                query, candidate = self.code(qid, name, line), self.code(did, name, line)
                if query is None or candidate is None:
                    continue
                seen.add(hash((query, candidate)), line)
                if part.task is not None and task not in (None, part.task):
                    self.fault(MALFORMED_LINE, name, line, f"is of task {task}, the file of {part.task}")
                if asked is not None and asked.ids.find([query])[0] < 0:
                    self.fault(UNKNOWN_ID, name, line, f"the qrels judge {qid}, which is no query")
                elif grade > 0:
                    left.append(query)
                    right.append(candidate)
        except DataError as error:
            self.unreadable(part.qrels, error)
            return
        self.findings.files += 1
        self.findings.records += records
        for _, first, line in seen.close():
            self.fault(REPEATED_ID, name, line, f"judges again the pair of line {first}")
        if asked is None:
            return
        named, judged = pairs_of(asked.left, asked.right), pairs_of(left, right)
        for only, what in ((np.setdiff1d(named, judged), "a positive"), (np.setdiff1d(judged, named), "no positive")):
            side = "the qrels do not" if what == "a positive" else "the qrels do"
            for pair in only:
                message = f"{id_of(int(pair['d']))} is {what} of {id_of(int(pair['q']))} in its query; {side} say so"
                self.fault(DISAGREEMENT, name, 0, message)

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

    def instructions(self) -> None:
        """Every task that was met must have its prompts."""
        path = self.root / INSTRUCTIONS
        self.begin(path)
        try:
            prompts = read_instructions(path)
        except DataError as error:
            self.unreadable(path, error)
            return
        self.findings.files += 1
        self.findings.records += len(prompts)
        names = {number: title for number, title in DATASETS.values()}
        for number, tasks in sorted(self.kinds.items()):
            for task in sorted(tasks & set(TASK_MODALITIES)):
                asked, wanted = TASK_MODALITIES[task]
                found = prompts.get((number, asked, wanted), [])
                whose = f"data set {number} ({names[number]})" if self.published and number in names else f"{number}"
                if not found:
                    self.fault(DISAGREEMENT, INSTRUCTIONS, 0, f"no prompts for {whose}, {asked} to {wanted}")
                elif self.published and number in names and len(found) != PROMPTS:
                    text = f"{len(found)} prompts for {whose}, {asked} to {wanted}; M-BEIR has {PROMPTS}"
                    self.findings.notes.append(f"{INSTRUCTIONS}: {text}")

    def sizes(self, part: Part, asked: _Asked | None, local: Ids | None) -> None:
        """Note published files that hold far fewer records than they should."""
        if part.known is None or not part.is_test:
            return
        for path, found, thousands in (
            (part.queries, None if asked is None else len(asked.ids), part.known.queries),
            (part.pool, None if local is None else len(local), part.known.pool),
        ):
            if path is not None and found is not None and found < ENOUGH * 1000 * thousands:
                name = self.name(path)
                self.findings.notes.append(f"{name}: {found:,} records; as published about {thousands:g} thousand")

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
