"""What the documents show: their fenced blocks, and a place in which those can be run."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
from PIL import Image
from pyarrow import parquet

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"(<!-- not run: [^\n]+ -->\n)?^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COLOURS = {"fox": (255, 0, 0), "field": (0, 255, 0), "whale": (0, 0, 255)}


@dataclass(frozen=True)
class Block:
    """A fenced block. ``run`` is False where a comment above it says why it cannot be."""

    document: str
    line: int
    language: str
    text: str
    run: bool

    def __str__(self) -> str:
        return f"{self.document}:{self.line}"

    def missing(self) -> list[str]:
        """Packages it imports that are not installed."""
        tree = ast.parse(self.text)
        names = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
        names += [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module]
        if any(name.startswith("puma.search.integrations.") for name in names):
            names += ["langchain_core"] if "langchain" in self.text else ["llama_index.core"]
        return sorted({name for name in names if not _installed(name)})

    def commands(self) -> Iterator[list[str]]:
        """The arguments of every ``puma ...`` line, its comment left out."""
        for line in self.text.replace("\\\n", " ").splitlines():
            if found := re.match(r"(?:ExecStart=\S*/)?puma (.*)", line):
                yield shlex.split(found[1], comments=True)


def blocks(document: str, *languages: str) -> list[Block]:
    """The blocks of a document in these languages, in order."""
    text = (ROOT / document).read_text()
    return [
        Block(document, text.count("\n", 0, found.start(3)), found[2], found[3], run=found[1] is None)
        for found in BLOCK.finditer(text)
        if found[2] in languages
    ]


def workspace(folder: Path) -> None:
    """Everything that the documents' examples name, in a home folder."""
    images = folder / "Pictures"
    images.mkdir()
    for name, colour in COLOURS.items():
        Image.new("RGB", (64, 48), colour).save(images / f"{name}.jpg")
    Image.new("RGB", (64, 48), (250, 5, 5)).save(folder / "fox.png")
    captions = [
        {"text": "red fox"},
        {"id": "poster", "text": "a red fox at night", "image": "fox.png", "brand": "acme", "price": 12},
    ]
    (folder / "captions.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in captions))
    (folder / "captions.txt").write_text("blue whale\ngreen field\n")
    goods = pa.table({"text": ["a red kettle", "a blue cup"], "brand": ["acme", "b3"], "price": [19.5, 4.0]})
    parquet.write_table(goods, folder / "goods.parquet")


def _installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # of a part, where the whole is not there
        return False
