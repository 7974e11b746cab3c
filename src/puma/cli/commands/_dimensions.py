"""``--dimensions``: vectors cut to a length that the model was trained for."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from puma.errors import InputError

Dimensions = Annotated[
    int | None,
    typer.Option("--dimensions", metavar="N", help="Cut vectors to this length; the model must be trained for it."),
]


def encoder_of_length(encoder: Any, dimensions: int | None) -> Any:
    """The encoder, its vectors cut to this length (None: whole).

    Raises:
        InputError: it was not trained for that.
    """
    from puma.items.dimensions import checked_dimensions, of_length

    if dimensions is None:
        return encoder
    return of_length(encoder, checked_dimensions(encoder, dimensions, "--dimensions"))


def check_length(searcher: Any, dimensions: int | None) -> None:
    """Raise InputError where an index holds vectors of another length than was asked for."""
    if dimensions not in (None, searcher.encoder.dim):
        raise InputError(
            f"--dimensions {dimensions}: {searcher.index.address} holds vectors of {searcher.encoder.dim} numbers; "
            "leave it out, or make a new index in another folder"
        )
