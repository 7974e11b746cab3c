"""``puma quickstart``: everything once, on real images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    app.command("quickstart")(quickstart)


def quickstart(
    out: Annotated[Path, typer.Option(help="Folder of results.")] = Path("runs/quickstart"),
    minutes: Annotated[
        float | None,
        typer.Option(help="Wall time of the contrastive training (7 if not given); the rest takes 4 to 10 minutes."),
    ] = None,
) -> None:
    """Assemble a small base, prune, train, evaluate, index and search, without an account: a quarter of an hour
    on two slow cores, less on faster ones.

    An interrupted run goes on where it was when the same command is given again, with what was left of its minutes;
    with other minutes it trains longer or stops.

    Example: puma quickstart --minutes 10
    """
    from puma.cli.commands._shared import quiet_libraries

    quiet_libraries()
    from puma.mini.quickstart import quickstart as run

    run(out, minutes=minutes, say=typer.echo)
