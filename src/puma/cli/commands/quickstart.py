"""``puma quickstart``: everything once, on real images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    app.command("quickstart")(quickstart)


def quickstart(
    out: Annotated[Path, typer.Option(help="Folder of results.")] = Path("runs/quickstart"),
) -> None:
    """Assemble a small base, prune, distil, train, evaluate, index and search: ten minutes on a laptop, no account.

    An interrupted run goes on where it was when the same command is given again.

    Example: puma quickstart --out runs/quickstart
    """
    from puma.cli.commands._shared import quiet_libraries

    quiet_libraries()
    from puma.mini.quickstart import quickstart as run

    run(out, say=typer.echo)
