"""Whether the vectors of ``puma embed`` will fit on the disk, before they are made."""

from __future__ import annotations

from pathlib import Path

from puma.cli.commands._shared import DEFAULT_MODEL, chosen_model
from puma.storage.room import RESERVE, free_bytes, same_disk, taken_bytes
from puma.storage.vectors import FLOAT_BYTES, NoRoomError

EXPECTED = 0.9
"""Share of the vectors that must fit: the number of items is an estimate, and those that cannot be read get none."""


def known_length(model: Path | None, st: str | None, dimensions: int | None) -> int | None:
    """The length of a model's vectors, read from its configuration; None where that takes loading the model."""
    from puma.mini.default import default_model_folder
    from puma.retriever.known import describe

    if dimensions is not None or st is not None:
        return dimensions
    folder: Path | None = Path(chosen_model(model))
    if str(folder) == DEFAULT_MODEL and not Path(DEFAULT_MODEL).exists():
        folder = default_model_folder()
    found = None if folder is None else describe(folder)
    return None if found is None else found.dim


def check_room(total: int, dim: int, out: Path, work: Path) -> None:
    """Refuse to begin where the vectors of so many items do not fit.

    Args:
        total: about how many items there are.
        dim: the length of a vector.
        out: the file that gets all vectors in the end.
        work: the folder that keeps them until then.

    Raises:
        NoRoomError: there is too little room for the one or the other, or for both on one disk.
    """
    each = int(total * dim * FLOAT_BYTES * EXPECTED)
    # What an interrupted run left is written over or goes on.
    missing = max(0, each - sum(map(taken_bytes, work.glob("embed-*/*/rows"))))
    if same_disk(work, out):
        _check(out, missing + each, total, dim, "another disk (--out)")
    else:
        _check(work, missing, total, dim, "another disk (--work)")
        _check(out, each, total, dim, "another disk (--out)")


def _check(place: Path, needed: int, total: int, dim: int, remedy: str) -> None:
    free = free_bytes(place)
    if needed + RESERVE > free:
        raise NoRoomError(
            f"{place}: the vectors of about {total:,} items, {dim:,} numbers each, need {needed:,} bytes here until "
            f"they are all made, and {free:,} are free; make room, or name a place on {remedy}"
        )
