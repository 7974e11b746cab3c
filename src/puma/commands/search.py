"""``puma search``: ask an index with words, a picture, or both."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from puma.commands._shared import IndexFolder, Json, Model, print_json, query_item, searcher_of
from puma.commands.index import describe


def register(app: typer.Typer) -> None:
    app.command("search")(search)


def search(
    index: IndexFolder,
    text: Annotated[str | None, typer.Argument(metavar="[TEXT]", help="The query's words.")] = None,
    image: Annotated[Path | None, typer.Option("--image", "-i", help="The query's picture.")] = None,
    k: Annotated[int, typer.Option("-k", min=1, help="Results shown.")] = 10,
    modality: Annotated[str | None, typer.Option(help="Only text, image, or image,text.")] = None,
    instruction: Annotated[str | None, typer.Option(help="Instead of the default one; '' for none.")] = None,
    model: Model = None,
    as_json: Json = False,
) -> None:
    """Find the items most like a query.

    Example: puma search my.index "a red fox in snow" -k 5 --modality image

    Example: puma search my.index "the same at night" --image fox.png
    """
    from puma.index import Index
    from puma.index.interface import checked_modality

    query = query_item(text, image)
    checked_modality(modality)
    Index(index, create=False)
    hits = searcher_of(index, model).search(query, k, modality, instruction)
    if as_json:
        print_json([asdict(hit) for hit in hits])
        return
    for rank, hit in enumerate(hits, start=1):
        typer.echo(f"{rank:3}  {hit.score:7.4f}  {hit.modality:10}  {describe(hit.payload) or hit.id}")
    if not hits:
        typer.echo("nothing found: the index has no items" + (f" of modality {modality}" if modality else ""), err=True)
