"""A mini-base retriever's photo classifier, fitted to the training images: the lines between photographs and drawings,
and the vectors of the classes' names.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from puma.data.mbeir import Benchmark
from puma.errors import InputError
from puma.items.item import Item, open_image
from puma.mini.base.photo_classifier import (
    PHOTO,
    fit_photo_lines,
    make_classifier,
    name_vectors,
    steps_of,
    tower_network,
)
from puma.mini.fetch.packages import fetch
from puma.retriever.encoding.folding import fast_copy
from puma.retriever.images.pixels import Preprocessing
from puma.retriever.model import Retriever
from puma.retriever.photographs.classifier import BATCH, PhotoClassifier, small_image
from puma.retriever.photographs.statistics import pixel_statistics

DRAWINGS = 3000
"""Drawings that the lines are fitted to, beside all photographs."""
IMAGES = 500
"""Of all these, so many tell where the retriever puts images."""


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
        raise InputError(
            f"photo_classifier: the data in {root} has no photographs, or no drawings; leave it out "
            "(photo_classifier: false)"
        )
    return photos


def fitted_classifier(retriever: Retriever, base: Path, tower: str, root: Path, home: Path | None) -> PhotoClassifier:
    """The photo classifier of a trained retriever.

    Args:
        retriever: trained.
        base: the folder of its base.
        tower: a key of :data:`puma.mini.base.tower.TOWERS`.
        root: the data, as :func:`photo_paths` takes it.
        home: the cache folder.

    Raises:
        InputError: as :func:`photo_paths`; or the base can have no photo classifier.
    """
    styles, images = photo_paths(root), steps_of(base)
    drawings = [path for path, photo in styles.items() if not photo]
    chosen = np.random.default_rng(0).permutation(len(drawings))[:DRAWINGS]
    paths = [path for path, photo in styles.items() if photo] + [drawings[k] for k in sorted(chosen)]
    network, names = tower_network(tower, functools.partial(fetch, home=home))
    pooled, statistics = _looked_at(network.tower, paths, images)
    lines = fit_photo_lines(pooled, statistics, np.array([styles[path] for path in paths]))
    some = [Item(image=path) for path in paths[:: -(-len(paths) // IMAGES)]]
    image = retriever.encode(some).mean(0)
    vectors, text = name_vectors(retriever, names)
    direction = text / np.linalg.norm(text) - image / np.linalg.norm(image)
    return make_classifier(network, names, images, lines, vectors=vectors, direction=direction)


def _looked_at(tower: torch.nn.Module, paths: Sequence[Path], images: Preprocessing) -> tuple[np.ndarray, np.ndarray]:
    """Mean features of images by a tower, and their pixels' statistics."""
    fast = fast_copy(tower).to(memory_format=torch.channels_last)
    pooled, statistics = [], []
    with ThreadPoolExecutor() as pool, tqdm(total=len(paths), unit="image", desc="photographs and drawings") as bar:
        for start in range(0, len(paths), BATCH):
            part = paths[start : start + BATCH]
            small = list(pool.map(lambda path: small_image(open_image(path), images), part))
            statistics += list(pool.map(pixel_statistics, small))
            pixels = torch.from_numpy(images(small)).contiguous(memory_format=torch.channels_last)
            with torch.inference_mode():
                pooled.append(fast(pixels).last_hidden_state.mean((2, 3)).float().numpy())
            bar.update(len(part))
    return np.concatenate(pooled), np.stack(statistics)
