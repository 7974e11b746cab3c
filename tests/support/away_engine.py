"""An engine for the tests of addresses: the folder engine, in a folder below the current one."""

from __future__ import annotations

from pathlib import Path

from puma.index import lance


def _folder(where: Path | str) -> Path:
    return Path(str(where).removeprefix("away://"))


def open_table(where):
    return lance.open_table(_folder(where))


def create_table(where, dim, fingerprint):
    return lance.create_table(_folder(where), dim, fingerprint)
