"""What a retriever's folder says of its training: the instructions, and the depths that it may be cut to."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from puma.errors import InputError
from puma.storage.folders import write_json

INSTRUCTIONS_FILE = "puma_instructions.json"
EXITS_FILE = "puma_exits.json"
Instructions = dict[tuple[str, str | None], str]
"""By (query modality, wanted modality, or None for any)."""


def read_instructions(folder: Path) -> Instructions:
    """The instructions of a folder; empty where it names none."""
    return {(row["query"], row["wanted"]): row["instruction"] for row in _read(folder / INSTRUCTIONS_FILE)}


def write_instructions(folder: Path, instructions: Mapping[tuple[str, str | None], str]) -> None:
    """Write what :func:`read_instructions` reads."""
    rows = [{"query": q, "wanted": w, "instruction": text} for (q, w), text in instructions.items()]
    write_json(folder / INSTRUCTIONS_FILE, rows)


def read_exits(folder: Path) -> tuple[int, ...]:
    """The depths below its own that a folder's retriever was trained to be cut to."""
    return tuple(_read(folder / EXITS_FILE))


def write_exits(folder: Path, exits: Sequence[int]) -> None:
    """Write what :func:`read_exits` reads; nothing where there are none."""
    if exits:
        write_json(folder / EXITS_FILE, list(exits))


def exits_below(layers: int | None, folder: Path, name: Any) -> tuple[int, ...]:
    """The exits that a folder's retriever still has when it is cut to so many layers, which :func:`check_layers`
    allows first."""
    exits = read_exits(folder)
    check_layers(layers, exits, name)
    return exits if layers is None else tuple(depth for depth in exits if depth < layers)


def check_layers(layers: int | None, exits: Sequence[int], name: Any) -> None:
    """Raise InputError where a retriever cannot be cut to so many layers: elsewhere than at an exit its vectors mean
    nothing.

    Args:
        layers: None for all of them.
        exits: those of the retriever.
        name: of the retriever, for the message.
    """
    if layers is None or layers in exits:
        return
    if not exits:
        raise InputError(
            f"layers={layers}: {str(name)!r} was trained at its full depth alone; leave it out, or train with exits "
            "(retrieve.exits in a recipe)"
        )
    raise InputError(f"layers={layers}: {str(name)!r} was trained to be cut to {list(exits)}; give one of these")


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
