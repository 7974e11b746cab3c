"""``puma search``: ask an index with words, an image, or both."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from puma.cli.commands._shared import Attention, Dtype, IndexFolder, Json, Model, print_json, query_item, searcher_of
from puma.cli.commands.index import ModalityList, describe, describe_others


def register(app: typer.Typer) -> None:
    app.command("search")(search)


def search(
    index: IndexFolder,
    text: Annotated[str | None, typer.Argument(metavar="[TEXT]", help="The query's words.")] = None,
    image: Annotated[Path | None, typer.Option("--image", "-i", help="The query's image.")] = None,
    k: Annotated[int, typer.Option("-k", min=1, help="Results shown.")] = 10,
    modality: ModalityList = None,
    where: Annotated[
        list[str] | None,
        typer.Option(
            "--where",
            help="Only items whose fields say so: KEY=VALUE, also != < <= > >=, or a filter as JSON. May be given "
            "several times; all must hold.",
        ),
    ] = None,
    minus: Annotated[
        list[str] | None, typer.Option("--minus", help="Words for what the results should not be like.")
    ] = None,
    offset: Annotated[int, typer.Option("--offset", min=0, help="Leave out so many of the best: the next page.")] = 0,
    instruction: Annotated[str | None, typer.Option(help="Instead of the default one; '' for none.")] = None,
    merge: Annotated[
        str,
        typer.Option(
            help="How hits of several modalities come into one order: calibrated, rank, score, or single (one query "
            "and one search for all)."
        ),
    ] = "calibrated",
    model: Model = None,
    dtype: Dtype = "auto",
    attn: Attention = None,
    as_json: Json = False,
) -> None:
    """Find the items most like a query.

    Example: puma search my.index "a red fox in snow" -k 5 --modality image

    Example: puma search my.index "the same at night" --image fox.png

    Example: puma search my.index "shoes" --where brand=b3 --where 'price<20' --minus boots
    """
    from puma.cli.commands._where import parse_where
    from puma.index import Index
    from puma.index.filters import checked_filter
    from puma.index.interface import checked_modality
    from puma.search.merging import checked_merge

    query = query_item(text, image)
    for given in modality or ():
        checked_modality(given)
    checked_merge(merge)
    condition = parse_where(where)
    checked_filter(condition)
    opened = Index(index, create=False)
    hits = searcher_of(opened, model, dtype=dtype, attn=attn).search(
        query, k, modality or None, instruction, where=condition, minus=minus or (), offset=offset, merge=merge
    )
    if as_json:
        print_json([asdict(hit) for hit in hits])
        return
    for rank, hit in enumerate(hits, start=offset + 1):
        typer.echo(f"{rank:3}  {hit.score:7.4f}  {hit.modality:10}  {describe(hit.payload) or hit.id}")
        for line in describe_others(hit.other_payloads):
            typer.echo(line)
    if not hits:
        conditions = [f"modality {' or '.join(modality)}"] if modality else []
        conditions += ["these fields"] if where else []
        of = f" of {' and '.join(conditions)}" if conditions else ""
        what = f"no more than {offset} items" if offset else "no items"
        typer.echo(f"nothing found: the index has {what}{of}", err=True)
