"""``puma prune``: a model folder with fewer decoder layers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from puma.cli.commands._places import writable
from puma.cli.commands._shared import Json, print_json


def register(app: typer.Typer) -> None:
    app.command("prune")(prune)


def prune(
    base: Annotated[str, typer.Argument(help="The base model: a folder, or a name on the hub.")],
    out: Annotated[Path, typer.Argument(callback=writable, help="The model folder to write.")],
    layers: Annotated[int, typer.Option("--layers", "-k", help="How many decoder layers to keep.")],
    keep_last: Annotated[
        bool, typer.Option("--keep-last", help="Keep the first k-1 layers and the last one, instead of the first k.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Keep only the first decoder layers of a multimodal LLM. The result is an ordinary model folder of its family.

    Example: puma prune Qwen/Qwen2-VL-2B-Instruct qwen2-vl-12 --layers 12
    """
    from puma.cli.commands._shared import quiet_libraries

    quiet_libraries()
    from puma.errors import InputError
    from puma.pruning import RECORD, count_parameters, load_model, prune_folder
    from puma.pruning.hub import holds
    from puma.retriever.prompts import PROMPT_FILE

    if holds(base, PROMPT_FILE):
        raise InputError(f"base {base}: is a retriever already; prune the base that it was made from, and train that")
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
