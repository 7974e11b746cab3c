"""A table of pairs as a benchmark in M-BEIR's layout, for everything that reads one: recipes, the depth probe, hard
negatives, evaluations. Loads no torch.

The layout has instructions of data sets, not of rows. So rows with the same instruction make a data set: ``pairs_001``,
``pairs_002``, ... The held-out halves are the splits val and test; both are searched in all held-out positives.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from puma.data.layout import (
    IMAGES,
    global_pool_path,
    instructions_path,
    pool_path,
    qrels_path,
    query_path,
    shared_pool_path,
)
from puma.data.pair_tables import PairTable
from puma.data.records import TASKS, Candidate, Query
from puma.data.writing import write_instructions, write_pool, write_qrels, write_queries
from puma.errors import DataError, InputError
from puma.items.item import Item
from puma.items.skips import Skip, summary
from puma.search.queries import INSTRUCTIONS
from puma.storage.folders import written_folder
from puma.training.finetune.examples import Example, Examples, read_examples
from puma.training.finetune.split import FRACTION, Split, split_examples

DATASET = "pairs"
MOST_INSTRUCTIONS = 100
"""Different instructions that a table may have: each becomes a data set."""
NO_TASK = "a search from an image for an image with a text is no task of M-BEIR"


@dataclass(frozen=True)
class Converted:
    """What was written.

    Args:
        queries: different queries by split, ``train``, ``val`` and ``test``.
        datasets: how many data sets, one an instruction.
        skips: rows, and single negatives, that were left out.
    """

    path: Path
    queries: dict[str, int]
    datasets: int
    skips: list[Skip] = field(default_factory=list)


def convert(
    table: PairTable,
    out: str | os.PathLike[str],
    *,
    held_out: float = FRACTION,
    copy: bool = False,
    strict: bool = False,
    show_progress: bool = False,
) -> Converted:
    """Write a table of pairs in M-BEIR's layout.

    Args:
        out: the folder; it appears when it is whole.
        held_out: the share of the different queries for val and test, half each, in (0, 1).
        copy: copy image files into the folder; else they are linked, and must stay where they are. Images that the
            table itself holds are always written into it.
        strict: refuse a table with a row that cannot be used; else it is left out and listed.

    Raises:
        InputError: ``out`` is not empty; too few different queries, or too many different instructions.
        DataError: no row can be used; with ``strict``, any cannot.
    """
    with written_folder(out) as work:
        examples = read_examples(table, work / IMAGES / DATASET, strict=strict, show_progress=show_progress)
        rows, skips = with_a_task(examples, table.path)
        if strict and skips:
            raise DataError(f"{table.path}: {summary(skips, 'rows')}")
        found = write_benchmark(rows, split_examples(rows, held_out), work, copy=copy)
    return Converted(Path(out), found.queries, found.datasets, [*examples.skips, *skips, *found.skips])


def with_a_task(examples: Examples, path: Path) -> tuple[list[Example], list[Skip]]:
    """The rows that are of M-BEIR's tasks, and the others with the reason.

    Raises:
        DataError: none is.
    """
    rows = [row for row in examples.rows if row.modalities in TASKS]
    others = [Skip(row.where, NO_TASK) for row in examples.rows if row.modalities not in TASKS]
    if not rows:
        raise DataError(
            f"{path}: {NO_TASK}, and the table has no other rows; train a retriever further on it instead (puma train "
            f"--data {path} --model RETRIEVER)"
        )
    return rows, others


def write_benchmark(rows: Sequence[Example], split: Split, root: Path, *, copy: bool = False) -> Converted:
    """Write examples and their split below ``root``, as :func:`convert`.

    Args:
        rows: of M-BEIR's tasks.
        split: of these rows.
    """
    names = _names(rows)
    writer = _Records(root, copy)
    held = [rows[number] for number in split.held_out]
    counts: dict[str, int] = {}
    for name, numbers in (("train", split.train), ("val", split.choose), ("test", split.measure)):
        groups: dict[tuple[str, int], list[Example]] = {}
        for number in numbers:
            groups.setdefault((names[rows[number].instruction], rows[number].task), []).append(rows[number])
        counts[name] = len({rows[number].query_key for number in numbers})
        pools = _train_pools(groups, writer) if name == "train" else _held_out_pools(groups, held)
        known = None if name == "train" else _positives(held)
        for (dataset, task), group in sorted(groups.items()):
            pool = pools[dataset, task]
            path = pool_path(root, dataset, task, name) if name == "train" else shared_pool_path(root, dataset, task)
            write_pool(path, writer.candidates(pool.items()))
            queries = writer.queries(group, _number(dataset), known)
            write_queries(query_path(root, dataset, task, name), queries)
            if name != "train":
                qrels = {query.qid: dict.fromkeys(query.positives, 1) for query in queries}
                write_qrels(qrels_path(root, dataset, task, name), qrels, task)
        if name != "train":
            union = writer.candidates((row.positive_key, row.positive) for row in held)
            write_pool(global_pool_path(root, name), union)
    write_instructions(instructions_path(root), _prompts(rows, names))
    return Converted(root, counts, len(names), writer.skips)


def _names(rows: Iterable[Example]) -> dict[str | None, str]:
    """The data set of each instruction, the most frequent first: a model searches by the first data set's."""
    counts = Counter(row.instruction for row in rows)
    if len(counts) > MOST_INSTRUCTIONS:
        raise InputError(
            f"the table has {len(counts):,} different instructions; at most {MOST_INSTRUCTIONS} can be written: put "
            "what differs from row to row into query_text"
        )
    if len(counts) == 1:
        return dict.fromkeys(counts, DATASET)
    return {text: f"{DATASET}_{place:03}" for place, (text, _) in enumerate(counts.most_common(), 1)}


def _number(dataset: str) -> int:
    """What stands before the colon in a data set's ids."""
    return int(dataset.removeprefix(DATASET).lstrip("_") or 1)


def _prompts(rows: Iterable[Example], names: dict[str | None, str]) -> list[tuple[str, str, str, int, Sequence[str]]]:
    kinds = dict.fromkeys((names[row.instruction], row.modalities, row.instruction) for row in rows)
    return [
        (*pair, name, _number(name), [instruction or INSTRUCTIONS[pair]])
        for name, pair, instruction in sorted(kinds, key=lambda kind: kind[:2])
    ]


Groups = Mapping[tuple[str, int], Sequence[Example]]
"""Examples by data set and task."""
Pools = dict[tuple[str, int], dict[str, Item]]
"""Items by their key, by data set and task."""


def _train_pools(groups: Groups, writer: _Records) -> Pools:
    """Each group's positives and negatives. A negative of another modality than its row searches for goes into the
    first pool of its own; without any, it is left out."""
    pools: Pools = {}
    by_modality: dict[str, dict[str, Item]] = {}
    for name, group in sorted(groups.items()):
        pools[name] = {row.positive_key: row.positive for row in group}
        by_modality.setdefault(group[0].positive.modality, pools[name])
    for name, group in sorted(groups.items()):
        for key, item in (negative for row in group for negative in row.negatives):
            pool = pools[name] if item.modality == group[0].positive.modality else by_modality.get(item.modality)
            if pool is None:
                writer.leave_out(key, item)
            else:
                pool.setdefault(key, item)
    return pools


def _held_out_pools(groups: Groups, held: Sequence[Example]) -> Pools:
    """All held-out positives of the modality that a group searches for."""
    return {
        name: {row.positive_key: row.positive for row in held if row.modalities[1] == group[0].modalities[1]}
        for name, group in groups.items()
    }


def _positives(rows: Iterable[Example]) -> Mapping[tuple[str, str], Sequence[str]]:
    """The keys of all right answers of a modality, under whatever instruction, by the query's key and that modality."""
    found: dict[tuple[str, str], dict[str, None]] = {}
    for row in rows:
        found.setdefault((row.query_key, row.modalities[1]), {})[row.positive_key] = None
    return {name: list(keys) for name, keys in found.items()}


class _Records:
    """Makes queries and candidates of items, with ids by their content and images below the root."""

    def __init__(self, root: Path, copy: bool) -> None:
        self.root, self.copy = root, copy
        self.skips: list[Skip] = []
        self._dids: dict[str, str] = {}
        self._qids: dict[str, str] = {}
        self._images: dict[str, str] = {}
        self._lost: set[str] = set()

    def leave_out(self, key: str, item: Item) -> None:
        """Leave out a negative that is in no pool."""
        if key not in self._lost:
            self._lost.add(key)
            shown = f"{item.text!r:.60}" if item.text else item.image_name
            self.skips.append(Skip(f"negative {shown}", "no query of the table searches for items of its modality"))

    def did(self, key: str) -> str:
        return self._dids.setdefault(key, f"1:{len(self._dids) + 1}")

    def candidates(self, entries: Iterable[tuple[str, Item]]) -> list[Candidate]:
        """Each content once."""
        return [
            Candidate(self.did(key), item.text, self.image(item), item.modality) for key, item in dict(entries).items()
        ]

    def queries(
        self, rows: Iterable[Example], number: int, known: Mapping[tuple[str, str], Sequence[str]] | None
    ) -> list[Query]:
        """One a query, with its right answers among these rows, or all that are ``known``."""
        groups: dict[str, list[Example]] = {}
        for row in rows:
            groups.setdefault(row.query_id, []).append(row)
        made = []
        for name, own in groups.items():
            first = own[0]
            right = [row.positive_key for row in own]
            if known is not None:
                right = list(known[first.query_key, first.modalities[1]])
            wrong = [key for row in own for key, _ in row.negatives if known is None and key not in self._lost]
            made.append(
                Query(
                    self._qids.setdefault(name, f"{number}:{len(self._qids) + 1}"),
                    first.query.text,
                    self.image(first.query),
                    first.query.modality,
                    tuple(dict.fromkeys(map(self.did, right))),
                    tuple(dict.fromkeys(self.did(key) for key in wrong if key not in right)),
                    first.task,
                )
            )
        return made

    def image(self, item: Item) -> str | None:
        """Where the item's image is, relative to the root."""
        if item.image is None:
            return None
        source = item.image_name
        if source not in self._images:
            self._images[source] = self._placed(Path(source))
        return self._images[source]

    def _placed(self, source: Path) -> str:
        if source.is_relative_to(self.root):
            return source.relative_to(self.root).as_posix()
        name = hashlib.sha256(os.fsencode(source)).hexdigest()[:32] + source.suffix.lower()
        target = self.root / IMAGES / DATASET / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if self.copy:
            shutil.copyfile(source, target)
        else:
            try:
                target.symlink_to(source.absolute())
            except OSError:  # a file system without links
                shutil.copyfile(source, target)
        return target.relative_to(self.root).as_posix()
