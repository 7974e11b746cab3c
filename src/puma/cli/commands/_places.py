"""Where a command writes: a place that cannot be written to is refused before the command does anything."""

from __future__ import annotations

from pathlib import Path

import typer

from puma.storage.folders import check_place


def writable(param: typer.CallbackParam, value: Path | None) -> Path | None:
    """Callback of an option or argument that names a file or folder to write.

    Raises:
        InputError: its path leads through a file. StorageError: there is no permission to write there.
    """
    if value is not None:
        check_place(value, _shown(param))
    return value


def writable_index(param: typer.CallbackParam, value: str) -> str:
    """As :func:`writable`, of an index's folder or address."""
    from puma.index.addresses import scheme_of

    if scheme_of(value) is None:
        check_place(value, _shown(param))
    return value


def _shown(param: typer.CallbackParam) -> str:
    """The name as the help shows it: ``--out`` of an option, ``OUT`` of an argument."""
    return next((name for name in param.opts if name.startswith("--")), (param.name or "").upper())
