"""M-BEIR's records and the reading of their files: queries, candidates, qrels, instructions, with every fault named.

Loads no torch.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from puma.data.lines import ID, MODALITY_OF, Faults, Fields, SkippedLines, lines, objects, shown
from puma.items.item import IMAGE, IMAGE_TEXT, TEXT, Item
from puma.items.skips import Skip

TASKS: dict[tuple[str, str], int] = {
    (TEXT, IMAGE): 0,
    (TEXT, TEXT): 1,
    (TEXT, IMAGE_TEXT): 2,
    (IMAGE, TEXT): 3,
    (IMAGE, IMAGE): 4,
    (IMAGE_TEXT, TEXT): 6,
    (IMAGE_TEXT, IMAGE): 7,
    (IMAGE_TEXT, IMAGE_TEXT): 8,
}
"""Task id by (query modality, candidate modality). 5 (image to image,text) is numbered in M-BEIR but unused."""
TASK_MODALITIES: dict[int, tuple[str, str]] = {task: pair for pair, task in TASKS.items()}
Record = TypeVar("Record")


@dataclass(frozen=True, slots=True)
class Query:
    """One line of a query file. ``image_path`` is relative to the root; ``src`` is ``query_src_content`` as stored (in
    M-BEIR a JSON string). ``task_id`` is None where neither the file nor the modalities tell it."""

    qid: str
    text: str | None
    image_path: str | None
    modality: str
    positives: tuple[str, ...] = ()
    negatives: tuple[str, ...] = ()
    task_id: int | None = None
    src: str | None = None

    def item(self, root: str | os.PathLike[str]) -> Item:
        """The query as an Item, its image named by a path under ``root``."""
        return _item(self.text, self.image_path, root)


@dataclass(frozen=True, slots=True)
class Candidate:
    """One line of a candidate pool. ``image_path`` is relative to the root; ``src`` is ``src_content`` as stored."""

    did: str
    text: str | None
    image_path: str | None
    modality: str
    src: str | None = None

    def item(self, root: str | os.PathLike[str]) -> Item:
        """The candidate as an Item, its image named by a path under ``root``."""
        return _item(self.text, self.image_path, root)


def _item(text: str | None, image_path: str | None, root: str | os.PathLike[str]) -> Item:
    return Item(text=text, image=None if image_path is None else Path(root) / image_path)


def _unique(
    records: Iterator[tuple[int, Record]], identity: Callable[[Record], str], faults: Faults, repeated: bool = False
) -> list[Record]:
    kept: list[Record] = []
    seen: dict[str, int] = {}
    for number, record in records:
        name = identity(record)
        if name in seen and not repeated:
            faults.add(number, f"the id {name} was already used in line {seen[name]}")
            continue
        seen[name] = number
        kept.append(record)
    faults.check()
    return kept


def iterate_queries(path: str | os.PathLike[str], faults: Faults) -> Iterator[tuple[int, Query]]:
    """The good queries of a file with their line numbers, one at a time; ids are not compared. Faults go to ``faults``.

    Raises:
        DataError: there is no such file, or it cannot be read.
    """
    for fields in objects(path, faults):
        query = _query(fields)
        if fields.good:
            yield fields.line, query


def iterate_pool(path: str | os.PathLike[str], faults: Faults) -> Iterator[tuple[int, Candidate]]:
    """The good candidates of a file, as :func:`iterate_queries`."""
    for fields in objects(path, faults):
        candidate = _candidate(fields)
        if fields.good:
            yield fields.line, candidate


def iterate_qrels(path: str | os.PathLike[str], faults: Faults) -> Iterator[tuple[int, str, str, int, int | None]]:
    """The good lines of a file of judgements: (line, qid, did, grade, task id or None), as :func:`iterate_queries`."""
    for number, line in lines(path, faults):
        parts = line.split()
        if len(parts) not in (4, 5):
            faults.add(number, f"must have 5 columns (qid 0 did grade task), got {len(parts)}: {line[:60]!r}")
            continue
        whole = [re.fullmatch(r"-?\d+", part) for part in parts[3:]]
        if not (ID.fullmatch(parts[0]) and ID.fullmatch(parts[2]) and all(whole)):
            faults.add(number, f'must be "<qid> 0 <did> <whole-number grade> <task>", got {line[:60]!r}')
            continue
        yield number, parts[0], parts[2], int(parts[3]), int(parts[4]) if len(parts) == 5 else None


def _query(fields: Fields) -> Query:
    text, image = fields.text("query_txt"), fields.image("query_img_path")
    task = fields.value.get("task_id")
    if task is not None and (isinstance(task, bool) or task not in (*TASK_MODALITIES, 5)):
        fields.fault(f"task_id must be one of {sorted(TASK_MODALITIES)}, got {shown(task)}")
    return Query(
        qid=fields.identity("qid"),
        text=text,
        image_path=image,
        modality=fields.modality("query_modality", text, image),
        positives=fields.identities("pos_cand_list"),
        negatives=fields.identities("neg_cand_list", repeats=True),
        task_id=task,
        src=fields.source("query_src_content"),
    )


def _candidate(fields: Fields) -> Candidate:
    text, image = fields.text("txt"), fields.image("img_path")
    return Candidate(
        did=fields.identity("did"),
        text=text,
        image_path=image,
        modality=fields.modality("modality", text, image),
        src=fields.source("src_content"),
    )


def _faults(path: str | os.PathLike[str], what: str, skips: list[Skip] | None) -> Faults:
    return Faults(path, what) if skips is None else SkippedLines(path, what, skips)


def read_queries(
    path: str | os.PathLike[str], *, repeated: bool = False, skips: list[Skip] | None = None
) -> list[Query]:
    """Read a query file.

    Args:
        repeated: a query may occur several times, as in the upsampled union.
        skips: if given, faulty lines are left out and added to it.

    Raises:
        DataError: the file is missing, or has faults and there is no ``skips``; the message names each line (the first
            20).
    """
    faults = _faults(path, "the queries", skips)
    return _unique(iterate_queries(path, faults), lambda query: query.qid, faults, repeated)


def read_pool(path: str | os.PathLike[str], *, skips: list[Skip] | None = None) -> list[Candidate]:
    """Read a candidate pool. ``skips`` and DataError as :func:`read_queries`; a did that occurs twice is a fault."""
    faults = _faults(path, "the candidate pool", skips)
    return _unique(iterate_pool(path, faults), lambda candidate: candidate.did, faults)


def read_qrels(path: str | os.PathLike[str], task: int | None = None) -> dict[str, dict[str, int]]:
    """Read relevance judgements: {qid: {did: grade}}. Grades of 0 are kept. Four columns (TREC) are taken, too.

    Args:
        task: only the lines of this task id, in a file that says it (M-BEIR's train files hold several).

    Raises:
        DataError: as :func:`read_queries`; a pair judged twice is a fault.
    """
    faults = Faults(path, "the qrels")
    qrels: dict[str, dict[str, int]] = {}
    for number, qid, did, grade, own in iterate_qrels(path, faults):
        if task is not None and own not in (None, task):
            continue
        if did in qrels.get(qid, {}):
            faults.add(number, f"judges query {qid} and candidate {did} a second time")
        else:
            qrels.setdefault(qid, {})[did] = grade
    faults.check()
    return qrels


def read_instructions(
    path: str | os.PathLike[str], *, skips: list[Skip] | None = None
) -> dict[tuple[int, str, str], list[str]]:
    """Read query instructions: {(data set's number, query modality, candidate modality): prompts}. The first line is a
    header, and empty prompts are left out, as M-BEIR's own reader does.

    Raises:
        DataError: as :func:`read_queries`, which also says what ``skips`` is.
    """
    faults = _faults(path, "the instructions", skips)
    prompts: dict[tuple[int, str, str], list[str]] = {}
    for position, (number, line) in enumerate(lines(path, faults)):
        if position == 0:
            continue
        parts = [part.strip() for part in line.split("\t")]
        query_modality, wanted = (MODALITY_OF.get(part) for part in (*parts, "", "")[:2])
        if len(parts) < 5 or not parts[3].isdigit() or query_modality is None or wanted is None:
            faults.add(number, "must be: query modality, candidate modality, name, number, prompts, split by tabs")
            continue
        found = [part for part in parts[4:] if part]
        if not found:
            faults.add(number, "has no prompt")
        key = (int(parts[3]), query_modality, wanted)
        if key in prompts:
            faults.add(number, f"gives the prompts of data set {key[0]}, {key[1]} to {key[2]}, a second time")
            continue
        prompts[key] = found
    faults.check()
    return prompts
