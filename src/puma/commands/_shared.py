"""What several commands share: loading the model, printing JSON and skips. Heavy imports inside functions."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from puma.embedding import Skip
from puma.items import Item

DEFAULT_MODEL = Path("runs/quickstart/model")
SKIPS_SHOWN = 20

Model = Annotated[
    Path | None,
    typer.Option(
        "--model",
        "-m",
        help=f"Retriever folder. Default: PUMA_MODEL, else {DEFAULT_MODEL} (made by `puma quickstart`).",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
IndexFolder = Annotated[Path, typer.Argument(metavar="INDEX", help="The index's folder.")]
Paths = Annotated[list[Path], typer.Argument(metavar="PATH...", help="Folders, pictures, .txt, .jsonl, .csv.")]


def load_retriever(model: Path | None) -> Any:
    """The retriever of this folder, of PUMA_MODEL, or of the quickstart."""
    from puma.model import Retriever

    return Retriever.from_pretrained(model or os.environ.get("PUMA_MODEL") or DEFAULT_MODEL)


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

    torch.set_num_threads(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    logging.disable_progress_bar()
