"""The embedded engine: LanceDB tables in a folder, safe against kills and shared by several processes. Loads no torch.

What keeps several processes apart: writers take the write lock one after the other, so that a row, its image and its
sources are never torn by another's deletion; upkeep takes its own lock and lets writers go on; readers take none.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from puma.errors import IndexMismatchError, InputError, StorageError
from puma.index import maintenance, reader, verifying
from puma.index.companions import Sources, Thumbnails, one_of
from puma.index.folder_generations import FolderGenerations, current, folder_of, is_superseded, root_of
from puma.index.interface import NewRow, encoded_payload
from puma.index.object_generations import GenerationFolder
from puma.index.stamps import Stamps
from puma.index.tables import (
    FORMAT,
    ITEMS,
    METADATA_KEY,
    READABLE,
    Folder,
    connect,
    exists,
    item_batch,
    item_schema,
    locked,
    parts_of,
    reading,
    storage_error,
    writing,
)
from puma.index.writer import RowWriter
from puma.storage.folders import refuse_below_file

UPGRADE_ROWS = 4096
REST_SECONDS = 60.0
"""After upkeep failed (a full disk, say), how long before it is tried again."""


class LanceEngine(reader.Reader, RowWriter):
    """See :class:`puma.index.interface.Engine`. Opened by :func:`open_table` or made by :func:`create_table`."""

    def __init__(self, folder: Folder, table: Any) -> None:
        described = _described(folder, table)
        super().__init__(folder, table, int(described["dim"]))
        self.fingerprint = described["fingerprint"]
        self._thumbnails, self._sources, self._stamps = Thumbnails(folder), Sources(folder), Stamps(folder)
        self._rest_until = 0.0

    @contextlib.contextmanager
    def _locked(self, upgrade: bool = True) -> Iterator[None]:
        # A row, its image and its sources are never torn by another's deletion.
        with locked(self.folder, "write"):
            if isinstance(self.folder, Path) and is_superseded(self.folder):
                raise StorageError(
                    f"{root_of(self.folder)}: was changed to another model meanwhile; nothing was written. "
                    "Open it again, with that model"
                )
            if isinstance(self.folder, GenerationFolder):  # its lease may be lost: looked at again afterwards
                self.folder.refuse_sealed("nothing was written")
            if upgrade:
                self._upgraded()
            yield
            if isinstance(self.folder, GenerationFolder):
                self.folder.refuse_sealed("what was just written is not in it")

    def _merge_rows(self, rows: Sequence[NewRow]) -> None:
        batch = item_batch(rows, self.dim, self.fingerprint)
        merge = self._table.merge_insert("id").when_matched_update_all().when_not_matched_insert_all()
        writing(self.folder, lambda: merge.execute(batch))

    def _delete_rows(self, ids: Sequence[str]) -> int:
        before = self.count()
        for part in parts_of(ids, 500):
            writing(self.folder, partial(self._table.delete, one_of("id", part)))
        return before - self.count()

    def _held(self, contents: Collection[str]) -> set[str]:
        """Which of these contents some row has."""
        found: set[str] = set()
        for part in parts_of(sorted(contents), 500):
            query = self._table.search().where(one_of("content", part)).select(["content"])
            table = reading(self.folder, query.to_arrow)
            found.update(table["content"].to_pylist())
        return found

    def _upgraded(self) -> None:
        """Rewrite an index of format 1 as one new version: whoever reads meanwhile reads the old one to its end."""
        if _described(self.folder, self._table)["format"] == FORMAT:
            return
        import pyarrow as pa

        schema = item_schema(self.dim, self.fingerprint)

        def batches() -> Iterator[Any]:
            for rows in self.scan(UPGRADE_ROWS, True):
                new = [
                    NewRow(row.id, row.vector, row.modality, encoded_payload(row.payload, row.id), row.content)
                    for row in rows
                ]
                yield from item_batch(new, self.dim, self.fingerprint).to_batches()

        def work() -> None:
            reader = pa.RecordBatchReader.from_batches(schema, batches())
            connect(self.folder).create_table(ITEMS, data=reader, schema=schema, mode="overwrite")

        with locked(self.folder, "upkeep"):
            writing(self.folder, work)

    def optimize(self) -> None:
        if _described(self.folder, self._table)["format"] != FORMAT:
            with locked(self.folder, "write"):
                self._upgraded()
        maintenance.maintain(self.folder, self._table, self.dim, reader.FLAT_ROWS, wait=maintenance.WAIT)

    def compact(self) -> dict[str, int]:
        before = maintenance.folder_bytes(self.folder)
        with locked(self.folder, "write"):
            self._upgraded()
            if verifying.index_faults(self.folder, self.dim):
                maintenance.drop_indexes(self.folder, self._table)  # they are built anew below
            dropped = maintenance.drop_orphans(self._table, self._thumbnails, self._sources, self._places)
            self._stamps.drop(self._stamps.values("source") - self._sources.values("source"))
        maintenance.maintain(self.folder, self._table, self.dim, reader.FLAT_ROWS, wait=maintenance.WAIT, thorough=True)
        with locked(self.folder, "write"), locked(self.folder, "upkeep"):
            maintenance.drop_old(self.folder)
        return {"bytes_before": before, "bytes_after": maintenance.folder_bytes(self.folder)} | dropped

    def verify(self) -> list[str]:
        return verifying.faults(self.folder, self.dim)

    def stats(self) -> dict[str, Any]:
        state = self._state()
        return {
            "engine": "lancedb",
            "search": "ivf_rq" if state["fast"] else "exact",
            "bytes": maintenance.folder_bytes(self.folder),
            "version": int(self._table.version),
            "format": _described(self.folder, self._table)["format"],
            "indexed_rows": state["indexed"],
            "fragments": state["fragments"],
            "thumbnails": self._thumbnails.rows(),
            "sources": self._sources.rows(),
            "places": self._places.rows(),
        }

    def _upkeep(self) -> None:
        """What is due, now that something was written. The write is safe already: a fault here must not deny it."""
        if time.monotonic() < self._rest_until:
            return
        try:
            if maintenance.due(self._table, self.dim, reader.FLAT_ROWS):
                maintenance.maintain(self.folder, self._table, self.dim, reader.FLAT_ROWS, wait=0)
        except (StorageError, OSError, RuntimeError, ValueError) as error:
            self._rest_until = time.monotonic() + REST_SECONDS
            logging.getLogger(__name__).warning("%s: upkeep put off: %s", self.folder, error)


def open_table(folder: Path) -> LanceEngine | None:
    """The engine on an existing folder; None where no index was ever finished.

    Raises:
        InputError: the folder holds other things than an index, or its path leads through a file.
        StorageError: there is an index, and it cannot be read.
    """
    if not folder.exists():
        refuse_below_file(folder)
        return None
    if not folder.is_dir():
        raise InputError(f"{folder}: is a file; an index is a folder")
    used = folder_of(folder, current(folder))
    if not exists(used, ITEMS):
        if {name for name in os.listdir(folder) if not name.startswith(".")} - {f"{ITEMS}.lance"}:
            raise InputError(
                f"{folder}: is a folder with other files in it, not an index; an index is a folder that PUMA fills, as "
                "'puma index add NAME.index FOLDER' does, with the index first"
            )
        return None
    return opened(used)


def opened(folder: Folder) -> LanceEngine:
    """The engine on a folder that has an index.

    Raises:
        StorageError: it cannot be read.
    """
    try:
        return LanceEngine(folder, connect(folder).open_table(ITEMS))
    except (OSError, RuntimeError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, IndexMismatchError):
            raise
        raise StorageError(f"{folder}: the index cannot be opened ({error}); make it anew in another folder") from None


def create_table(folder: Path, dim: int, fingerprint: str | None) -> LanceEngine:
    """Make an empty index; if another thread or process was faster, open what it made.

    Raises:
        StorageError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise storage_error(folder, error) from None
    return created(folder, partial(open_table, folder), dim, fingerprint)


def generations(where: Path | str) -> FolderGenerations:
    """The models that the index in a folder has or had."""
    return FolderGenerations(Path(where), opened, create_table)


def created(
    folder: Folder, opening: Callable[[], LanceEngine | None], dim: int, fingerprint: str | None
) -> LanceEngine:
    """What ``opening`` opens, else an empty index that is made now. Whether there is one already is decided under the
    write lock: two creations at once would fail in LanceDB."""
    with locked(folder, "write"):
        made = opening()
        if made is not None:
            return made
        schema = item_schema(dim, fingerprint)
        # "overwrite": what a kill left of a creation has no version yet, and nothing in it is worth keeping.
        work = partial(connect(folder).create_table, ITEMS, schema=schema, mode="overwrite")
        return LanceEngine(folder, writing(folder, work))


def _described(folder: Folder, table: Any) -> dict[str, Any]:
    described: dict[str, Any] = json.loads((table.schema.metadata or {}).get(METADATA_KEY, b"{}"))
    if described.get("format") not in READABLE:
        raise IndexMismatchError(
            f"{folder}: an index of format {described.get('format')!r}; this PUMA reads format {FORMAT} and older. "
            "Make the index anew in another folder."
        )
    return described
