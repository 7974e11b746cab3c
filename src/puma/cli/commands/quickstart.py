"""``puma quickstart``: everything once, on real images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from puma.cli.commands._places import writable


def register(app: typer.Typer) -> None:
    app.command("quickstart")(quickstart)


def quickstart(
    out: Annotated[Path, typer.Option(callback=writable, help="Folder for the results.")] = Path("runs/quickstart"),
    minutes: Annotated[
        float | None,
        typer.Option(help="Wall time of the contrastive training (default 7). The rest takes 4 to 10 minutes."),
    ] = None,
) -> None:
    """Assemble a small base, prune, train, evaluate, index and search. Needs no account. Takes a quarter of an hour on
    two slow cores, less on faster ones.

    To continue after an interruption, give the same command again; it trains for the minutes that were left. With
    other --minutes it trains longer or stops.

    Example: puma quickstart --minutes 10
    """
    from puma.cli.commands._shared import quiet_libraries

    quiet_libraries()
    from puma.mini.quickstart import quickstart as run

    run(out, minutes=minutes, say=typer.echo)
