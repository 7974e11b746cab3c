"""``puma train --data TABLE``: a retriever trained on with a table of pairs, or a base trained on it by a recipe."""

from __future__ import annotations

import functools
import shlex
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from puma.cli.commands._shared import DEFAULT_MODEL, model_path, note, print_json
from puma.errors import InputError, require

if TYPE_CHECKING:
    from puma.training.recipes.recipe import Recipe


def trains_a_retriever(recipe: str | None, base: str | None) -> bool:
    """Whether a table of pairs trains a retriever further, and not a base model: without a recipe, where the model
    that is named is a retriever, or none is named."""
    if recipe is not None:
        return False
    from puma.pruning.hub import holds
    from puma.retriever.prompts import PROMPT_FILE

    return base in (None, DEFAULT_MODEL) or holds(base, PROMPT_FILE)


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
        which = "no base" if base is None else f"a retriever ({base})"
        raise InputError(
            f"{', '.join(given)}: not with a table of pairs ({data}) and {which}, which trains an existing retriever "
            "further as it is; to train a base model, name a recipe, or the base with --base"
        )
    from puma.data.pair_columns import parse_columns
    from puma.evaluation.processes import is_first
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
    if not is_first():
        return
    if as_json:
        print_json({"out": str(target), **report})
        return
    for line in gain_lines(report["gains"]):
        typer.echo(line)
    if not report["helped"]:
        typer.echo(
            "training did not help on the held-out queries that choose the weights: the model is saved unchanged"
        )
    typer.echo(f"{target}: saved; try  puma index add my.index IMAGES --model {shlex.quote(str(target))}")


def benchmark_of_table(
    base: str, data: Path, out: Path, *, columns: str | None, held_out: float | None, strict: bool
) -> Path:
    """The table as a folder in M-BEIR's layout, in the new model's working folder; that of an unfinished run is used
    again.

    Args:
        base: what will be trained; a mistyped one is refused before the table is read.

    Raises:
        InputError: no such base; the working folder belongs to a run of other data; too few different queries.
        DataError: the table cannot be used. DependencyError: the extra that training needs is not installed.
    """
    from puma.data.pair_columns import parse_columns
    from puma.data.pair_tables import PairTable
    from puma.pruning.hub import model_folder
    from puma.training.recipes.recipe import MINI

    require("training", "train")
    if base != MINI:
        model_folder(base, what="base")
    from puma.training.finetune.split import FRACTION
    from puma.training.finetune.working import benchmark_of_run
    from puma.training.two_stages import free_target

    target = free_target(out)
    share = FRACTION if held_out is None else held_out
    table = PairTable(data, parse_columns(columns))
    return benchmark_of_run(table, target.with_name(target.name + ".work"), held_out=share, strict=strict, say=note)


def fitted_plan(plan: Recipe, root: Path, given: Collection[str]) -> Recipe:
    """The recipe with batches and steps that fit the table; what is changed is printed on stderr.

    Args:
        root: of :func:`benchmark_of_table`.
        given: dotted keys that the command line sets: they stay.
    """
    from puma.training.finetune.settings import MOST_NEGATIVES, fitted_stage
    from puma.training.pairs import read_pairs

    pairs = read_pairs(root, negatives=MOST_NEGATIVES)
    texts = [pair for pair in pairs if pair.query.image is None and pair.candidate.image is None]
    for name, rows in (("distil", texts), ("retrieve", pairs)):
        stage = getattr(plan, name)
        if stage is None or stage.items_only:
            continue
        own = {key.removeprefix(f"{name}.") for key in given if key.startswith(f"{name}.")}
        fitted = fitted_stage(stage, rows, own)
        changed = [
            f"{field}={getattr(fitted, field)}"
            for field in ("batch_size", "steps", "eval_every", "hard_negatives")
            if getattr(fitted, field) != getattr(stage, field)
        ]
        if changed:
            note(f"{name}: {', '.join(changed)}, to fit {len(rows):,} training pairs (--set {name}.NAME=... decides)")
        changes: dict[str, Any] = {name: fitted}
        plan = replace(plan, **changes)
    return plan


def held_out_figures(out: Path, root: Path) -> dict[str, Any]:
    """Hit rates of the trained retriever on the table's test split, and a random ranking's."""
    from puma.evaluation.mbeir import chance, evaluate
    from puma.retriever.model import Retriever

    later = shlex.join(["puma", "evaluate", "--model", str(out), "--root", str(root)])
    note(f"{out}: trained and saved; now its hit rates on the held-out queries (to see them later: {later})")
    options: dict[str, Any] = {"split": "test", "pools": ("local",)}
    return {"model": evaluate(Retriever.from_pretrained(out), root, **options), "chance": chance(root, **options)}


def figure_lines(figures: Mapping[str, Any]) -> str:
    """The figures of :func:`held_out_figures`, to read."""
    from puma.evaluation.report.terminal import plain_table

    return "held out, never trained on: " + plain_table(figures["model"], figures["chance"], "local")
