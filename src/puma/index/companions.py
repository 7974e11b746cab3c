"""What is stored beside the rows of an index: small images by content, and which source gave which id. Loads no torch.

The caller holds the write lock around everything that writes.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from puma.index.filters import quoted
from puma.index.tables import (
    SOURCES,
    THUMBNAILS,
    Folder,
    connect,
    exists,
    parts_of,
    reading,
    source_schema,
    thumbnail_schema,
    writing,
)

IDS_AT_ONCE = 500


class Companion:
    """A table that is made when it is first written."""

    name: str

    def __init__(self, folder: Folder, fresh: bool = False) -> None:
        self.folder = folder
        self._fresh = fresh
        self._handle: Any = None

    @property
    def table(self) -> Any:
        """The open table, or None while nobody has written it."""
        if self._handle is None and exists(self.folder, self.name):
            self._handle = reading(self.folder, lambda: connect(self.folder, self._fresh).open_table(self.name))
        return self._handle

    def _create(self, schema: Any) -> Any:
        if self.table is None:
            work = lambda: connect(self.folder).create_table(self.name, schema=schema, exist_ok=True)  # noqa: E731
            self._handle = writing(self.folder, work)
        return self._handle

    def rows(self) -> int:
        """How many rows there are."""
        return 0 if self.table is None else reading(self.folder, self.table.count_rows)

    def columns(
        self, names: Sequence[str], condition: str | None = None, batch: int = 8192
    ) -> Iterator[list[tuple[Any, ...]]]:
        """Rows as tuples of these columns, some at a time."""
        if self.table is None:
            return
        query = self.table.search().select(list(names))
        if condition is not None:
            query = query.where(condition)
        for part in query.to_batches(batch):
            yield list(zip(*(part[name].to_pylist() for name in names), strict=True))

    def values(self, column: str) -> set[str]:
        """Everything that stands in one column."""
        return {value for part in self.columns([column]) for (value,) in part}

    def conditions_under(self, paths: Sequence[str]) -> list[str]:
        """SQL conditions, one for some paths: the source is one of them or lies below one."""
        found = []
        for part in parts_of(sorted(set(paths)) if self.table is not None else [], 50):
            conditions = []
            for path in part:
                below = path if path.endswith(("/", os.sep)) else path + os.sep
                conditions += [f"source = {quoted(path)}", f"starts_with(source, {quoted(below)})"]
            found.append(" OR ".join(conditions))
        return found

    def _drop(self, column: str, values: Iterable[str]) -> int:
        if self.table is None:
            return 0
        before = self.rows()
        for part in parts_of(sorted(values), IDS_AT_ONCE):
            condition = one_of(column, part)
            writing(self.folder, lambda condition=condition: self.table.delete(condition))  # type: ignore[misc]
        return before - self.rows()


class Thumbnails(Companion):
    """Small images by content digest."""

    name = THUMBNAILS

    def put(self, images: Mapping[str, bytes]) -> None:
        """Insert or replace."""
        import pyarrow as pa

        if not images:
            return
        schema = thumbnail_schema()
        table = self._create(schema)
        names, data = list(images), list(images.values())
        batch = pa.table({"content": names, "data": data, "checksum": list(map(zlib.crc32, data))}, schema=schema)
        merge = table.merge_insert("content").when_matched_update_all().when_not_matched_insert_all()
        writing(self.folder, lambda: merge.execute(batch))

    def get(self, content: str) -> bytes | None:
        """One image."""
        if self.table is None:
            return None
        query = self.table.search().where(f"content = {quoted(content)}").select(["data"]).limit(1)
        found = reading(self.folder, lambda: query.to_arrow()["data"].to_pylist())
        return found[0] if found else None

    def present(self, contents: Sequence[str]) -> set[str]:
        """Which of these contents have an image."""
        found: set[str] = set()
        if self.table is not None:
            for part in parts_of(sorted(set(contents)), IDS_AT_ONCE):
                query = self.table.search().where(one_of("content", part)).select(["content"]).limit(len(part))
                found.update(reading(self.folder, lambda query=query: query.to_arrow()["content"].to_pylist()))  # type: ignore[misc]
        return found

    def drop(self, contents: Iterable[str]) -> int:
        """Remove images; how many there were."""
        return self._drop("content", contents)


class Sources(Companion):
    """Pairs of a source (a path) and an id that it gave."""

    name = SOURCES

    def note(self, pairs: Iterable[tuple[str, str]]) -> None:
        """Remember pairs; known ones are not written again."""
        import pyarrow as pa

        fresh = sorted(set(pairs))
        if self.table is not None and fresh:
            known = self.of_ids({name for _, name in fresh})
            fresh = [pair for pair in fresh if pair not in known]
        if not fresh:
            return
        schema = source_schema()
        table = self._create(schema)
        batch = pa.table({"source": [pair[0] for pair in fresh], "id": [pair[1] for pair in fresh]}, schema=schema)
        writing(self.folder, lambda: table.add(batch))

    def of_ids(self, ids: Iterable[str]) -> set[tuple[str, str]]:
        """All pairs of these ids."""
        found: set[tuple[str, str]] = set()
        for part in parts_of(sorted(ids), IDS_AT_ONCE):
            found |= self._pairs(one_of("id", part))
        return found

    def under(self, paths: Sequence[str]) -> set[tuple[str, str]]:
        """All pairs whose source is one of these paths or lies below one."""
        return {pair for condition in self.conditions_under(paths) for pair in self._pairs(condition)}

    def every(self) -> set[tuple[str, str]]:
        """All pairs."""
        return self._pairs(None)

    def orphaned_by(self, pairs: Iterable[tuple[str, str]]) -> set[str]:
        """The ids that no source would hold any more without these pairs. Pairs that are not there orphan nothing."""
        gone = set(pairs)
        known = self.of_ids({name for _, name in gone})
        return {name for _, name in known & gone} - {name for _, name in known - gone}

    def drop(self, pairs: Iterable[tuple[str, str]]) -> None:
        """Remove pairs."""
        gone = set(pairs)
        orphans = self.orphaned_by(gone)
        self.drop_ids(orphans)  # most of them, and many at a time
        by_source: dict[str, list[str]] = {}
        for source, name in sorted(gone):
            if name not in orphans:
                by_source.setdefault(source, []).append(name)
        conditions = [
            f"(source = {quoted(source)} AND {one_of('id', part)})"
            for source, names in by_source.items()
            for part in parts_of(names, IDS_AT_ONCE)
        ]
        for part in parts_of(conditions if self.table is not None else [], 50):
            joined = " OR ".join(part)
            writing(self.folder, lambda joined=joined: self.table.delete(joined))  # type: ignore[misc]

    def drop_ids(self, ids: Iterable[str]) -> int:
        """Remove all pairs of these ids; how many there were."""
        return self._drop("id", ids)

    def _pairs(self, condition: str | None) -> set[tuple[str, str]]:
        def work() -> set[tuple[str, str]]:
            return {(source, name) for part in self.columns(["source", "id"], condition) for source, name in part}

        return reading(self.folder, work)


def one_of(column: str, values: Sequence[str]) -> str:
    """An SQL condition: the column is one of the values."""
    return f"{column} IN ({', '.join(map(quoted, values))})"
