"""``puma index add | ls | stats``: filling an index and looking into it."""

from __future__ import annotations

from typing import Annotated

import typer

from puma.commands._shared import IndexFolder, Json, Model, Paths, print_json, print_skips, searcher_of


def register(app: typer.Typer) -> None:
    group = typer.Typer(no_args_is_help=True, help="Make an index, add to it, look into it.", rich_markup_mode=None)
    group.command("add")(add)
    group.command("ls")(ls)
    group.command("stats")(stats)
    app.add_typer(group, name="index")


def add(
    index: IndexFolder,
    paths: Paths,
    model: Model = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Items embedded and stored at once.")] = 256,
    as_json: Json = False,
) -> None:
    """Embed pictures and texts and store them. What is stored already is not embedded again.

    An interrupted run goes on where it was when the same command is given again.

    Example: puma index add my.index ~/Pictures captions.jsonl
    """
    from puma.index import Index
    from puma.ingest import read_items

    paths = [path.expanduser() for path in paths]
    read_items(paths)  # wrong paths and a folder that is no index are told before a model is loaded
    Index(index)
    searcher = searcher_of(index, model)
    added = searcher.add_paths(paths, batch_size=batch_size)
    if as_json:
        print_json(added.as_dict() | {"rows": len(searcher.index)})
        return
    print_skips(added.skips)
    parts = [f"{added.embedded} added", f"{added.present} there already"]
    parts += [
        f"{count} {what}" for count, what in ((added.updated, "of them updated"), (added.repeated, "repeated")) if count
    ]
    parts += [f"{len(added.skips)} skipped", f"{added.ignored} other files ignored"]
    typer.echo(f"{index}: {', '.join(parts)}; {len(searcher.index)} items in all")


def ls(
    index: IndexFolder,
    limit: Annotated[int, typer.Option("-n", min=1, help="Items shown.")] = 20,
    modality: Annotated[str | None, typer.Option(help="text, image, or image,text.")] = None,
    as_json: Json = False,
) -> None:
    """List items by id.

    Example: puma index ls my.index -n 5 --modality image
    """
    from puma.index import Index

    rows = Index(index, create=False).first(limit, modality)
    if as_json:
        print_json([{"id": row.id, "modality": row.modality, "payload": row.payload} for row in rows])
        return
    for row in rows:
        typer.echo(f"{row.id}  {row.modality:10}  {describe(row.payload)}")


def stats(index: IndexFolder, as_json: Json = False) -> None:
    """Count items; name the model; tell the size.

    Example: puma index stats my.index --json
    """
    from puma.index import Index

    found = Index(index, create=False).stats()
    if as_json:
        print_json(found)
        return
    for key, value in found.items():
        if isinstance(value, dict):
            value = ", ".join(f"{count} {name}" for name, count in value.items())
        typer.echo(f"{key:12} {value}")


def describe(payload: dict) -> str:
    """A payload on one line: the text, and the picture's path."""
    return "  ".join(str(payload[key]).replace("\n", " ") for key in ("text", "image") if key in payload)[:160]
