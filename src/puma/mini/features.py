"""Where a frozen tower's features come from in training: stored images, their variants, and mixtures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from puma.data.mbeir import Benchmark
from puma.items.item import Item
from puma.mini.base.classifier import load_classifier
from puma.mini.base.known_images import KnownImages, features_of, stored_tower, variant_name
from puma.mini.extra_pairs.mixtures import Joined, Mixtures, mixtures_of
from puma.mini.fetch.packages import fetch
from puma.retriever.stored_vision import VisionFeatures
from puma.training.pairs import Pair
from puma.training.recipes.recipe import Recipe


def training_mixtures(vision: KnownImages, recipe: Recipe, root: Path, home: Path | None) -> Mixtures:
    """Mixtures of the features of the data's training images, for the recipe's tower."""
    paths = {c.image_path for c in Benchmark(root).pool(0, "train") if c.image_path}
    rows = sorted(row for path in paths if (row := vision.row(root / path)) is not None)
    classifier = load_classifier(recipe.tower, lambda package: fetch(package, home=home))
    return mixtures_of(vision.rows, np.array(rows, np.int64), classifier, recipe.retrieve.seed)


def with_more_features(
    vision: KnownImages, mixtures: Mixtures | None, pairs: Sequence[Pair], recipe: Recipe, base: Path, home: Path | None
) -> tuple[list[Pair], Joined]:
    """The pairs, many of them with variants of their images, and stored features of all that they hold.

    Args:
        vision: features of the data's images.
    """
    sources: list[VisionFeatures] = [vision]
    if recipe.extra_pairs or recipe.image_variants:
        tower = stored_tower(base)
        images = {item.image for pair in pairs for item in (pair.query, pair.candidate)}
        paths = sorted(image for image in images if isinstance(image, Path))
        own = [path for path in paths if vision.row(path) is not None]
        sources.append(features_of(tower, [path for path in paths if vision.row(path) is None], home))
        sources += [features_of(tower, own, home, variant=number) for number in range(1, recipe.image_variants + 1)]
        if recipe.image_variants:
            pairs = with_variants(pairs, set(own), recipe.image_variants, recipe.retrieve.seed)
    if mixtures is not None:
        sources.append(mixtures)
    return list(pairs), Joined(*sources)


def with_variants(pairs: Sequence[Pair], paths: set[Path], variants: int, seed: int) -> list[Pair]:
    """The pairs with each image, by chance, itself or one of its variants: an image that is in many pairs is seen in
    all of them.

    Args:
        paths: the images that have variants.
        variants: how many, numbered from 1.
    """
    drawn = np.random.default_rng([seed, variants]).integers(variants + 1, size=(len(pairs), 2))

    def changed(item: Item, variant: int) -> Item:
        if not variant or not isinstance(item.image, Path) or item.image not in paths:
            return item
        return replace(item, image=variant_name(item.image, variant))

    return [
        replace(pair, query=changed(pair.query, int(first)), candidate=changed(pair.candidate, int(second)))
        for pair, (first, second) in zip(pairs, drawn, strict=True)
    ]
