"""What several commands share: loading the model, printing JSON and skips. Heavy imports inside functions."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from puma.cli.commands._dimensions import check_length, encoder_of_length
from puma.cli.commands._places import writable
from puma.cli.printable import printable
from puma.errors import IndexMismatchError, InputError, ModelError, is_installed
from puma.items.encoder import Skip

if TYPE_CHECKING:
    from puma.index import Index
    from puma.retriever.encoding.image_cache import ImageCache

DEFAULT_MODEL = "puma-mini"
QUICKSTART_MODEL = Path("runs/quickstart/model")
SKIPS_SHOWN = 20
DTYPES = {"auto": "auto", "fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
"""Number types by the names that the command line takes, as torch calls them."""
ATTENTIONS = ("sdpa", "eager", "flash_attention_2")

Model = Annotated[
    Path | None,
    typer.Option(
        "--model",
        "-m",
        help="Model: a retriever's folder, or org/name on the hub. puma models lists those on this machine. "
        f"Default: PUMA_MODEL, else {DEFAULT_MODEL}, which ships with PUMA and is set up on first use.",
    ),
]


def _one_of(flag: str, value: str | None, names: Iterable[str]) -> str | None:
    if value is not None and value not in names:
        raise InputError(f"{flag} {value}: give one of {', '.join(names)}")
    return value


Dtype = Annotated[
    str,
    typer.Option(
        "--dtype",
        callback=lambda value: _one_of("--dtype", value, DTYPES),
        help="Number type of the weights: fp32, bf16, fp16, or auto (as saved).",
    ),
]
Attention = Annotated[
    str | None,
    typer.Option(
        "--attn",
        callback=lambda value: _one_of("--attn", value, ATTENTIONS),
        help="Attention: sdpa, eager or flash_attention_2 (needs a GPU). Default: the libraries' choice.",
    ),
]
Layers = Annotated[
    int | None,
    typer.Option(help="Load only this many decoder layers. The retriever must be trained with an exit there."),
]
ForeignModel = Annotated[
    str | None,
    typer.Option(
        "--st",
        metavar="NAME",
        help="Instead of --model: any sentence-transformers model, a folder or org/name on the hub.",
    ),
]
ForeignPrompt = Annotated[
    str | None,
    typer.Option("--st-prompt", help="With --st: name of the model's own prompt that queries get, such as query."),
]
WorkFolder = Annotated[
    Path | None,
    typer.Option(
        "--work",
        callback=writable,
        help="Folder that keeps vectors until the result is written, so an interrupted run can continue.",
    ),
]
NoResume = Annotated[bool, typer.Option("--no-resume", help="Discard what an interrupted run left, and start again.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for other programs.")]
IndexAddress = Annotated[str, typer.Argument(metavar="INDEX", help="The index: its folder or address.")]
Paths = Annotated[
    list[str],
    typer.Argument(
        metavar="PATH...", help="Folders, images, .txt, .jsonl, .csv, .tsv, .parquet or .pdf files, s3:// addresses."
    ),
]


def load_retriever(
    model: Path | None,
    *,
    dtype: str = "auto",
    attn: str | None = None,
    layers: int | None = None,
    image_cache: ImageCache | None = None,
) -> Any:
    """The retriever of this folder, else of PUMA_MODEL, else the default one, which is made on its first use.

    ``puma-mini`` names the default one too, against PUMA_MODEL; a folder of that name goes first.

    Args:
        dtype: a name in :data:`DTYPES`.
        attn: a name in :data:`ATTENTIONS`; None for the libraries' own choice.
        layers: decoder layers to load, at an exit of the retriever; None for all.
        image_cache: for what it sees in images; None keeps nothing.

    Raises:
        InputError, ModelError: no such retriever, or none that can be loaded. DownloadError: the default model's base
        cannot be fetched.
    """
    path = model_path(model)
    from puma.retriever.onnx.layout import is_exported

    if is_exported(path) or not is_installed("torch"):
        options: dict[str, Any] = {"dtype": dtype, "attn": attn}
    else:
        options = loading_options(dtype, attn)
        quiet_libraries()
    from puma.retriever.model import Retriever

    return Retriever.from_pretrained(path, layers=layers, image_cache=image_cache, **options)


def chosen_model(model: str | Path | None) -> str | Path:
    """The model that is meant, as it is named: this one, else PUMA_MODEL, else the default one."""
    return model or os.environ.get("PUMA_MODEL") or DEFAULT_MODEL


def model_path(model: str | Path | None) -> str | Path:
    """The folder or hub name of :func:`chosen_model`; the default model's folder is made on its first use.

    Raises:
        ModelError, DownloadError: as :func:`load_retriever`.
    """
    chosen = chosen_model(model)
    return default_folder() if str(chosen) == DEFAULT_MODEL and not os.path.exists(chosen) else chosen


def loading_options(dtype: str, attn: str | None) -> dict[str, Any]:
    """``dtype`` (a torch dtype) and ``attn`` as keywords of the loading functions, those that were given."""
    options: dict[str, Any] = {}
    if dtype != "auto":
        quiet_libraries()
        import torch

        options["dtype"] = getattr(torch, DTYPES[dtype])
    if attn is not None:
        options["attn"] = attn
    return options


def load_encoder(
    model: Path | None,
    st: str | None,
    st_prompt: str | None,
    *,
    dtype: str = "auto",
    attn: str | None = None,
    layers: int | None = None,
    image_cache: ImageCache | None = None,
) -> Any:
    """A retriever of :func:`load_retriever`, or somebody else's sentence-transformers model.

    Raises:
        InputError: both are named, or ``st_prompt`` without ``st``, or ``layers`` or a cache with it. Else as
            :func:`load_retriever` and :func:`puma.evaluation.foreign.load_foreign`.
    """
    check_foreign(model, st, st_prompt)
    if st is None:
        return load_retriever(model, dtype=dtype, attn=attn, layers=layers, image_cache=image_cache)
    if image_cache is not None:
        raise InputError(f"--image-cache {image_cache.folder}: goes with --model, a retriever, not with --st")
    if layers is not None:
        raise InputError(
            f"--layers {layers}: goes with --model, a retriever that was trained with exits, not with --st"
        )
    options = loading_options(dtype, attn)
    quiet_libraries()
    from puma.evaluation.foreign import load_foreign

    return load_foreign(st, query_prompt=st_prompt, **options)


def check_foreign(model: Path | None, st: str | None, st_prompt: str | None) -> None:
    """Raise InputError where ``--st`` does not go with the rest."""
    if st is not None and model is not None:
        raise InputError("give one of --model and --st, got both")
    if st is None and st_prompt is not None:
        raise InputError("--st-prompt goes with --st: it names a prompt of that model")


def note(line: str) -> None:
    """A line on stderr, of the first of several processes only."""
    from puma.evaluation.processes import is_first

    if is_first():
        typer.echo(line, err=True)


def default_folder() -> Path:
    """The default model's folder; a line on stderr if it has to be made.

    Raises:
        ModelError: it is not in this installation; the message names what else there is.
    """
    from puma.mini.default import default_model

    try:
        return default_model(say=lambda line: typer.echo(line, err=True))
    except ModelError as error:
        if not (QUICKSTART_MODEL / "config.json").is_file():
            raise
        raise ModelError(f"{error} (there is one here: --model {QUICKSTART_MODEL})") from None


def searcher_of(
    index: Path | Index,
    model: Path | None,
    *,
    loaded: Any = None,
    dtype: str = "auto",
    dimensions: int | None = None,
    **options: Any,
) -> Any:
    """A Searcher of this index with the model of :func:`load_retriever`, whose arguments it takes.

    Args:
        loaded: the encoder, where it is there already.
        dimensions: cut vectors to this length; None for that of the index, the model's own in a new one.

    Raises:
        IndexMismatchError: the index was made by another model; the message says how to name it.
        InputError: the model was not trained for these dimensions, or the index has others.
    """
    from puma.search.searcher import Searcher

    try:
        encoder = loaded or encoder_of_length(load_retriever(model, dtype=dtype, **options), dimensions)
        searcher = Searcher(encoder, index)
    except IndexMismatchError as error:
        if dtype != "auto":
            raise IndexMismatchError(
                f"{error} --dtype {dtype} counts as another model: search with the type the index was filled with."
            ) from None
        if options.get("layers") is not None:
            raise IndexMismatchError(
                f"{error} --layers {options['layers']} counts as another model: search with the depth the index was "
                "filled with."
            ) from None
        if model is not None:
            raise
        used = (
            f"PUMA_MODEL={os.environ['PUMA_MODEL']}"
            if os.environ.get("PUMA_MODEL")
            else f"{DEFAULT_MODEL}, the default"
        )
        raise IndexMismatchError(f"{error} No --model was given, so it was {used}.") from None
    check_length(searcher, dimensions)
    return searcher


def print_json(value: Any) -> None:
    typer.echo(json.dumps(value, ensure_ascii=False, indent=1))


def print_skips(skips: Sequence[Skip]) -> None:
    """Each skip on a line of stderr, up to twenty."""
    for skip in skips[:SKIPS_SHOWN]:
        typer.echo(f"skipped {printable(str(skip))}", err=True)
    if len(skips) > SKIPS_SHOWN:
        typer.echo(f"... and {len(skips) - SKIPS_SHOWN} more (all of them with --json)", err=True)


def quiet_libraries() -> None:
    """Set threads once, keep the libraries' own messages off the terminal; before torch is imported."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    # Warnings of names that libraries change between versions: nothing a user of the command can act on.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"(transformers|peft|accelerate)\.")
    import torch
    from transformers.utils import logging

    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    logging.disable_progress_bar()
