"""Folders and files in an object store, listed page by page, their images fetched ahead. Loads no torch."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from functools import partial
from itertools import islice

from puma.errors import InputError
from puma.index.provenance import FileState
from puma.items.ahead import in_order
from puma.items.encoder import Skip
from puma.items.listing import ODD_KEYS, everything_below
from puma.items.objects import ObjectPath
from puma.search.ingest.files import IMAGES, IN_FOLDERS, check_file, count_in_file, file_entries, suffix_of
from puma.search.ingest.options import ReadOptions
from puma.search.ingest.records import Found, Ignored, Same, source_of
from puma.search.ingest.unchanged import object_state
from puma.search.ingest.walking import HIDDEN_FILE, HIDDEN_FOLDER, SYSTEM_FOLDERS, why_left_out

COUNTED = 10_000
"""Objects of a folder that are counted; of one with more it is not said how many there are."""


class ObjectReader:
    """A path in an object store. A folder is listed as it is read; nothing of it is held."""

    def __init__(self, path: ObjectPath, options: ReadOptions) -> None:
        self.path, self.options = path, options
        self._is_file: bool | None = None

    def check(self) -> None:
        """As :meth:`puma.search.ingest.reading.Reader.check`. StorageError where the store cannot be used."""
        if self._file():
            check_file(self.path, self.options)
        elif not self.path.is_dir():
            raise InputError(f"{self.path}: no such object, and none below it; check the bucket and the name")

    def exists(self) -> bool:
        return self._file() or self.path.is_dir()

    def is_empty(self) -> bool:
        return not self._file() and not any(map(self._may_give, everything_below(self.path, versions=False)))

    def count(self) -> int | None:
        if self._file():
            return count_in_file(self.path)
        listed = list(islice(everything_below(self.path, versions=False), COUNTED + 1))
        return None if len(listed) > COUNTED else sum(map(self._may_give, listed))

    def entries(
        self, named: Collection[str] = (), unchanged: Callable[[str, FileState | None], bool] | None = None
    ) -> Iterator[Found]:
        if self._file():
            yield from file_entries(self.path, self.options, unchanged=unchanged)
            return
        for found in in_order(self._jobs(named, unchanged)):
            yield from found

    def _file(self) -> bool:
        if self._is_file is None:
            self.path.version = self.path.current()
            self._is_file = self.path.version is not None
        return self._is_file

    def _jobs(
        self, named: Collection[str], unchanged: Callable[[str, FileState | None], bool] | None
    ) -> Iterator[tuple[Callable[[], Iterable[Found]], int]]:
        """What each object gives, with the bytes that are held of it: an image is fetched ahead, a table is opened when
        it is its turn."""
        left_out, refused = "", list[str]()
        for path in everything_below(self.path, refused.append):
            yield from _skipped(refused)
            where, why = self._left_out(path)
            if where is not None:
                if where != left_out:  # a folder once
                    left_out = where
                    yield partial(list, [Ignored(where, why)]), 0
                continue
            assert path.version is not None
            suffix, source, state = suffix_of(path.name), source_of(path), object_state(path)
            if not suffix and not path.version.size:
                continue  # how consoles keep an empty folder
            if source in named:
                continue
            if unchanged is not None and suffix in IN_FOLDERS and unchanged(source, state):
                yield partial(list, [Same(source)]), 0
                continue
            entries = file_entries(path, self.options, state, in_folder=True)
            yield (partial(list, entries), path.version.size) if suffix in IMAGES else (partial(iter, entries), 0)
        yield from _skipped(refused)

    def _may_give(self, path: ObjectPath) -> bool:
        return suffix_of(path.name) in IN_FOLDERS and self._left_out(path)[0] is None

    def _left_out(self, path: ObjectPath) -> tuple[str | None, str]:
        """The first folder above the object, or itself, that is left out, and why; None for one that is read."""
        inside = path.key[len(self.path.key) :].lstrip("/").split("/")
        for depth, name in enumerate(inside, 1):
            is_last = depth == len(inside)
            hidden, of_system = (HIDDEN_FILE, False) if is_last else (HIDDEN_FOLDER, name in SYSTEM_FOLDERS)
            reason = why_left_out("/".join(inside[:depth]), name, self.options, hidden, of_system)
            if reason is not None:
                return f"{self.path}/{'/'.join(inside[:depth])}", reason
        return None, ""


def _skipped(refused: list[str]) -> Iterator[tuple[Callable[[], Iterable[Found]], int]]:
    """What the listing could not read, each once."""
    skips = [Skip(address, ODD_KEYS, address) for address in refused]
    refused.clear()
    yield from ((partial(list, [skip]), 0) for skip in skips)
