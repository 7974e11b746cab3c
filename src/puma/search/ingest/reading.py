"""Paths in, records out: folders, images, text files, tables and documents. Loads no torch.

Everything is read one entry at a time; no list is held. Nothing is ever guessed to be text because it is no file.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from puma.errors import InputError
from puma.index.provenance import FileState
from puma.items.encoder import Skip
from puma.items.objects import AnyPath, as_path
from puma.items.references import is_address, no_such_file
from puma.search.ingest.files import (
    DOCUMENTS,
    IMAGES,
    IN_FOLDERS,
    LISTS,
    TABLES,
    check_file,
    count_in_file,
    file_entries,
    suffix_of,
)
from puma.search.ingest.objects import ObjectReader
from puma.search.ingest.options import ReadOptions
from puma.search.ingest.records import Finished, Found, Ignored, Note, Record, Same, source_of
from puma.search.ingest.walking import Step, walk

__all__ = ["DOCUMENTS", "IMAGES", "LISTS", "TABLES", "Reader", "count_items", "read_items", "reader_of"]


class Reader(Protocol):
    """One path that is checked, counted and read."""

    @property
    def path(self) -> AnyPath:
        """What is read."""

    def check(self) -> None:
        """Raise InputError if there is no such path or it is of no known kind, DataError if it is a table without a
        column that is needed."""

    def exists(self) -> bool:
        """Whether there is such a file or folder."""

    def is_empty(self) -> bool:
        """Whether it is a folder that can be looked into and has nothing in it that could be read."""

    def count(self) -> int | None:
        """About how many records there will be; of a folder, how many files that may give some. None where counting
        would take long."""

    def entries(
        self, named: Collection[str] = (), unchanged: Callable[[str, FileState | None], bool] | None = None
    ) -> Iterator[Found]:
        """Everything in it, in a fixed order.

        Args:
            named: sources that are read by themselves, and so not once more in a folder.
            unchanged: whether a source is as it was when it was last read, and need not be read again; called with the
                state that a listing gave, if there was one.
        """


def reader_of(path: str | os.PathLike[str], options: ReadOptions | None = None) -> Reader:
    """The reader of a path in the file system or in an object store.

    Raises:
        InputError: it is an address of an object store and names no bucket.
    """
    found, chosen = as_path(path), options or ReadOptions()
    return PathReader(found, chosen) if isinstance(found, Path) else ObjectReader(found, chosen)


def read_items(
    paths: Iterable[str | os.PathLike[str]], options: ReadOptions | None = None, *, with_files: bool = False
) -> Iterator[Record | Skip | Ignored | Note]:
    """Everything in these paths, in a fixed order, one at a time.

    Args:
        paths: folders (images, tables and documents in them, at any depth; others are :class:`Ignored`), images, and
            files that hold several items. In the file system, or in an object store as ``s3://BUCKET/FOLDER``:

            - ``.txt``: one a line;
            - ``.jsonl``: objects with ``text`` and/or ``image``, optionally ``id``; other keys are kept as payload;
              ``image`` is relative to the file. M-BEIR's candidate pools are understood as they are;
            - ``.csv``, ``.tsv``: the same, by column, with any usual delimiter;
            - ``.parquet``: the same; ``image`` may be a path, an image's bytes, or both as ``{bytes, path}``;
            - ``.pdf``: an image and the words of each page (needs pypdfium2).
        options: how they are read.
        with_files: whether records keep what was read of their images (:attr:`Record.file`), so that nothing is read
            again; for whoever drops them soon.

    Raises:
        InputError: before anything is read, if a path does not exist or is of no known kind.
        DataError: before anything is read, if a table has no column for a text or an image.
    """
    readers = [reader_of(path, options) for path in _listed(paths)]
    for reader in readers:
        reader.check()
    named = {source_of(reader.path) for reader in readers}
    # What was read of an image is dropped: whoever lists all records would hold all files.
    return (
        replace(entry, file=None) if isinstance(entry, Record) and not with_files else entry
        for reader in readers
        for entry in reader.entries(named)
        if not isinstance(entry, (Finished, Same))
    )


def count_items(paths: Iterable[str | os.PathLike[str]], options: ReadOptions | None = None) -> int:
    """About how many entries :func:`read_items` will find with these options, without opening the images: for time
    left.

    Raises:
        InputError, DataError: as :func:`read_items`.
    """
    readers = [reader_of(path, options) for path in _listed(paths)]
    for reader in readers:
        reader.check()
    return sum(reader.count() or 0 for reader in readers)


class PathReader:
    """A path in the file system. A folder is walked once: what was counted is what is read."""

    def __init__(self, path: Path, options: ReadOptions) -> None:
        self.path, self.options = path, options
        self._walked: list[Step] | None = None

    def check(self) -> None:
        path = self.path
        if not self.exists():
            if is_address(str(path)):
                raise InputError(f"{path}: {no_such_file(str(path))}")
            remedy = "a path is never taken for text; put texts into a .txt file"
            raise InputError(f"{path}: no such file or folder ({remedy})")
        if not path.is_dir():
            check_file(path, self.options)

    def exists(self) -> bool:
        return os.path.exists(self.path)  # unlike Path.exists, never an OSError for an over-long name

    def is_empty(self) -> bool:
        return os.path.isdir(self.path) and os.access(self.path, os.R_OK | os.X_OK) and not self.count()

    def count(self) -> int:
        if not self.path.is_dir():
            return count_in_file(self.path)
        if self._walked is None:
            self._walked = list(walk(self.path, self.options))
        steps = (step for step in self._walked if isinstance(step, tuple))
        return sum(suffix_of(name) in IN_FOLDERS for _, names in steps for name in names)

    def entries(
        self, named: Collection[str] = (), unchanged: Callable[[str, FileState | None], bool] | None = None
    ) -> Iterator[Found]:
        if not self.path.is_dir():
            yield from file_entries(self.path, self.options, unchanged=unchanged)
            return
        steps, self._walked = self._walked, None
        for step in walk(self.path, self.options) if steps is None else steps:
            if not isinstance(step, tuple):
                yield step
                continue
            parent, names = step
            for name in names:
                path = Path(parent, name)
                if source_of(path) not in named:
                    yield from file_entries(path, self.options, unchanged=unchanged, in_folder=True)


def _listed(paths: Iterable[str | os.PathLike[str]]) -> list[str | os.PathLike[str]]:
    return [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)
