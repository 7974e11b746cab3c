"""``puma index add | ls | stats | verify | compact | export | rm | migrate``: an index filled, looked at, kept."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from puma.cli.commands._columns import ImageColumn, TextColumn
from puma.cli.commands._dimensions import Dimensions
from puma.cli.commands._engine import Address, Engine, EngineName, Workers
from puma.cli.commands._hits import PathsOnly, Zero, check_output, describe, describe_others, print_paths, row_fields
from puma.cli.commands._image_cache import CacheFolder, CacheSize, image_cache_of
from puma.cli.commands._image_memory import ImageMemory, use_image_memory
from puma.cli.commands._migrating import migrate
from puma.cli.commands._places import writable_index
from puma.cli.commands._shared import (
    Attention,
    Dtype,
    IndexAddress,
    Json,
    Layers,
    Model,
    Paths,
    print_json,
    print_skips,
    searcher_of,
)

if TYPE_CHECKING:
    from puma.search.ingest.filling import Added

REASONS_SHOWN = 20
"""Reasons for ignoring files that are printed; all of them with ``--json``."""
ModalityList = Annotated[
    list[str] | None, typer.Option("--modality", help="Only text, image or image,text items; can be repeated.")
]


def register(app: typer.Typer) -> None:
    group = typer.Typer(no_args_is_help=True, help="Fill, inspect and maintain an index.", rich_markup_mode=None)
    for command in (add, ls, stats, verify, compact, export, rm, migrate):
        group.command(command.__name__)(command)
    app.add_typer(group, name="index")


def add(
    index: Annotated[
        str,
        typer.Argument(metavar="INDEX", callback=writable_index, help="The index: its folder or address."),
    ],
    paths: Paths,
    model: Model = None,
    dtype: Dtype = "auto",
    attn: Attention = None,
    layers: Layers = None,
    dimensions: Dimensions = None,
    batch_size: Annotated[int, typer.Option(min=1, help="How many items are embedded and stored at a time.")] = 256,
    sync: Annotated[
        bool, typer.Option("--sync", help="Also remove items that came from these paths and no longer exist there.")
    ] = False,
    allow_empty: Annotated[
        bool, typer.Option("--allow-empty", help="With --sync: accept that a path is missing or empty now.")
    ] = False,
    exclude: Annotated[
        list[str] | None,
        typer.Option("--exclude", metavar="PATTERN", help="Skip these files and folders: '*.gif', drafts. Repeatable."),
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", help="Follow links to folders.")] = False,
    hidden: Annotated[
        bool, typer.Option("--hidden", help="Also read hidden files and folders, and those of the operating system.")
    ] = False,
    text_column: TextColumn = None,
    image_column: ImageColumn = None,
    encoding: Annotated[
        str | None, typer.Option(metavar="NAME", help="Encoding of text and tables that are not UTF-8: cp1252, utf-16.")
    ] = None,
    rehash: Annotated[
        bool, typer.Option("--rehash", help="Read every file again, even if its size and times have not changed.")
    ] = False,
    image_memory: ImageMemory = None,
    image_cache: CacheFolder = None,
    image_cache_size: CacheSize = None,
    engine: EngineName = "local",
    address: Address = None,
    workers: Workers = None,
    as_json: Json = False,
) -> None:
    """Embed images and texts and store them. Stored items are not embedded again. A file that is read again replaces
    its earlier items. The exit code is 1 if there was something to read but nothing could be read.

    To continue after an interruption, give the same command again. Files that cannot be read are listed and skipped.

    Example: puma index add my.index ~/Images captions.jsonl

    Example: puma index add my.index ~/Images --sync
    """
    from puma.errors import InputError
    from puma.index import Index
    from puma.search.ingest.options import ReadOptions
    from puma.search.ingest.prepared import PreparedPaths

    place = Engine(engine, address, workers)
    loading: dict[str, Any] = {"dtype": dtype, "attn": attn, "layers": layers}
    loading["image_cache"] = image_cache_of(image_cache, image_cache_size)
    if allow_empty and not sync:
        raise InputError("--allow-empty goes with --sync: without it nothing is removed")
    # Wrong paths and a folder that is no index are reported before a model is loaded.
    use_image_memory(image_memory)
    options = ReadOptions(text_column, image_column, encoding, tuple(exclude or ()), follow, hidden, rehash)
    prepared = PreparedPaths(Index(index), paths, sync=sync, allow_empty=allow_empty, options=options)
    with contextlib.ExitStack() as stack:
        remote = None
        if place.remote:
            chosen = place.encoder(model, dimensions=dimensions, index_dim=prepared.index.dim, **loading)
            remote = stack.enter_context(chosen)
        searcher = searcher_of(prepared.index, model, loaded=remote, dimensions=dimensions, **loading)
        kept: list[Added] = []
        try:
            added = searcher.add_prepared(prepared, batch_size=batch_size, on_batch=lambda done: kept.append(done))
        except KeyboardInterrupt:
            done = kept[-1].embedded if kept else 0
            typer.echo(f"{index}: {done} items of this run are stored, {len(searcher.index)} in all", err=True)
            raise
    if as_json:
        print_json(added.as_dict() | {"rows": len(searcher.index)})
        raise typer.Exit(int(added.nothing_readable))
    print_skips(added.skips)
    for note in added.notes:
        typer.echo(f"note: {note}", err=True)
    for reason, count in added.ignored_by.most_common(REASONS_SHOWN):
        typer.echo(f"ignored {count} {reason}", err=True)
    parts = [f"{added.embedded} added", f"{added.present} there already"]
    counts = {
        "of them updated": added.updated,
        "repeated": added.repeated,
        "further places kept": added.places,
        "removed": added.deleted,
        "kept because their files could not be read": added.kept,
    }
    parts += [f"{count} {what}" for what, count in counts.items() if count]
    parts += [f"{len(added.skips)} skipped", f"{added.ignored} other files ignored"]
    typer.echo(f"{index}: {', '.join(parts)}; {len(searcher.index)} items in all")
    if added.nothing_readable:
        typer.echo(f"{index}: nothing in these paths could be read; the lines above say why", err=True)
        raise typer.Exit(1)


def ls(
    index: IndexAddress,
    limit: Annotated[int, typer.Option("-n", min=1, help="How many items to show.")] = 20,
    modality: ModalityList = None,
    after: Annotated[str | None, typer.Option(help="Show only ids after this one, to get the next page.")] = None,
    where: Annotated[list[str] | None, typer.Option("--where", help="A condition, as in puma search.")] = None,
    paths: PathsOnly = False,
    null: Zero = False,
    as_json: Json = False,
) -> None:
    """List items by id.

    Example: puma index ls my.index -n 5 --modality image
    """
    from puma.cli.commands._where import parse_where
    from puma.index import Index

    only_paths = check_output(as_json, paths, null)
    rows = Index(index, create=False).page(limit, after, modality or None, parse_where(where), vectors=False)
    if as_json:
        print_json([row_fields(row) for row in rows])
        return
    if only_paths:
        print_paths((row.payload for row in rows), null)
        return
    for row in rows:
        typer.echo(f"{row.id}  {row.modality:10}  {describe(row.payload)}")
        for line in describe_others(row.other_payloads):
            typer.echo(line)


def stats(index: IndexAddress, as_json: Json = False) -> None:
    """Show the number of items, the model and the size.

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


def verify(index: IndexAddress, as_json: Json = False) -> None:
    """Read everything in an index and list its faults. The exit code is 1 if there are any.

    Example: puma index verify my.index
    """
    from puma.index import Index

    opened = Index(index, create=False)
    faults = opened.verify()
    if as_json:
        print_json({"rows": len(opened), "faults": faults})
    else:
        for fault in faults:
            typer.echo(fault)
        typer.echo(f"{index}: {len(opened)} items, {len(faults) or 'no'} fault{'s' if len(faults) != 1 else ''}")
    if faults:
        raise typer.Exit(1)


def compact(index: IndexAddress, as_json: Json = False) -> None:
    """Make an index smaller and faster now. This also happens automatically from time to time.

    Old versions are removed. A search that another process had already started may have to be repeated.

    Example: puma index compact my.index
    """
    from puma.index import Index

    done = Index(index, create=False).compact()
    if as_json:
        print_json(done)
        return
    typer.echo(f"{index}: " + ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in done.items()))


def export(
    index: IndexAddress,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The .jsonl or .parquet file to write.")],
    vectors: Annotated[bool, typer.Option("--vectors", help="Also write the vectors.")] = False,
    as_json: Json = False,
) -> None:
    """Write all items to a file: id, modality and payload (as text in Parquet), with --vectors also the vector.

    Example: puma index export my.index items.parquet --vectors
    """
    from puma.cli.commands._exporting import write_rows
    from puma.index import Index

    count = write_rows(Index(index, create=False), out, vectors)
    if as_json:
        print_json({"out": str(out), "items": count, "vectors": vectors})
        return
    typer.echo(f"{out}: {count} items")


def rm(
    index: IndexAddress,
    ids: Annotated[
        list[str] | None, typer.Argument(metavar="[ID]...", help="Ids of items, as ls and search --json show them.")
    ] = None,
    paths: Annotated[
        list[str] | None,
        typer.Option(
            "--path",
            help="Remove items that came from this file, or from files in or below this folder; can be repeated.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Remove items from an index. Their files are not changed. The next `puma index add` of them adds them again.

    Example: puma index rm my.index 9f86d081884c7d659a2feaa0c55ad015

    Example: puma index rm my.index --path ~/Pictures/2019
    """
    from puma.errors import InputError
    from puma.index import Index

    if not ids and not paths:
        raise InputError("give ids to remove, or --path with a file or folder")
    opened = Index(index, create=False)
    stored = opened.get(ids or [], vectors=False)
    missing = [name for name in dict.fromkeys(ids or []) if name not in stored]
    if ids and not stored:
        raise InputError(f"{index}: no item has the id {', '.join(map(repr, missing[:5]))}; nothing was removed")
    removed = opened.delete(list(stored)) if stored else 0
    if paths:
        from puma.search.ingest.removing import remove_paths

        removed += remove_paths(opened, paths)
    if as_json:
        print_json({"removed": removed, "missing": missing, "rows": len(opened)})
        return
    for name in missing:
        typer.echo(f"{name}: no such item", err=True)
    typer.echo(f"{index}: {removed} removed; {len(opened)} items in all")
