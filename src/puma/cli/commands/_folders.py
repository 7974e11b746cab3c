"""A folder that is searched without an index of its own: one is kept for it in the cache, and brought up to date."""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from puma.cli.commands._shared import chosen_model, print_skips, searcher_of

if TYPE_CHECKING:
    from puma.search.ingest.prepared import PreparedPaths


def is_plain_folder(path: Path) -> bool:
    """Whether this is a folder of files, no index: nothing in it was made by one."""
    from puma.index.tables import ITEMS, LOCKS, exists

    path = path.expanduser()
    if not path.is_dir() or exists(path, ITEMS):
        return False
    names = {entry.name for entry in path.iterdir()} - {*LOCKS.values(), f"{ITEMS}.lance"}
    return bool(names)


def cached_index(folder: Path, model: Path | None, layers: int | None = None) -> Path:
    """Where the index of a folder is kept, for each model apart, and for each depth that it is cut to."""
    from puma.mini.fetch.packages import cache_home

    place = os.path.realpath(folder.expanduser())
    used = chosen_model(None if model is None else model.absolute())
    used = used if layers is None else f"{used}\0{layers}"
    digest = hashlib.sha256(f"{place}\0{used}".encode("utf-8", "surrogateescape")).hexdigest()[:12]
    return cache_home() / "folders" / f"{Path(place).name or 'root'}-{digest}.index"


def prepared_folder(folder: Path, model: Path | None, layers: int | None = None) -> PreparedPaths:
    """The folder, compared with its index in the cache.

    Raises:
        InputError, StorageError: the index cannot be opened or made.
    """
    from puma.index import Index
    from puma.search.ingest.prepared import PreparedPaths

    where = cached_index(folder, model, layers)
    where.parent.mkdir(parents=True, exist_ok=True)
    return PreparedPaths(Index(where), [Path(os.path.realpath(folder.expanduser()))], sync=True, allow_empty=True)


def folder_searcher(folder: Path, model: Path | None, **options: Any) -> Any:
    """A Searcher of a folder whose index was brought up to date: new files embedded, those that are gone removed."""
    prepared = prepared_folder(folder, model, options.get("layers"))
    searcher = searcher_of(prepared.index, model, **options)
    added = searcher.add_prepared(prepared, progress=sys.stderr.isatty())
    if added.embedded or added.deleted or added.skips:
        print_skips(added.skips)
        parts = f"{added.embedded} added, {added.deleted} removed, {len(added.skips)} skipped"
        typer.echo(f"{folder}: {parts}; {len(searcher.index)} items in all, kept in {prepared.index.address}", err=True)
    return searcher
