"""``puma train --data TABLE``: what of its flags goes with a table of pairs, and what is printed."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer

from puma.cli.commands._shared import model_path, print_json
from puma.errors import InputError


def train_on_table(
    base: str | None,
    data: Path,
    out: Path | None,
    *,
    columns: str | None,
    held_out: float | None,
    changes: Mapping[str, Any],
    attn: str | None,
    strict: bool,
    as_json: bool,
    unfit: Mapping[str, Any],
) -> None:
    """Fine-tune and print hit rates before and after.

    Args:
        base: the retriever; None for PUMA_MODEL's or the default one.
        out: the new retriever's folder; None for one beside where the command is given, named like the table.
        changes: training settings, also as ``retrieve.<name>``.
        unfit: flags that only pruning and recipes have, as they were given.

    Raises:
        InputError: one of ``unfit`` was given. And as :func:`puma.training.finetune.run.fine_tune`.
    """
    given = [flag for flag, value in unfit.items() if value]
    if given:
        raise InputError(
            f"{', '.join(given)}: not with a table of pairs ({data}), which trains an existing retriever further; "
            "to make one from a base, give puma train data in M-BEIR's layout"
        )
    from puma.data.pair_columns import parse_columns
    from puma.mini.base.known_images import features_of, has_known_tower
    from puma.training.finetune.report import gain_lines
    from puma.training.finetune.run import fine_tune
    from puma.training.finetune.split import FRACTION

    settings = {key.removeprefix("retrieve."): value for key, value in changes.items() if value is not None}
    mapped = parse_columns(columns)
    target = Path(f"{data.name.removesuffix(data.suffix) or 'my'}-retriever") if out is None else out
    model = model_path(base)
    report = fine_tune(
        model,
        data,
        target,
        columns=mapped,
        held_out=FRACTION if held_out is None else held_out,
        changes=settings,
        attn=attn,
        strict=strict,
        store=functools.partial(features_of, Path(model)) if has_known_tower(Path(model)) else None,
    )
    if as_json:
        print_json({"out": str(target), **report})
        return
    for line in gain_lines(report["gains"]):
        typer.echo(line)
    if not report["helped"]:
        typer.echo(
            "training did not help on the held-out queries that choose the weights: the model is saved unchanged"
        )
    typer.echo(f"{target}: saved; try  puma index add my.index IMAGES --model {target}")
