"""A retriever folder's instructions: those that the model was trained with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from puma.retriever.prompts import INSTRUCTIONS_FILE
from puma.storage.folders import write_json

Instructions = dict[tuple[str, str | None], str]
"""By (query modality, wanted modality, or None for any)."""


def read_instructions(folder: Path) -> Instructions:
    """What :func:`write_instructions` wrote; empty where it never did."""
    path = folder / INSTRUCTIONS_FILE
    rows = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    return {(row["query"], row["wanted"]): row["instruction"] for row in rows}


def write_instructions(folder: Path, instructions: Mapping[tuple[str, str | None], str]) -> None:
    """Write them to the folder's own file."""
    rows = [{"query": query, "wanted": wanted, "instruction": text} for (query, wanted), text in instructions.items()]
    write_json(folder / INSTRUCTIONS_FILE, rows)
