"""Model cards: the metadata at the head of a folder's README.md, by which the hub finds, links and licenses a model."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

CARD = "README.md"
"""The file of a model folder that the hub shows as its card."""
TAG = "puma"
"""In the tags of every card that PUMA writes."""
LICENSE = ("license", "license_name", "license_link")
"""Keys of a licence: the last two only where the first is ``other``."""
_HEAD = re.compile(r"\A---\s*\n(.*?)^---\s*$", re.DOTALL | re.MULTILINE)
_CACHED = re.compile(r"models--(?P<owner>[^/]+?)--(?P<name>[^/]+)")
HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
"""Names on the hub: ``org/name``."""


def read_metadata(folder: Path) -> dict[str, Any]:
    """What the YAML at the head of a folder's card says; empty where there is no card, or none that can be read."""
    import yaml

    try:
        head = _HEAD.match((folder / CARD).read_text(encoding="utf-8"))
        found = yaml.safe_load(head[1]) if head else None
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return found if isinstance(found, dict) else {}


def cached_name(folder: Path) -> str | None:
    """The hub name of a snapshot in the hub's cache (``models--org--name/snapshots/<commit>``); None of another
    folder."""
    path = folder.absolute()
    match = _CACHED.fullmatch(path.parents[1].name) if path.parent.name == "snapshots" else None
    return f"{match['owner']}/{match['name']}" if match else None


def read_config(folder: Path) -> dict[str, Any]:
    """What a folder's config.json says; empty where there is none, or none that can be read."""
    try:
        found = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def own_metadata(folder: Path) -> dict[str, Any]:
    """What the card of a retriever says of its origin: base, licence, language; those that it names."""
    return _origin(read_metadata(folder))


def inherited_metadata(base: Path) -> dict[str, Any]:
    """What the card of a model made of a base should say of its origin.

    Args:
        base: the base's folder. Its name on the hub is known of a snapshot in the hub's cache, of a folder that PUMA
            made of one, and of one whose configuration names it.

    Returns:
        ``base_model``, the keys in :data:`LICENSE` and ``language``: those that are known.
    """
    card = read_metadata(base)
    found = _origin(card)
    named = found.pop("base_model", None)
    ours = TAG in (card.get("tags") or ())
    name = cached_name(base) or (named if ours else None) or _configured_name(base)
    return {"base_model": name, **found} if name else found


def front_matter(values: Mapping[str, Any]) -> str:
    """Metadata as the YAML head of a card; what is None or empty is left out."""
    import yaml

    kept = {key: value for key, value in values.items() if value}
    return f"---\n{yaml.safe_dump(kept, sort_keys=False, allow_unicode=True)}---\n"


def write_pruned_card(folder: Path, base: Path, *, kept: int, total: int) -> None:
    """README.md of a pruned base that is no retriever yet.

    Args:
        folder: where it goes.
        base: the unpruned base's folder.
        kept, total: decoder layers.
    """
    about = inherited_metadata(base)
    head = front_matter(
        {
            **about,
            "base_model_relation": "finetune" if "base_model" in about else None,
            "library_name": "transformers",
            "pipeline_tag": read_metadata(base).get("pipeline_tag") or "image-text-to-text",
            "tags": [TAG, "layer-pruning"],
        }
    )
    of = about.get("base_model", "a multimodal model")
    (folder / CARD).write_text(
        f"""{head}
# {kept} of {total} decoder layers

The first layers of {of}, otherwise as it was: not trained since, so that its generated text is of no use. `puma train`
makes a retriever of it.
""",
        encoding="utf-8",
    )


def _origin(card: Mapping[str, Any]) -> dict[str, Any]:
    return {key: card[key] for key in ("base_model", *LICENSE, "language") if card.get(key)}


def _configured_name(folder: Path) -> str | None:
    name = read_config(folder).get("_name_or_path")
    return name if isinstance(name, str) and HUB_NAME.fullmatch(name) else None
