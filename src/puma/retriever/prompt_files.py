"""The two files of a retriever's folder that say how it is asked: its prompt, and its instructions. Loads no torch."""

from __future__ import annotations

import json
from pathlib import Path

from puma.retriever.prompts import INSTRUCTIONS_FILE, PROMPT_FILE, PromptFormat

Instructions = dict[tuple[str, str | None], str]
"""The instructions a retriever was trained with, by query modality and wanted modality (None for any)."""


def instruction_rows(instructions: Instructions) -> list[dict[str, str | None]]:
    """What :data:`INSTRUCTIONS_FILE` holds."""
    return [{"query": query, "wanted": wanted, "instruction": text} for (query, wanted), text in instructions.items()]


def read_prompt(folder: Path) -> PromptFormat:
    """The format in a retriever's folder.

    Raises:
        ModelError: it was saved by a newer version.
    """
    return PromptFormat.from_dict(json.loads((folder / PROMPT_FILE).read_text(encoding="utf-8")))


def read_instructions(folder: Path) -> Instructions:
    """The instructions in a retriever's folder; empty where it has none."""
    file = folder / INSTRUCTIONS_FILE
    rows = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else []
    return {(row["query"], row["wanted"]): row["instruction"] for row in rows}
