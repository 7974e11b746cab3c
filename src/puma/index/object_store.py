"""The engine of ``s3://``, ``gs://`` and ``az://`` addresses: LanceDB's tables in an object store. Loads no torch."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from puma.errors import InputError
from puma.index.generations import Generations
from puma.index.lance import LanceEngine, created, opened
from puma.index.object_generations import GenerationFolder, ObjectGenerations, current
from puma.index.remote import RemoteFolder
from puma.index.tables import ITEMS


def open_table(where: Path | str) -> LanceEngine | None:
    """The engine on an existing index; None where none was ever finished.

    Raises:
        InputError: the address has no name after the bucket, or there are other things.
        StorageError: the store cannot be reached, refuses the credentials, or has no such bucket.
        DependencyError: obstore is not installed.
    """
    folder = RemoteFolder(str(where))
    bucket, _, name = folder.url.partition("://")[2].partition("/")
    if not bucket or not name:
        raise InputError(f"index address {folder}: write s3://BUCKET/NAME; an index needs a name in the bucket")
    used = GenerationFolder(folder, current(folder).number)
    if used.exists(ITEMS):
        return opened(used)
    others = folder.others(f"{ITEMS}.lance")
    if others:
        raise InputError(f"{folder}: there are other things ({', '.join(others)}), and no index; choose another name")
    return None


def create_table(where: Path | str, dim: int, fingerprint: str | None) -> LanceEngine:
    """Make an empty index; if another process was faster, open what it made.

    Raises:
        StorageError, InputError, DependencyError: as :func:`open_table`.
    """
    folder = GenerationFolder(RemoteFolder(str(where)), 1)
    return created(folder, partial(open_table, where), dim, fingerprint)


def generations(where: Path | str) -> Generations:
    """The models that the index at an address has or had."""
    return ObjectGenerations(RemoteFolder(str(where)), opened, _created)


def _created(folder: RemoteFolder, dim: int, fingerprint: str | None) -> LanceEngine:
    """The tables of one generation, whether it counts or not."""
    return created(folder, lambda: opened(folder) if folder.exists(ITEMS) else None, dim, fingerprint)
