"""``puma export``: a retriever in the format of another program."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from puma.cli.commands._shared import Json, model_path, print_json, quiet_libraries
from puma.errors import InputError

FORMATS = ("vllm",)


def register(app: typer.Typer) -> None:
    app.command("export")(export)


def export(
    model: Annotated[
        str, typer.Argument(help="Retriever folder, org/name on the hub, or puma-mini, the model that ships with PUMA.")
    ],
    out: Annotated[Path, typer.Argument(help="The new folder.")],
    kind: Annotated[
        str, typer.Option("--format", help="vllm: the class names and the chat template by which vLLM serves it.")
    ],
    as_json: Json = False,
) -> None:
    """Write a retriever in another program's format.

    Example: puma export my-retriever my-retriever-vllm --format vllm
    """
    if kind not in FORMATS:
        raise InputError(f"--format {kind}: give one of {', '.join(FORMATS)}")
    quiet_libraries()
    from puma.retriever.vllm import export_vllm

    export_vllm(model_path(model), out)
    if as_json:
        print_json({"out": str(out), "format": kind})
        return
    typer.echo(f"{out}: vllm serve {out} --runner pooling")
