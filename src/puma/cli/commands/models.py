"""``puma models``: the retrievers that are on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from puma.cli.commands._shared import DEFAULT_MODEL, QUICKSTART_MODEL, Json, chosen_model, print_json

if TYPE_CHECKING:
    from puma.retriever.known import KnownModel

KINDS = {
    "default": "the default, ships with PUMA",
    "PUMA_MODEL": "named by PUMA_MODEL",
    "cache": "in PUMA's cache",
    "hub": "in the hub's cache",
    "folder": "in a folder",
}
"""Where a model was found."""


def register(app: typer.Typer) -> None:
    app.command("models")(models)


def models(
    folders: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[FOLDER]...", help="Also look in these folders, up to two levels deep."),
    ] = None,
    as_json: Json = False,
) -> None:
    """List the retrievers that --model can use without a download: the default one, those in the caches of PUMA and of
    the hub, and those in folders. A star marks the one that is used without --model.

    Example: puma models runs
    """
    rows = listed(folders or [])
    if as_json:
        print_json(rows)
        return
    wide = max(len(row["name"]) for row in rows)
    typer.echo(f"  {'NAME':{wide}}  LAYERS  VECTOR  WEIGHTS  WHERE")
    for row in rows:
        size = "-" if row["bytes"] is None else f"{row['bytes'] / 1e6:,.0f} MB"
        where = KINDS[row["kind"]]
        if row["dimensions"]:
            where += f"; vectors may be cut to {', '.join(map(str, row['dimensions']))}"
        if row["path"] is None:
            where += "; " + ("not here yet" if row["kind"] != "default" else "made on first use, about a minute")
        if row["revisions"]:
            where += f" ({', '.join(row['revisions'])})"
        elif row["kind"] == "hub":
            where += f" (revision {Path(row['path']).name})"
        figures = f"{row['layers'] or '-':>6}  {row['dim'] or '-':>6}  {size:>7}"
        typer.echo(f"{'*' if row['used'] else ' '} {row['name']:{wide}}  {figures}  {where}")


def listed(folders: list[Path]) -> list[dict[str, Any]]:
    """A row for each model: name, kind (a key of :data:`KINDS`), path, layers, dim, bytes, about, revisions, and used
    (whether it is the one taken where none is named). What is not here has a path of None.

    Raises:
        InputError: one of the folders is no folder.
    """
    from puma.mini.default import default_model_folder
    from puma.mini.fetch.packages import cache_home
    from puma.retriever.known import describe, in_folders, in_hub_cache

    given = in_folders(folders)
    chosen = str(chosen_model(None))
    default, models = default_model_folder(), cache_home() / "models"
    found: list[tuple[str, str, KnownModel | None]] = []
    found.append(("default", DEFAULT_MODEL, None if default is None else describe(default, DEFAULT_MODEL)))
    cached = in_folders([models]) if models.is_dir() else []
    found += [("cache", model.name, model) for model in cached if default is None or model.path != default]
    found += [("hub", model.name, model) for model in in_hub_cache()]
    if QUICKSTART_MODEL.is_dir():
        given = in_folders([QUICKSTART_MODEL]) + given
    found += [("folder", model.name, model) for model in given]
    if chosen not in [name for _, name, _ in found]:
        found.append(("PUMA_MODEL", chosen, describe(Path(chosen), chosen)))
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for kind, name, model in found:
        row = _row(kind, name, model)
        # Of a hub name without a revision main is taken; a folder given twice is listed once.
        row["used"] = name == chosen and (kind != "hub" or "main" in row["revisions"])
        rows.setdefault((name, str(row["path"])), row)
    return list(rows.values())


def _row(kind: str, name: str, model: KnownModel | None) -> dict[str, Any]:
    return {
        "name": name,
        "kind": kind,
        "path": None if model is None else str(model.path),
        "layers": None if model is None else model.layers,
        "dim": None if model is None else model.dim,
        "dimensions": [] if model is None else list(model.dimensions),
        "bytes": None if model is None else model.size,
        "about": {} if model is None else model.about,
        "revisions": [] if model is None else list(model.revisions),
    }
