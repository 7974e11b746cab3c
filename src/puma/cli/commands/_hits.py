"""Items on the terminal: on one line each, as JSON, or as the paths of their files, for other programs."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from puma.cli.printable import printable
from puma.errors import InputError

if TYPE_CHECKING:
    from puma.index import Row

TEXT_SHOWN = 160
"""Characters of a text; a path is always shown whole."""

PathsOnly = Annotated[
    bool, typer.Option("--paths", help="Print only the files' paths, one per line. Items without a file are left out.")
]
Zero = Annotated[
    bool, typer.Option("-0", "--null", help="Like --paths, but end each path with a NUL character, for xargs -0.")
]


def row_fields(row: Row) -> dict[str, Any]:
    """A stored item for JSON; its other places only where it has any."""
    fields: dict[str, Any] = {"id": row.id, "modality": row.modality, "payload": row.payload}
    return fields | ({"other_payloads": list(row.other_payloads)} if row.other_payloads else {})


def describe(payload: Mapping[str, Any]) -> str:
    """A payload on one line: the image's whole path, then the text, cut where it is long."""
    parts = []
    image, text = payload.get("image"), payload.get("text")
    if image is not None:
        parts.append(printable(str(image)))
    if text is not None:
        words = printable(" ".join(str(text).split()))
        parts.append(words if len(words) <= TEXT_SHOWN else words[: TEXT_SHOWN - 1] + "…")
    return "  ".join(parts)


def check_output(as_json: bool, paths: bool, null: bool) -> bool:
    """Whether paths are wanted.

    Raises:
        InputError: JSON too.
    """
    if as_json and (paths or null):
        raise InputError("give one of --json and --paths (or -0), got both")
    return paths or null


def print_paths(payloads: Iterable[Mapping[str, Any]], null: bool) -> None:
    """The paths of the items' files, each once, in order; a note on stderr of items that have none."""
    from puma.search.ingest.fields import file_of

    named: dict[str, None] = {}
    without = 0
    for payload in payloads:
        image = payload.get("image")
        if isinstance(image, str):
            named[file_of(image)] = None
        else:
            without += 1
    end = "\0" if null else "\n"
    sys.stdout.flush()
    for path in named:
        # As bytes: a file's name need not be text.
        typer.echo(path.encode("utf-8", "surrogateescape") + end.encode(), nl=False)
    if without:
        typer.echo(f"left out, because they have no file: {without}", err=True)


def describe_others(payloads: Sequence[dict[str, Any]]) -> list[str]:
    """A line for each further place of an item: where it is, or which fields it has there."""
    lines = []
    for payload in payloads:
        fields = ", ".join(f"{key}={value}" for key, value in payload.items() if key not in ("text", "image"))
        lines.append("  ".join(part for part in (str(payload.get("image", "")), fields) if part) or describe(payload))
    return [f"     also  {printable(line)}" for line in lines]
