"""``puma train``: a retriever of any base and any data in M-BEIR's layout, by a recipe or by flags, or one trained on
with a table of pairs."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from puma.cli.commands._costs import cost_text
from puma.cli.commands._places import writable
from puma.cli.commands._shared import Json, print_json

PAPER = "qwen2-vl-7b"
"""The recipe whose first stage the flags start from."""

HELP = """Make a retriever from a base: prune, distil, train with a contrastive loss, merge adapters and save. With a
table of pairs as --data and no recipe or base: train an existing retriever further (docs/own-data.md). To continue
after an interruption, give the same command again.

RECIPE is a YAML file or the name of a shipped one: mini, mini-distilled, puma-mini, qwen2-vl-2b, qwen2-vl-7b,
qwen2.5-vl-3b, qwen3-vl-2b, qwen3-vl-4b, qwen3-vl-8b, smolvlm-256m, smolvlm-500m. Without one, give --base.

Examples:

  puma train --data pairs.csv               train puma-mini further on your pairs: query_text, positive_image, ...

  puma train --data pairs.csv --columns query_text=caption,positive_image=path --minutes 5

  puma train mini --out my-mini

  puma train puma-mini --out my-mini --adapter my-mini.safetensors      train the default model again

  puma train qwen2-vl-2b --data mbeir --out my-retriever --set retrieve.epochs=1 --set layers=16

  puma train qwen2-vl-2b --data pairs.csv --out my-retriever      prune and train a base on your pairs

  puma train qwen2-vl-7b --dry-run          show parameters, memory, FLOPs; download nothing

  puma train --base Qwen/Qwen2-VL-2B-Instruct --data mbeir --layers 12 --out my-retriever --set steps=1000

  puma train qwen2-vl-2b --data mbeir --out m --eval-every 500 --patience 4 --report-to tensorboard

On several GPUs, with either launcher. Batch sizes are per GPU:

  torchrun --nproc-per-node 4 -m puma.cli train qwen2-vl-7b --data mbeir --out my-retriever

  accelerate launch --num-processes 4 -m puma.cli train qwen2-vl-7b --data mbeir --out my-retriever
"""


def register(app: typer.Typer) -> None:
    app.command(
        "train", help=HELP, short_help="Train a retriever from a base and your data, by a recipe or by options."
    )(train)


def train(
    recipe: Annotated[
        str | None, typer.Argument(metavar="[RECIPE]", help="File or name of a recipe (docs/recipes.md).")
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(
            "--base", "--model", "-m", help="The base model (folder or hub name), or a retriever to train further."
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            help="A folder in M-BEIR's layout with a train split. Or a table of pairs: .csv, .tsv, .jsonl, .ndjson, "
            ".parquet or a saved datasets folder."
        ),
    ] = None,
    columns: Annotated[
        str | None,
        typer.Option(help="With pairs: names of your columns, such as query_text=caption,positive_image=path."),
    ] = None,
    held_out: Annotated[
        float | None, typer.Option(help="With pairs: share of the queries that are kept for evaluation (default 0.2).")
    ] = None,
    out: Annotated[Path | None, typer.Option(callback=writable, help="Folder of the new retriever.")] = None,
    adapter: Annotated[
        Path | None,
        typer.Option(
            callback=writable,
            help="With the mini base: also write the model as an adapter file, the form in which puma-mini ships.",
        ),
    ] = None,
    layers: Annotated[
        int | None, typer.Option("--layers", "-k", help="How many decoder layers to keep. Default: all.")
    ] = None,
    keep_last: Annotated[bool, typer.Option("--keep-last", help="Keep the first k-1 layers and the last one.")] = False,
    prompt: Annotated[
        str | None,
        typer.Option(help="Prompt format: chat (the base's own template; the default), open-quote or short."),
    ] = None,
    distil_steps: Annotated[
        int | None, typer.Option(help="Steps of stage 1 (distillation on the data's text pairs); 0 skips it.")
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(help="Type of the frozen base under LoRA adapters: auto (bf16), fp32, bf16 or 4bit (CUDA)."),
    ] = None,
    attn: Annotated[
        str | None, typer.Option(help="Attention: sdpa, eager or flash_attention_2. Default: the base's own.")
    ] = None,
    minutes: Annotated[
        float | None, typer.Option(help="Most wall time of stage 2, in minutes (default with pairs: 10).")
    ] = None,
    eval_every: Annotated[
        int | None,
        typer.Option(help="Steps of stage 2 between evaluations on the val split. The best weights are kept."),
    ] = None,
    patience: Annotated[
        int | None, typer.Option(help="Stop stage 2 after this many evaluations without a gain.")
    ] = None,
    report_to: Annotated[str | None, typer.Option(help="Also send the log to tensorboard, wandb or trackio.")] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Refuse data with faulty rows. Without this they are left out and counted.")
    ] = False,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="A value that overrides the recipe's: retrieve.learning_rate=1e-4, layers=8. Without a recipe, "
            "learning_rate=1e-4 sets stage 2. Can be repeated.",
        ),
    ] = None,
    distil_settings: Annotated[
        list[str] | None,
        typer.Option("--distil-set", help="A setting of stage 1, such as learning_rate=1e-4. Can be repeated."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Estimate the cost without weights or data, and stop.")
    ] = False,
    as_json: Json = False,
) -> None:
    from puma.cli.commands import _own_data
    from puma.cli.commands._shared import quiet_libraries
    from puma.data.pair_tables import is_pair_table
    from puma.errors import InputError
    from puma.evaluation.processes import is_first

    quiet_libraries()
    from puma.training.recipes import recipe as recipes

    given: dict[str, Any] = {
        "base": base,
        "layers": layers,
        "keep_last": keep_last or None,
        "prompt": prompt,
        "dtype": dtype,
        "attn": attn,
        "retrieve.minutes": minutes,
        "retrieve.eval_every": eval_every,
        "retrieve.patience": patience,
        "retrieve.report_to": report_to,
    }
    changes = {key: value for key, value in given.items() if value is not None}
    is_table = data is not None and is_pair_table(data)
    if is_table and _own_data.trains_a_retriever(recipe, base):
        assert data is not None
        _own_data.train_on_table(
            base,
            data,
            out,
            columns=columns,
            held_out=held_out,
            changes={**{key: value for key, value in given.items() if key.startswith("retrieve.")}, **parsed(settings)},
            attn=attn,
            strict=strict,
            as_json=as_json,
            unfit={
                "--adapter": adapter,
                "--layers": layers,
                "--keep-last": keep_last,
                "--prompt": prompt,
                "--distil-steps": distil_steps,
                "--distil-set": distil_settings,
                "--dtype": dtype,
                "--dry-run": dry_run,
            },
        )
        return
    if not is_table and (columns is not None or held_out is not None):
        raise InputError("--columns and --held-out go with a table of pairs as --data (docs/own-data.md)")
    first = {f"distil.{key}": value for key, value in parsed(distil_settings).items()}
    if recipe is not None:
        if distil_steps is not None:
            first = {"distil": None} if distil_steps == 0 else {**first, "distil.steps": distil_steps}
        plan = recipes.read_recipe(recipe, {**changes, **first, **parsed(settings)})
    elif base is None:
        raise InputError("nothing to train: give a recipe (puma train mini) or --base; see puma train --help")
    else:
        second = {key if "." in key else f"retrieve.{key}": value for key, value in parsed(settings).items()}
        stage_1 = {**_paper_distil(), "distil.steps": distil_steps, **first} if distil_steps else {}
        plan = recipes.recipe_of({**changes, **stage_1, **second})
    if dry_run:
        report = recipes.dry_run(plan, _mini_config(plan))
        print_json(report) if as_json else typer.echo(cost_text(report))
        return
    if out is None:
        raise InputError("no --out: give the new retriever's folder (or --dry-run)")
    distil_set = bool(distil_steps or distil_settings) or any(key.startswith("distil.") for key in parsed(settings))
    if adapter is not None and plan.base != recipes.MINI:
        raise InputError(f"--adapter {adapter}: an adapter is a difference from the mini base, not from {plan.base}")
    if is_table and data is not None:
        data = _own_data.benchmark_of_table(plan.base, data, out, columns=columns, held_out=held_out, strict=strict)
        named = {key if "." in key else f"retrieve.{key}" for key in parsed(settings)}
        plan = _own_data.fitted_plan(plan, data, {*changes, *first, *named})
    if plan.base == recipes.MINI:
        from puma.mini.training import train_recipe

        log = train_recipe(plan, data, out, adapter=adapter, strict=strict)
    else:
        log = recipes.train_recipe(plan, data, out, distil_if_texts=not distil_set, strict=strict)
    if not is_first():
        return
    figures = _own_data.held_out_figures(out, data) if is_table and data is not None else {}
    if as_json:
        print_json({"out": str(out), "log": log, **({"held_out": figures} if figures else {})})
        return
    if figures:
        typer.echo(_own_data.figure_lines(figures))
    if is_table:
        typer.echo(f"{out}: trained; try  puma index add my.index IMAGES --model {shlex.quote(str(out))}")
        return
    words = ["puma", "evaluate", "--model", str(out), *(["--root", str(data)] if data else [])]
    typer.echo(f"{out}: trained; try  {shlex.join(words)}")


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
        if not sign or not name.strip():
            raise ConfigError(f"--set {pair!r}: write name=value, as learning_rate=1e-4")
        try:
            read = yaml.safe_load(value)
        except yaml.YAMLError:
            raise ConfigError(f"--set {pair!r}: the value is no YAML") from None
        try:  # YAML takes 1e-4 for a word
            values[name.strip()] = float(read) if isinstance(read, str) else read
        except ValueError:
            values[name.strip()] = read
    return values


def _paper_distil() -> dict[str, Any]:
    """The paper's first stage by dotted key; the flags leave checkpointing off unless it is set."""
    from dataclasses import asdict

    from puma.training.recipes.recipe import read_recipe

    stage = read_recipe(PAPER).distil
    values = asdict(stage) if stage is not None else {}
    return {f"distil.{k}": v for k, v in values.items() if k not in ("stage", "gradient_checkpointing")}


def _mini_config(recipe: Any) -> Any:
    """The mini base's configuration; None for other bases."""
    from puma.training.recipes.recipe import MINI

    if recipe.base != MINI:
        return None
    from puma.mini.training import base_config

    return base_config(recipe)
