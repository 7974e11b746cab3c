"""What a mini base is made with, and the note in its folder that says so."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from puma.errors import InputError
from puma.mini.base import language
from puma.mini.base.tower import STRIDES, TOWERS, cell_size, tower_config
from puma.mini.fetch.packages import sha256_of

FORMAT = 1
"""Raised whenever the same settings would give another folder than before."""
NOTE = "base.json"
RESIZES = ("squash", "crop")


@dataclass(frozen=True)
class BaseSettings:
    """What a mini base is made with; other settings make another folder.

    Args:
        tower: ``lite0`` (3.4 M parameters) or ``lite2`` (4.8 M).
        image_size: side of the image as the tower sees it, in pixels; a multiple of the tower's cell (32, or 64 with
            the halved strides).
        strides: of the tower's seven stages. :data:`puma.mini.base.tower.HALVED_STRIDES` leaves a quarter of the
            tokens.
        resize: ``squash`` scales both sides to ``image_size`` (nothing is lost, proportions are), ``crop`` scales the
            shorter side and cuts the middle out.
        seed: for the projector's random weights, until one is fitted.
    """

    tower: str = "lite0"
    image_size: int = 160
    strides: tuple[int, ...] = STRIDES
    resize: str = "squash"
    seed: int = 0

    def __post_init__(self) -> None:
        tower_config(self.tower, image_size=self.image_size, strides=self.strides)  # raises for its three
        if self.resize not in RESIZES:
            raise InputError(f"resize must be one of {', '.join(RESIZES)}, got {self.resize!r}")

    @property
    def image_tokens(self) -> int:
        """Image tokens per image."""
        return (self.image_size // cell_size(self.strides)) ** 2

    @property
    def folder(self) -> str:
        """The name of the folder these settings make: readable, and different for any other settings."""
        packages = [language.PACKAGE.sha256, TOWERS[self.tower].package.sha256]
        text = json.dumps([FORMAT, asdict(self), packages, language.CHAT_TEMPLATE], sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:8]
        return f"smollm2-135m-{self.tower}-{self.image_size}px-{self.image_tokens}tokens-{digest}"


def write_note(folder: Path, settings: BaseSettings, **more: Any) -> None:
    """Write ``base.json``: settings, packages with checksums, library versions, and the weights' own checksum."""
    packages = [language.PACKAGE, TOWERS[settings.tower].package]
    note = {
        "format": FORMAT,
        "settings": {**asdict(settings), "image_tokens": settings.image_tokens},
        "packages": [asdict(package) for package in packages],
        "libraries": {name: version(name) for name in ("torch", "transformers", "tokenizers", "gguf")},
        "weights_sha256": {path.name: sha256_of(path) for path in sorted(folder.glob("*.safetensors"))},
        **more,
    }
    (folder / NOTE).write_text(json.dumps(note, indent=2) + "\n", encoding="utf-8")


def read_note(folder: Path) -> dict[str, Any]:
    """What :func:`write_note` wrote."""
    return json.loads((Path(folder) / NOTE).read_text(encoding="utf-8"))


def card_of_base(folder: Path) -> dict[str, Any]:
    """What the card of a model made of a mini base says of its origin; nothing if the folder is no mini base.

    Both halves are Apache-2.0; the vision tower has no repository that a card could link to.
    """
    if not (Path(folder) / NOTE).is_file():
        return {}
    return {"base_model": "HuggingFaceTB/SmolLM2-135M-Instruct", "license": "apache-2.0", "language": ["en"]}
