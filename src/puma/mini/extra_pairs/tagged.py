"""Tags in training: photographs with the word that the tower's classifier has for them, and a few drawings with a word
that is mostly right, so that a model learns to read tags and that a tagged image is still an image.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from puma.data.mbeir import Benchmark
from puma.errors import InputError
from puma.items.item import IMAGE, Item, TaggedItem
from puma.mini.base.known_images import features_of, stored_tower
from puma.mini.base.tags import PHOTO, fit_photo_line, make_tagger
from puma.mini.fetch.packages import fetch
from puma.retriever.tagging.tagger import Tagger
from puma.training.pairs import Pair

DRAWINGS = 0.08
"""The share of pairs in which a drawing has a tag."""
OWN_NAME = 0.75
"""The share of those whose tag is the drawing's own name; the others have a class by chance."""


@dataclass(frozen=True)
class TrainingTags:
    """What the training images' tags are.

    Args:
        photographs: the tag of each image that is taken for a photograph, by its path.
        names: the names of the others.
        classes: of the classifier.
        tagger: what the finished retriever tags with.
    """

    photographs: Mapping[Path, str]
    names: Mapping[Path, str]
    classes: tuple[str, ...]
    tagger: Tagger


def training_tags(base: Path, tower: str, root: Path, home: Path | None) -> TrainingTags:
    """Draw the line between photographs and drawings through the training images, and tag those.

    Args:
        base: the base's folder.
        tower: a key of :data:`puma.mini.base.tower.TOWERS`.
        root: the data; its pictures name their style, as OpenPics' do.
        home: the cache folder.

    Raises:
        InputError: the data has no photographs, or no drawings.
    """
    about = {
        root / candidate.image_path: json.loads(candidate.src or "{}")
        for candidate in Benchmark(root).pool(0, "train")
        if candidate.image_path
    }
    known = features_of(stored_tower(base), list(about), home)
    paths = [path for path in about if known.row(path) is not None]
    photos = np.array([about[path].get("style") == PHOTO for path in paths], bool)
    if not photos.any() or photos.all():
        raise InputError(f"tags: the data in {root} has no photographs, or no drawings; leave tags out (tags: false)")
    pooled = np.stack([known.lookup(Item(image=path)).astype(np.float32).mean((1, 2)) for path in paths])  # type: ignore[union-attr]
    line = fit_photo_line(pooled, photos)
    tagger = make_tagger(base, tower, line, lambda package: fetch(package, home=home))
    weight, bias = (
        value.detach().numpy() for value in (tagger.module.classifier.weight, tagger.module.classifier.bias)
    )
    likeliest = (pooled @ weight.T + bias).argmax(1)
    found = pooled @ line.weight + line.bias > 0
    tags = {path: tagger.names[k] for path, k, photo in zip(paths, likeliest, found, strict=True) if photo}
    names = {path: str(about[path].get("name") or "") for path in paths if path not in tags}
    return TrainingTags(tags, names, tagger.names, tagger)


def with_tags(pairs: Sequence[Pair], tags: TrainingTags) -> list[Pair]:
    """The pairs with tagged images where these have tags; which drawings have one goes by the pair's place."""

    def tagged(item: Item, place: int) -> Item:
        path = item.image
        if item.modality != IMAGE or not isinstance(path, Path):
            return item
        tag = tags.photographs.get(path)
        name = tags.names.get(path)
        if tag is None and name is not None and _chance(place, path, "tagged") < DRAWINGS:
            own = name and _chance(place, path, "own") < OWN_NAME
            tag = name if own else tags.classes[int(_chance(place, path, "class") * len(tags.classes))]
        return TaggedItem(image=path, tag=tag) if tag else item

    return [
        replace(pair, query=tagged(pair.query, place), candidate=tagged(pair.candidate, place))
        for place, pair in enumerate(pairs)
    ]


def _chance(*parts: object) -> float:
    """A number from 0 to 1 that goes by the parts alone."""
    digest = hashlib.sha256("|".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
