"""Options that name the columns of tables of items."""

from __future__ import annotations

from typing import Annotated

import typer

TextColumn = Annotated[
    str | None, typer.Option(metavar="NAME", help="Column or JSON key that holds the text; '-' for none.")
]
ImageColumn = Annotated[
    str | None, typer.Option(metavar="NAME", help="Column or JSON key that holds the image; '-' for none.")
]
