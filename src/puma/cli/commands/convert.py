"""``puma convert``: a table of pairs as a folder in M-BEIR's layout."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from puma.cli.commands._places import writable
from puma.cli.commands._shared import Json, print_json, print_skips


def register(app: typer.Typer) -> None:
    app.command("convert")(convert)


def convert(
    table: Annotated[
        Path,
        typer.Argument(help="A table of pairs: .csv, .tsv, .jsonl, .ndjson, .parquet or a saved datasets folder."),
    ],
    out: Annotated[Path, typer.Argument(callback=writable, help="The folder to write.")],
    columns: Annotated[
        str | None, typer.Option(help="Names of your columns, such as query_text=caption,positive_image=path.")
    ] = None,
    held_out: Annotated[
        float | None,
        typer.Option(help="Share of the queries for the splits val and test, half each (default 0.2)."),
    ] = None,
    copy: Annotated[
        bool, typer.Option("--copy", help="Copy the image files. Without this the folder links to them.")
    ] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Refuse a table with faulty rows. Without this they are left out.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Write a table of pairs as a benchmark folder, which train, probe, mine and evaluate take.

    Example: puma convert pairs.csv my-data
    """
    from puma.data.pair_columns import parse_columns
    from puma.data.pair_tables import PairTable
    from puma.training.finetune.benchmark import convert as converted
    from puma.training.finetune.split import FRACTION

    found = converted(
        PairTable(table, parse_columns(columns)),
        out,
        held_out=FRACTION if held_out is None else held_out,
        copy=copy,
        strict=strict,
        show_progress=True,
    )
    if as_json:
        skips = [{"where": skip.where, "reason": skip.reason} for skip in found.skips]
        print_json({"out": str(out), "queries": found.queries, "datasets": found.datasets, "left_out": skips})
        return
    print_skips(found.skips)
    splits = ", ".join(f"{count:,} {name}" for name, count in found.queries.items())
    words = ["puma", "train", "qwen2-vl-2b", "--data", str(out), "--out", "my-retriever"]
    typer.echo(f"{out}: queries: {splits}; try  {shlex.join(words)}")
