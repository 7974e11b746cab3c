"""``puma mine``: hard negatives of a model or of run files, written into a new benchmark folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from puma.cli.commands._benchmarks import benchmark_folder
from puma.cli.commands._places import writable
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
    root: Annotated[Path, typer.Option(help="Folder of the benchmark to read.")],
    out: Annotated[Path, typer.Option("--out", "-o", callback=writable, help="Folder of the new benchmark to write.")],
    model: Model = None,
    st: ForeignModel = None,
    st_prompt: ForeignPrompt = None,
    dtype: Dtype = "auto",
    attn: Attention = None,
    layers: Layers = None,
    run_dir: Annotated[
        Path | None, typer.Option(help="Take scores from the run files in this folder instead of a model.")
    ] = None,
    dataset: Annotated[str | None, typer.Option(help="The data set to use, if the folder holds several.")] = None,
    split: Annotated[str, typer.Option(help="The split whose queries get negatives.")] = "train",
    task: Annotated[list[str] | None, typer.Option(help="Only this task id; can be repeated. Default: all.")] = None,
    pool: Annotated[
        str, typer.Option(help="local: candidates of the task's own pool. global: of all tasks.")
    ] = "local",
    negatives: Annotated[int, typer.Option("--negatives", "-n", help="Most negatives per query.")] = 8,
    skip_top: Annotated[int, typer.Option(help="Skip this many of the best candidates.")] = 0,
    margin: Annotated[
        float,
        typer.Option(
            help="Leave out candidates whose cosine exceeds the best positive's by more than this; 2 leaves out none."
        ),
    ] = 0.0,
    other_modality: Annotated[
        int,
        typer.Option(
            help="Also add this many candidates per query that have another modality than it asks for. They come from "
            "all tasks and score at least as high as its best positive."
        ),
    ] = 0,
    copy: Annotated[bool, typer.Option("--copy", help="Copy pools and images instead of linking them.")] = False,
    work: WorkFolder = None,
    no_resume: NoResume = False,
    as_json: Json = False,
) -> None:
    """Find hard negatives, wrong answers that a model ranks high, and write them into a new benchmark folder to train
    on (M-BEIR's neg_cand_list).

    Left out are known positives, candidates with the same content, and candidates above the positive by the margin. To
    continue after an interruption, give the same command again. Under torchrun several processes share the work.

    Example: puma mine --model runs/quickstart/model --root openpics --out openpics-hard --negatives 8 --margin 0
    """
    from puma.errors import InputError
    from puma.evaluation.processes import is_first
    from puma.evaluation.stored.resumable import Work, part_size
    from puma.training.mining import Rules
    from puma.training.mining import mine as write

    benchmark_folder("--root", root)
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
