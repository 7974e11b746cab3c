"""What an index's address means: a folder, or ``scheme://...`` for an engine elsewhere. Loads no engine by itself."""

from __future__ import annotations

import os
import re
from importlib import import_module
from pathlib import Path
from typing import Protocol, cast

from puma.errors import InputError
from puma.index.generations import Generations
from puma.index.interface import Engine

FOLDER_ENGINE = "puma.index.lance"
ENGINES: dict[str, str] = {
    "milvus": "puma.index.milvus.engine",
    "milvus+https": "puma.index.milvus.engine",
    "milvus-lite": "puma.index.milvus.engine",
    "s3": "puma.index.object_store",
    "gs": "puma.index.object_store",
    "az": "puma.index.object_store",
}
"""The module of each scheme; it has ``open_table`` and ``create_table`` as :class:`EngineModule` describes them."""
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/(/?)")


class EngineModule(Protocol):
    """What the module of an engine offers. ``where`` is a ``Path`` for the folder engine, else the whole address."""

    def open_table(self, where: Path | str) -> Engine | None:
        """The engine on an existing index; None where there is none."""

    def create_table(self, where: Path | str, dim: int, fingerprint: str | None) -> Engine:
        """Make an empty index; if another process was faster, open what it made."""

    def generations(self, where: Path | str) -> Generations:
        """The models that the index has or had."""


def scheme_of(address: str | os.PathLike[str]) -> str | None:
    """``milvus`` of ``milvus://host/name``; None for a folder.

    Raises:
        InputError: no engine has that scheme, or the address went through ``pathlib.Path``, which drops a slash.
    """
    text = os.fspath(address)
    match = _SCHEME.match(text)
    if match is None:
        return None
    scheme = match[1].lower()
    if not match[2]:
        if scheme not in ENGINES:
            return None  # a folder whose name ends in a colon
        raise InputError(f"index address {text!r}: after {match[1]}:/ a slash is missing; give text, not a Path")
    if scheme not in ENGINES:
        known = ", ".join(f"{name}://" for name in ENGINES) or "none"
        raise InputError(f"index address {text!r}: no engine for {match[1]}://; give a folder, or one of {known}")
    return scheme


def name_of(address: str | os.PathLike[str]) -> str:
    """The name an index is served under: ``my`` of ``folder/my.index`` and of ``milvus://host:19530/my``."""
    if scheme_of(address) is None:
        return Path(address).absolute().stem
    return Path(os.fspath(address).rstrip("/").rpartition("/")[2]).stem


def expanded(address: str | os.PathLike[str]) -> str:
    """With ``~`` as the user's home in a folder's path; other addresses as they are."""
    return os.fspath(address) if scheme_of(address) else os.path.expanduser(address)


def engine_of(address: str | os.PathLike[str]) -> tuple[EngineModule, Path | str]:
    """The module that opens and makes indexes of this address, and what to give it."""
    scheme = scheme_of(address)
    module = import_module(FOLDER_ENGINE if scheme is None else ENGINES[scheme])
    return cast(EngineModule, module), Path(address) if scheme is None else os.fspath(address)


def generations_of(address: str | os.PathLike[str]) -> Generations:
    """The models that the index at an address has or had. Raises what reaching it raises."""
    module, where = engine_of(address)
    return module.generations(where)
