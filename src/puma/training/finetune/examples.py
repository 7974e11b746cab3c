"""A table's rows as distinct examples, known by their content. Loads no torch.

Images that the table itself holds are written into files, once each, so that training need not hold them in memory.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from puma.data.pair_tables import PairTable
from puma.data.records import TASKS
from puma.errors import DataError, ImageError
from puma.items.digest import content_digest, plain_text
from puma.items.item import Item
from puma.items.skips import Skip, summary
from puma.storage.folders import write_whole

UNNUMBERED = 5
"""M-BEIR's number of the one pair of modalities that none of its tasks has: an image's image and text."""


@dataclass(frozen=True)
class Example:
    """A query and a right answer.

    Args:
        query, positive: the items.
        instruction: what the query asks for; None where the table does not say.
        query_key, positive_key: digests of their content: equal content, equal key.
        negatives: wrong answers, (digest, item) each.
        where: the row's place in the table, for messages.
    """

    query: Item
    positive: Item
    instruction: str | None
    query_key: str
    positive_key: str
    negatives: tuple[tuple[str, Item], ...] = ()
    where: str = field(default="", compare=False)

    @property
    def modalities(self) -> tuple[str, str]:
        """Of the query and of what it asks for."""
        return self.query.modality, self.positive.modality

    @property
    def task(self) -> int:
        """M-BEIR's task id of the modalities."""
        return TASKS.get(self.modalities, UNNUMBERED)

    @property
    def query_id(self) -> str:
        """Equal for rows with the same query: content, instruction and modalities."""
        instruction = hashlib.sha256((self.instruction or "").encode()).hexdigest()[:8]
        return f"{self.query_key}-{self.task}-{instruction}"


@dataclass(frozen=True)
class Examples:
    """What a table holds.

    Args:
        rows: the distinct examples, in the table's order.
        skips: rows, and single negatives, that were left out.
        repeated: rows that say again what one before says.
    """

    rows: list[Example]
    skips: list[Skip]
    repeated: int

    @property
    def fingerprint(self) -> str:
        """Changes whenever the examples do."""
        digest = hashlib.sha256()
        for row in self.rows:
            digest.update(repr((row.query_id, row.positive_key, [key for key, _ in row.negatives])).encode())
        return digest.hexdigest()[:16]

    @property
    def known(self) -> Mapping[str, frozenset[str]]:
        """The keys of every right answer, by the query's key."""
        found: dict[str, set[str]] = {}
        for row in self.rows:
            found.setdefault(row.query_key, set()).add(row.positive_key)
        return {key: frozenset(keys) for key, keys in found.items()}


def read_examples(table: PairTable, images: Path, *, strict: bool = False, show_progress: bool = False) -> Examples:
    """Read a table of pairs. Image files are read for their digests, not decoded.

    Args:
        images: the folder for images that the table itself holds.
        strict: refuse a table with a row that cannot be used; else it is left out and listed.

    Raises:
        DataError: no row can be used; with ``strict``, any cannot.
    """
    store, reader = _ImageFolder(images), _Keys()
    skips: list[Skip] = []
    found: dict[tuple[str, str], Example] = {}
    total = 0
    rows = table.rows(skips, store.keep)
    for row in tqdm(rows, desc="reading pairs", unit="row", disable=not show_progress):
        try:
            query, positive = reader.known(row.query), reader.known(row.positive)
        except ImageError as error:
            skips.append(Skip(row.where, str(error)))
            continue
        total += 1
        negatives = dict(_readable(reader, row.negatives, row.where, skips))
        wrong = tuple(negatives.items())
        example = Example(query[1], positive[1], row.instruction, query[0], positive[0], wrong, row.where)
        found.setdefault((example.query_id, example.positive_key), example)
    if skips and not found:
        raise DataError(f"{table.path}: no row can be used; {summary(skips, 'rows')}")
    if skips and strict:
        raise DataError(f"{table.path}: has faulty rows, which --strict refuses; without it {summary(skips, 'rows')}")
    if not found:
        raise DataError(f"{table.path}: holds no row of data; give at least some pairs (docs/own-data.md)")
    return Examples(list(found.values()), skips, total - len(found))


def _readable(reader: _Keys, items: Iterable[Item], where: str, skips: list[Skip]) -> Iterable[tuple[str, Item]]:
    for item in items:
        try:
            yield reader.known(item)
        except ImageError as error:
            skips.append(Skip(where, f"a negative is left out: {error}"))


class _Keys:
    """Digests of items, each content met once: its first item stands for all equal ones."""

    def __init__(self) -> None:
        self._keys: dict[tuple[str | None, str], str] = {}
        self._items: dict[str, Item] = {}

    def known(self, item: Item) -> tuple[str, Item]:
        """The item's key and the item that stands for its content. Raises ImageError where there is no such file."""
        place = (item.text, item.image_name)
        key = self._keys.get(place)
        if key is None:
            key = self._keys[place] = content_digest(Item(plain_text(item.text), item.image))
        return key, self._items.setdefault(key, item)


class _ImageFolder:
    """Image files named by their content."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def keep(self, data: bytes) -> Path:
        path = self.folder / hashlib.sha256(data).hexdigest()[:32]
        if not path.is_file():
            write_whole(path, data)  # a kill leaves no half image under a whole one's name
        return path
