"""What several commands share: loading the model, printing JSON and skips. Heavy imports inside functions."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from puma.embedding import Skip
from puma.errors import IndexMismatchError, ModelError
from puma.items import Item

DEFAULT_MODEL = "puma-mini"
QUICKSTART_MODEL = Path("runs/quickstart/model")
SKIPS_SHOWN = 20

Model = Annotated[
    Path | None,
    typer.Option(
        "--model",
        "-m",
        help=f"Retriever folder. Default: PUMA_MODEL, else {DEFAULT_MODEL} (ships with PUMA, made ready on first use).",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
IndexFolder = Annotated[Path, typer.Argument(metavar="INDEX", help="The index's folder.")]
Paths = Annotated[
    list[Path], typer.Argument(metavar="PATH...", help="Folders, pictures, .txt, .jsonl, .csv, .parquet, .pdf.")
]


def load_retriever(model: Path | None) -> Any:
    """The retriever of this folder, else of PUMA_MODEL, else the default one, which is made on its first use.

    ``puma-mini`` names the default one too, against PUMA_MODEL; a folder of that name goes first.

    Raises:
        InputError, ModelError: no such retriever, or none that can be loaded. DownloadError: the default model's base
        cannot be fetched.
    """
    quiet_libraries()
    from puma.model import Retriever

    chosen = model or os.environ.get("PUMA_MODEL") or DEFAULT_MODEL
    if str(chosen) == DEFAULT_MODEL and not os.path.exists(chosen):
        chosen = default_folder()
    return Retriever.from_pretrained(chosen)


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


def searcher_of(index: Path, model: Path | None) -> Any:
    """A Searcher of this index with the model of :func:`load_retriever`.

    Raises:
        IndexMismatchError: the index was made by another model; the message says how to name it.
    """
    from puma.search import Searcher

    try:
        return Searcher(load_retriever(model), index)
    except IndexMismatchError as error:
        if model is not None:
            raise
        used = (
            f"PUMA_MODEL={os.environ['PUMA_MODEL']}"
            if os.environ.get("PUMA_MODEL")
            else f"{DEFAULT_MODEL}, the default"
        )
        raise IndexMismatchError(f"{error} No --model was given, so it was {used}.") from None


def query_item(text: str | None, image: Path | None) -> Item:
    """A query from a command's arguments; its picture is opened here, so that a wrong path is told before the model is
    loaded.

    Raises:
        InputError: neither was given. ImageError: the picture cannot be opened.
    """
    item = Item(text=text, image=image)
    item.open_image()
    return item


def print_json(value: Any) -> None:
    typer.echo(json.dumps(value, ensure_ascii=False, indent=1))


def print_skips(skips: Sequence[Skip]) -> None:
    """Each skip on a line of stderr, up to twenty."""
    for skip in skips[:SKIPS_SHOWN]:
        typer.echo(f"skipped {skip}", err=True)
    if len(skips) > SKIPS_SHOWN:
        typer.echo(f"... and {len(skips) - SKIPS_SHOWN} more (all of them with --json)", err=True)


def quiet_libraries() -> None:
    """Set threads once, keep the libraries' own talk off the terminal; before torch is imported."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    import torch
    from transformers.utils import logging

    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    logging.disable_progress_bar()
