"""A mini-base retriever's tagger, fitted to the training images: the line between photographs and drawings, and the
shift of a tag.
"""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np

from puma.data.mbeir import Benchmark
from puma.errors import InputError
from puma.items.item import Item, TaggedItem, open_image
from puma.mini.base.known_images import features_of, stored_tower
from puma.mini.base.tags import PHOTO, fit_photo_line, make_tagger, steps_of
from puma.mini.fetch.packages import fetch
from puma.retriever.model import Retriever
from puma.retriever.tagging.network import torch_tagger
from puma.retriever.tagging.statistics import pixel_statistics
from puma.retriever.tagging.tagger import Tagger, small_image

DRAWINGS = 600
"""Drawings by which the shift is measured, beside all photographs."""
SHARE = 0.5
"""Of the mean shift that is taken off: all of it would take some of what tags say, too (docs/results.md)."""


def photo_paths(root: Path) -> dict[Path, bool]:
    """The training pictures of a benchmark, each with whether it is a photograph.

    Args:
        root: the data; its pictures name their style, as OpenPics' do.

    Raises:
        InputError: the data has no photographs, or no drawings.
    """
    photos = {
        root / candidate.image_path: json.loads(candidate.src or "{}").get("style") == PHOTO
        for candidate in Benchmark(root).pool(0, "train")
        if candidate.image_path
    }
    if not any(photos.values()) or all(photos.values()):
        raise InputError(f"tags: the data in {root} has no photographs, or no drawings; leave tags out (tags: false)")
    return photos


def fitted_tagger(retriever: Retriever, base: Path, tower: str, root: Path, home: Path | None) -> Tagger:
    """The tagger of a trained retriever.

    Args:
        retriever: trained, and without a tagger.
        base: the folder of its base.
        tower: a key of :data:`puma.mini.base.tower.TOWERS`.
        root: the data, as :func:`photo_paths` takes it.
        home: the cache folder.

    Raises:
        InputError: as :func:`photo_paths`; or the base can have no tagger.
    """
    styles, images = photo_paths(root), steps_of(base)
    known = features_of(stored_tower(base), list(styles), home)
    rows = {path: row for path in styles if (row := known.row(path)) is not None}
    paths, photos = list(rows), np.array([styles[path] for path in rows], bool)
    pooled = np.stack([known.rows[row].astype(np.float32).mean((1, 2)) for row in rows.values()])
    with ThreadPoolExecutor() as pool:
        looked_at = pool.map(lambda path: small_image(open_image(path), images), paths)
        statistics = np.stack([pixel_statistics(image) for image in looked_at])
    line, none = fit_photo_line(pooled, statistics, photos), np.zeros((2, retriever.dim), np.float32)
    tagger = make_tagger(base, tower, line, none, lambda package: fetch(package, home=home))
    drawn = np.random.default_rng(0).permutation(np.flatnonzero(~photos))[:DRAWINGS]
    chosen = [paths[k] for k in (*np.flatnonzero(photos), *sorted(drawn))]
    shift = SHARE * tag_shift(retriever, tagger, chosen, Benchmark(root).instruction(3))
    return torch_tagger(tagger.module, tagger.names, tagger.images, tagger.statistics, shift)


def tag_shift(retriever: Retriever, tagger: Tagger, paths: list[Path], instruction: str) -> np.ndarray:
    """What a tag does to the vectors of images on average, float32 [2, dim]: without an instruction and with one.

    Args:
        retriever: without a tagger.
        tagger: whose tags are read, drawings or not.
        paths: the images.
        instruction: for images as queries.
    """
    all_photographs = np.float32(np.inf)
    everywhere = replace(
        tagger, network=lambda pixels: (tagger.network(pixels)[0], np.full(len(pixels), all_photographs))
    )
    plain = [Item(image=path) for path in paths]
    tagged = [item for item in everywhere.tagged(plain, tagger.images) if isinstance(item, TaggedItem)]
    plain = [Item(image=item.image) for item in tagged]
    found = [
        retriever.encode(tagged, one).mean(0) - retriever.encode(plain, one).mean(0) for one in (None, instruction)
    ]
    return np.stack(found).astype(np.float32)
