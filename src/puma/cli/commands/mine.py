"""``puma mine``: hard negatives of a model or of run files, written into a new benchmark folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from puma.cli.commands._shared import (
    SKIPS_SHOWN,
    Attention,
    Dtype,
    ForeignModel,
    ForeignPrompt,
    Json,
    Layers,
    Model,
    NoResume,
    WorkFolder,
    load_encoder,
    note,
    print_json,
)


def register(app: typer.Typer) -> None:
    app.command("mine")(mine)


def mine(
    root: Annotated[Path, typer.Option(help="The benchmark's folder.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The new benchmark's folder.")],
    model: Model = None,
    st: ForeignModel = None,
    st_prompt: ForeignPrompt = None,
    dtype: Dtype = "auto",
    attn: Attention = None,
    layers: Layers = None,
    run_dir: Annotated[
        Path | None, typer.Option(help="Take scores from the run files in this folder; no model is loaded.")
    ] = None,
    dataset: Annotated[str | None, typer.Option(help="Which data set, if the folder holds several.")] = None,
    split: Annotated[str, typer.Option(help="The split whose queries get negatives.")] = "train",
    task: Annotated[list[str] | None, typer.Option(help="A task id; may be given several times. Default: all.")] = None,
    pool: Annotated[str, typer.Option(help="local: each task's own pool; global: candidates of all tasks.")] = "local",
    negatives: Annotated[int, typer.Option("--negatives", "-n", help="The most a query gets.")] = 8,
    skip_top: Annotated[int, typer.Option(help="Pass over so many of the best candidates.")] = 0,
    margin: Annotated[
        float,
        typer.Option(
            help="Leave out what scores above the best positive by more than this; 2 leaves out nothing a cosine gives."
        ),
    ] = 0.0,
    other_modality: Annotated[
        int,
        typer.Option(
            help="Also give a query so many candidates of other modalities than it asks for, of all tasks, that score "
            "as high as its best positive or higher."
        ),
    ] = 0,
    copy: Annotated[bool, typer.Option("--copy", help="Copy pools and images instead of linking them.")] = False,
    work: WorkFolder = None,
    no_resume: NoResume = False,
    as_json: Json = False,
) -> None:
    """Mine hard negatives and write them, as M-BEIR's neg_cand_list, into a new benchmark folder to train on.

    Known positives, what has their content, and what beats them clearly are left out. Interrupted, it goes on where it
    was; under torchrun several processes share the embedding.

    Example: puma mine --model runs/quickstart/model --root openpics --out openpics-hard --negatives 8 --margin 0
    """
    from puma.errors import InputError
    from puma.evaluation.processes import is_first
    from puma.evaluation.stored.resumable import Work, part_size
    from puma.training.mining import Rules
    from puma.training.mining import mine as write

    rules = Rules(negatives, skip_top, margin, other_modality)
    if st is not None and run_dir is not None:
        raise InputError("give one of --st and --run-dir, got both")
    encoder = load_encoder(model, st, st_prompt, dtype=dtype, attn=attn, layers=layers) if run_dir is None else None
    result = write(
        root,
        out,
        encoder=encoder,
        run_dir=run_dir,
        dataset=dataset,
        split=split,
        tasks=task or None,
        pool=pool,
        rules=rules,
        copy=copy,
        batch_size=part_size(encoder),
        work=Work(work, not no_resume, note),
    )
    if not is_first():
        return
    if as_json:
        print_json({"out": str(out), **result})
        return
    more = f" {'other modality':>15}" if other_modality else ""
    typer.echo(
        f"{'task':>4} {'queries':>9} {'negatives':>10} {'all of them':>12} {'none':>7} {'over the margin':>16}{more}"
    )
    for name, table in result["tasks"].items():
        typer.echo(
            f"{name:>4} {table['queries']:>9,} {table['negatives']:>10,} {table['full']:>12,} {table['none']:>7,} "
            f"{table['beyond_margin']:>16,}" + (f" {table['other_modality']:>15,}" if other_modality else "")
        )
    for line in result["skipped_items"][:SKIPS_SHOWN]:
        typer.echo(f"skipped {line}", err=True)
    if result["skipped"] > SKIPS_SHOWN:
        typer.echo(f"... {result['skipped']:,} skipped in all (--json lists more)", err=True)
    typer.echo(
        f"{out}: train on it with hard_negatives set (--set retrieve.hard_negatives={negatives + other_modality})"
    )
