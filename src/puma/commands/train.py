"""``puma train``: a retriever of any base and any data in M-BEIR's layout."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from puma.commands._shared import Json, print_json

Override = Annotated[
    list[str] | None, typer.Option("--set", help="A setting of the training, as learning_rate=1e-4; may be repeated.")
]


def register(app: typer.Typer) -> None:
    app.command("train")(train)


def train(
    base: Annotated[str, typer.Option(help="The base model (folder or hub name), or a retriever to train on.")],
    data: Annotated[Path, typer.Option(help="Data in M-BEIR's layout, with a train split.")],
    out: Annotated[Path, typer.Option(help="The retriever's folder.")],
    layers: Annotated[int | None, typer.Option("--layers", "-k", help="Decoder layers kept; all if not given.")] = None,
    keep_last: Annotated[bool, typer.Option("--keep-last", help="Keep the first k-1 and the very last.")] = False,
    prompt: Annotated[str, typer.Option(help="chat (the base's own template) or open-quote.")] = "chat",
    distil_steps: Annotated[int, typer.Option(help="Steps of stage 1, on the data's text pairs; 0 for none.")] = 0,
    settings: Override = None,
    distil_settings: Annotated[
        list[str] | None, typer.Option("--distil-set", help="A setting of stage 1, as --set.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Prune a base, distil, train with MAC-Loss, merge and save. An interrupted run goes on when the command is given
    again.

    Example: puma train --base Qwen/Qwen2-VL-2B-Instruct --data mbeir --layers 12 --out my-retriever --set steps=1000
    """
    from puma.commands._shared import quiet_libraries

    quiet_libraries()
    from puma.settings import TrainConfig
    from puma.twostage import train_two_stages

    stage_1 = TrainConfig.from_dict(
        {**DISTIL, "steps": distil_steps, **parsed(distil_settings)} if distil_steps else {"stage": "distil"}
    )
    stage_2 = TrainConfig.from_dict(parsed(settings))
    log = train_two_stages(
        base,
        data,
        out,
        layers=layers,
        keep_last=keep_last,
        prompt=prompt,
        distil=stage_1 if distil_steps else None,
        retrieve=stage_2,
    )
    if as_json:
        print_json({"out": str(out), "log": log})
        return
    typer.echo(f"{out}: trained; try  puma evaluate --model {out} --root {data}")


DISTIL = {
    "stage": "distil",
    "contrastive_weight": 0.9,
    "distillation_weight": 0.1 * 0.05,
    "temperature": 0.05,
    "decay": 0.0,
    "learning_rate": 2e-4,
    "batch_size": 72,
    "lora_dropout": 0.05,
}
"""Stage 1 of the recipe (method.md)."""


def parsed(pairs: list[str] | None) -> dict[str, object]:
    """``name=value`` settings, values read as YAML.

    Raises:
        ConfigError: one has no ``=``.
    """
    import yaml

    from puma.errors import ConfigError

    values: dict[str, object] = {}
    for pair in pairs or ():
        name, sign, value = pair.partition("=")
        if not sign:
            raise ConfigError(f"--set {pair!r}: write name=value, as learning_rate=1e-4")
        read = yaml.safe_load(value)
        try:  # YAML takes 1e-4 for a word
            values[name.strip()] = float(read) if isinstance(read, str) else read
        except ValueError:
            values[name.strip()] = read
    return values
