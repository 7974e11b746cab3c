"""Retrievers that are on this machine: in folders, and in the hub's cache. Reads JSON files, loads no model."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from puma.errors import InputError
from puma.pruning.cards import cached_name, own_metadata, read_config
from puma.retriever.dimensions import nested_dimensions
from puma.retriever.prompts import PROMPT_FILE

DEPTHS = ("", "*/", "*/*/")
"""Where below a folder retrievers are looked for."""
WEIGHTS = ("*.safetensors", "*.onnx", "*.onnx.data")


@dataclass(frozen=True)
class KnownModel:
    """A retriever on this machine.

    Args:
        name: what ``--model`` and :meth:`puma.retriever.model.Retriever.from_pretrained` take.
        path: its folder.
        layers: decoder layers; None where the configuration does not say.
        dim: length of a vector; None where the configuration does not say.
        dimensions: lengths below it that vectors may be cut to.
        size: bytes of its weights.
        about: base, licence and language, as its card names them.
        revisions: of a model in the hub's cache: the branches and tags that point to this folder.
    """

    name: str
    path: Path
    layers: int | None
    dim: int | None
    size: int
    about: dict[str, Any] = field(default_factory=dict)
    revisions: tuple[str, ...] = ()
    dimensions: tuple[int, ...] = ()


def describe(folder: Path, name: str | None = None) -> KnownModel | None:
    """What is known of a folder without loading it; None if it holds no retriever."""
    if not ((folder / PROMPT_FILE).is_file() and (folder / "config.json").is_file()):
        return None
    config = read_config(folder)
    text = config.get("text_config")
    text = text if isinstance(text, dict) else config
    dim = _number(text.get("hidden_size"))
    return KnownModel(
        name=str(folder) if name is None else name,
        path=folder,
        layers=_number(text.get("num_hidden_layers")),
        dim=dim,
        size=sum(file.stat().st_size for kind in WEIGHTS for file in folder.glob(kind) if file.is_file()),
        about=own_metadata(folder),
        dimensions=nested_dimensions(config, dim or 0),
    )


def in_folders(folders: Sequence[str | os.PathLike[str]]) -> list[KnownModel]:
    """Retrievers in these folders, or up to two folders below them.

    Raises:
        InputError: one is no folder.
    """
    found = []
    for folder in map(Path, folders):
        if not folder.is_dir():
            raise InputError(f"folder {str(folder)!r}: no such folder; give one that holds retrievers, or is one")
        for depth in DEPTHS:
            found += [describe(path.parent) for path in sorted(folder.glob(f"{depth}{PROMPT_FILE}"))]
    return [model for model in found if model is not None]


def in_hub_cache(cache: str | os.PathLike[str] | None = None) -> list[KnownModel]:
    """Retrievers that were fetched from the hub, one for each snapshot.

    Args:
        cache: the hub's cache; None for the hub client's own (``HF_HUB_CACHE``, ``HF_HOME``).
    """
    if cache is None:
        from huggingface_hub import constants

        cache = constants.HF_HUB_CACHE
    found = []
    for path in sorted(Path(cache).glob(f"models--*/snapshots/*/{PROMPT_FILE}")):
        name = cached_name(path.parent)
        model = describe(path.parent, name) if name else None
        if model is not None:
            found.append(replace(model, revisions=tuple(sorted(_revisions(path.parents[2], path.parent.name)))))
    return found


def _revisions(repository: Path, commit: str) -> Iterator[str]:
    """Branches and tags of a repository in the cache that point to a commit."""
    refs = repository / "refs"
    for path in refs.rglob("*"):
        if path.is_file() and path.read_text(encoding="utf-8").strip() == commit:
            yield path.relative_to(refs).as_posix()


def _number(value: Any) -> int | None:
    return value if type(value) is int else None
