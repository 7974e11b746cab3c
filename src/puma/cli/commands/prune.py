"""``puma prune``: a model folder with fewer decoder layers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from puma.cli.commands._shared import Json, print_json


def register(app: typer.Typer) -> None:
    app.command("prune")(prune)


def prune(
    base: Annotated[str, typer.Argument(help="The base: a model folder, or a name on the hub.")],
    out: Annotated[Path, typer.Argument(help="The new model folder.")],
    layers: Annotated[int, typer.Option("--layers", "-k", help="Decoder layers kept.")],
    keep_last: Annotated[bool, typer.Option("--keep-last", help="Keep the first k-1 and the very last.")] = False,
    as_json: Json = False,
) -> None:
    """Keep the shallow decoder layers of a multimodal LLM: an ordinary model folder of its family comes out.

    Example: puma prune Qwen/Qwen2-VL-2B-Instruct qwen2-vl-12 --layers 12
    """
    from puma.cli.commands._shared import quiet_libraries

    quiet_libraries()
    from puma.pruning import RECORD, count_parameters, load_model, prune_folder

    prune_folder(base, out, layers, keep_last=keep_last)
    counts = count_parameters(load_model(out))
    if as_json:
        import json

        print_json({"out": str(out), "parameters": counts, **json.loads((out / RECORD).read_text(encoding="utf-8"))})
        return
    typer.echo(
        f"{out}: {layers} decoder layers, {counts['total'] / 1e6:,.1f} M parameters "
        f"({counts['without_embeddings'] / 1e6:,.1f} M without token embeddings and LM head)"
    )
