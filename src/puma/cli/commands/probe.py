"""``puma probe``: retrieval quality at every depth of a base, before training, and where to cut it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from puma.cli.commands._benchmarks import benchmark_folder
from puma.cli.commands._places import writable
from puma.cli.commands._shared import Attention, Dtype, Json, loading_options, print_json

MINI = "mini"


def register(app: typer.Typer) -> None:
    app.command("probe")(probe)


def probe(
    base: Annotated[str, typer.Option(help="The model to probe: a folder, a hub name, or mini.")] = MINI,
    data: Annotated[
        Path | None, typer.Option(help="Data in M-BEIR's layout. Default: OpenPics, built if missing.")
    ] = None,
    out: Annotated[
        Path, typer.Option(callback=writable, help="Folder for results and for states that a later run reuses.")
    ] = Path("probe"),
    dataset: Annotated[str | None, typer.Option(help="The data set to use, if the folder holds several.")] = None,
    split: Annotated[str, typer.Option(help="The split to evaluate: val or test.")] = "val",
    tasks: Annotated[str | None, typer.Option(help="Task ids, such as 0,1,3. Default: all.")] = None,
    queries: Annotated[int, typer.Option(help="Most queries per task.")] = 200,
    pairs: Annotated[
        int, typer.Option(help="Most training pairs per task for the ridge map; 0: zero-shot only.")
    ] = 300,
    pool: Annotated[int | None, typer.Option(help="Most candidates per task. Default: the whole pool.")] = None,
    prompt: Annotated[
        str | None,
        typer.Option(help="Prompt format: open-quote, short or chat. Default: open-quote for mini, else chat."),
    ] = None,
    quality: Annotated[
        float | None,
        typer.Option(help="Suggest the fewest layers that reach this share of the best quality. Default: 0.95."),
    ] = None,
    speed: Annotated[float | None, typer.Option(help="Suggest the best depth that is this many times faster.")] = None,
    first_only: Annotated[
        bool, typer.Option("--first-only", help="Do not measure the first k-1 layers with the last one.")
    ] = False,
    precision: Annotated[
        str, typer.Option(help="Type to compute in: fp32, bf16, or auto (bf16 if it is fast here).")
    ] = "auto",
    dtype: Dtype = "auto",
    attn: Attention = None,
    batch_size: Annotated[int, typer.Option(help="Items per forward pass.")] = 32,
    seed: Annotated[int, typer.Option(help="Random seed for drawing queries and pairs.")] = 0,
    as_json: Json = False,
) -> None:
    """Measure retrieval quality at every depth k of a base before training, to choose how many layers to keep. Measured
    are the first k layers, and the first k-1 with the last one; each zero-shot and through a ridge map. The result is
    a table, a plot and a suggestion for k. To continue after an interruption, give the same command again.

    Example: puma probe --base Qwen/Qwen2-VL-2B-Instruct --data mbeir --tasks 0,3 --quality 0.95 --out probe
    """
    from puma.cli.commands._shared import quiet_libraries

    quiet_libraries()
    from puma.errors import InputError
    from puma.evaluation.probing.choice import check_target
    from puma.evaluation.probing.material import gather
    from puma.evaluation.probing.plot import check_matplotlib

    check_target(quality, speed)  # faults that show at once are reported before anything is fetched or loaded
    check_matplotlib()
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out}: is a file; give a folder")
    root, folder, prompt = _resolved(base, data, prompt)
    chosen = None if tasks is None else [name.strip() for name in tasks.split(",")]
    material = gather(
        root, dataset=dataset, split=split, tasks=chosen, queries=queries, pairs=pairs, pool=pool, seed=seed
    )
    from puma.evaluation.probing.run import probe as run
    from puma.retriever.model import Retriever

    result = run(
        Retriever.from_base(folder, prompt=prompt, **{"dtype": _dtype(), **loading_options(dtype, attn)}),
        root,
        out,
        name=base if base == MINI else Path(base).name,
        material=material,
        quality=quality,
        speed=speed,
        keep_last=not first_only,
        precision=precision,
        batch_size=batch_size,
        seed=seed,
    )
    if as_json:
        print_json({**result, "out": str(out)})
        return
    from puma.evaluation.probing.report import notes, table

    typer.echo(table(result))
    for note in notes(result):
        typer.echo(note)
    typer.echo(f"\n{result['suggestion']['sentence']}")
    typer.echo(f"plot {out / 'probe.png'} (.svg), figures {out / 'probe.json'}, report {out / 'probe.md'}")


def _resolved(base: str, data: Path | None, prompt: str | None) -> tuple[Path, str, str]:
    """The data's root, the base's folder or name, the prompt's name."""
    from puma.errors import InputError
    from puma.pruning.hub import holds
    from puma.retriever.prompts import PROMPT_FILE, PROMPTS

    if prompt is not None and prompt not in (*PROMPTS, "chat"):
        raise InputError(f"--prompt {prompt}: give one of {', '.join([*PROMPTS, 'chat'])}")
    if base != MINI and holds(base, PROMPT_FILE):
        raise InputError(f"--base {base}: is a retriever already; probe the base that it was made from")
    if data is not None:
        benchmark_folder("--data", data)
    if base != MINI and data is not None:
        return data, base, prompt or "chat"
    from puma.mini import openpics as images

    root = images.build()
    if base != MINI:
        return data or root, base, prompt or "chat"
    from puma.mini.base.assemble import assemble
    from puma.mini.training import base_settings
    from puma.training.recipes.recipe import read_recipe

    return data or root, str(assemble(settings=base_settings(read_recipe(MINI)), images=root)), prompt or "open-quote"


def _dtype() -> Any:
    """By default fp32 weights on a CPU; on a GPU as they were saved."""
    import torch

    return "auto" if torch.cuda.is_available() else torch.float32
