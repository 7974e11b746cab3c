"""``puma doctor --mbeir``: everything that is wrong with a benchmark's folder, file by file and line by line, together.

Checked: every published file is there; every line follows its format; ids are unique, in each pool and in the union;
local pools agree with the union; positives are in the pools; qrels agree with the queries; every task has instructions;
every image is there and can be opened. Files are read line by line, and only numbers are kept of them: 16 bytes a
candidate, 75 while a file's ids are sorted. The published 5.6 million therefore take about 410 MB at the most, and half
a minute (measured: a million lines, 73 MB, 4.6 s). Loads no torch.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from puma.data.file_checks import FileChecks, PartQueries
from puma.data.findings import (
    DISAGREEMENT,
    MALFORMED_LINE,
    REPEATED_ID,
    UNKNOWN_ID,
    Findings,
    Ids,
    Noted,
    TryOnModel,
    id_of,
    pairs_of,
)
from puma.data.layout import DATASETS, INSTRUCTIONS, SPLITS, UNION_TRAIN, UNION_VAL, folder_fault, global_pool_path
from puma.data.plan import Part, planned, strangers
from puma.data.records import TASK_MODALITIES, iterate_qrels, read_instructions
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
            (:class:`puma.retriever.images.trying.ImageTrial`). None asks no model.

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
    if fault := folder_fault(base):
        raise DataError(fault)
    if not any((base / name).is_dir() for name in ("query", "cand_pool", "qrels")):
        raise DataError(f"{base}: holds none of query, cand_pool and qrels, so it is no benchmark in M-BEIR's layout")
    check = _FolderCheck(base, Findings(str(base)), images, say or (lambda line: None), try_on_model)
    for split in splits or SPLITS:
        check.split(split)
    check.instructions()
    check.images.finish()
    check.findings.notes += strangers(base)
    return check.findings


class _FolderCheck(FileChecks):
    """One check of a folder: its files one by one, and against each other."""

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
            part_queries = self.queries(part, [pool for pool in (local, union) if pool is not None], local)
            self.qrels(part, part_queries)
            self.sizes(part, part_queries, local)
            if part_queries is None:
                train = None  # a file that is missing is one fault, not one a query that was in it
            elif train is not None and split == "train":
                for code in part_queries.ids.codes:
                    train.add(int(code), 0)
        if train is not None:
            train.close()
        extra = {"train": UNION_TRAIN, "val": UNION_VAL}.get(split)
        if extra and (self.published or (self.root / extra).is_file()):
            known = train if split == "train" and train else None
            self.union_queries(self.root / extra, union, known, repeated=split == "train")

    def qrels(self, part: Part, part_queries: PartQueries | None) -> None:
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
                if part_queries is not None and part_queries.ids.find([query])[0] < 0:
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
        if part_queries is None:
            return
        named, judged = pairs_of(part_queries.left, part_queries.right), pairs_of(left, right)
        for only, what in ((np.setdiff1d(named, judged), "a positive"), (np.setdiff1d(judged, named), "no positive")):
            side = "the qrels do not" if what == "a positive" else "the qrels do"
            for pair in only:
                message = f"{id_of(int(pair['d']))} is {what} of {id_of(int(pair['q']))} in its query; {side} say so"
                self.fault(DISAGREEMENT, name, 0, message)

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
                query_modality, wanted = TASK_MODALITIES[task]
                found = prompts.get((number, query_modality, wanted), [])
                whose = f"data set {number} ({names[number]})" if self.published and number in names else f"{number}"
                if not found:
                    self.fault(DISAGREEMENT, INSTRUCTIONS, 0, f"no prompts for {whose}, {query_modality} to {wanted}")
                elif self.published and number in names and len(found) != PROMPTS:
                    text = f"{len(found)} prompts for {whose}, {query_modality} to {wanted}; M-BEIR has {PROMPTS}"
                    self.findings.notes.append(f"{INSTRUCTIONS}: {text}")

    def sizes(self, part: Part, part_queries: PartQueries | None, local: Ids | None) -> None:
        """Note published files that hold far fewer records than they should."""
        if part.known is None or not part.is_test:
            return
        for path, found, thousands in (
            (part.queries, None if part_queries is None else len(part_queries.ids), part.known.queries),
            (part.pool, None if local is None else len(local), part.known.pool),
        ):
            if path is not None and found is not None and found < ENOUGH * 1000 * thousands:
                name = self.name(path)
                self.findings.notes.append(f"{name}: {found:,} records; as published about {thousands:g} thousand")
