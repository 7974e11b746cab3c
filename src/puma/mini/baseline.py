"""Retrieval with no language model layer at all: what a trained model must beat.

The regression and the text vectors are :mod:`puma.mini.base.projector`'s.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from transformers import AutoTokenizer

from puma.errors import ImageError, InputError
from puma.items.item import Item, as_item
from puma.mini.base.held_out import held_out_split
from puma.mini.base.projector import (
    HELD_OUT,
    STRENGTHS,
    AffineMap,
    Ridge,
    caption_vectors,
    inverse_document_frequency,
    mean_reciprocal_rank,
    token_embeddings,
    token_ids,
    unit,
)
from puma.mini.base.vision import VisionTower, image_features

TRANSFORMS: dict[str, Callable[[np.ndarray], np.ndarray]] = {"plain": lambda x: x, "root": np.sqrt}
"""What may be done to a pooled feature first (they are not negative: the towers end in relu6)."""


class RidgeBaseline:
    """An encoder of token embeddings and one linear map; make it with :meth:`fit`.

    A text is the idf-weighted mean of its token embeddings, less the mean caption; an image is its pooled vision
    feature mapped there by ridge regression; both together are the sum of the two unit vectors. Instructions are
    ignored.
    """

    def __init__(
        self,
        tower: VisionTower,
        tokenizer: Any,
        embeddings: np.ndarray,
        idf: np.ndarray,
        mean: np.ndarray,
        affine: AffineMap,
        transform: str,
        *,
        home: Path | str | None = None,
        notes: dict[str, Any] | None = None,
    ) -> None:
        self.tower, self.tokenizer, self.embeddings, self.idf = tower, tokenizer, embeddings, idf
        self.mean, self.affine, self.transform, self.home = mean, affine, transform, home
        self.notes = notes or {}
        """The choices made on held-out pairs, and their scores."""

    @classmethod
    def fit(
        cls,
        folder: Path | str,
        paths: Sequence[Path | str],
        captions: Sequence[str],
        *,
        home: Path | str | None = None,
        seed: int = 0,
        precision: str = "float32",
    ) -> RidgeBaseline:
        """Fit on training pairs; the ridge strength, whether targets are made unit vectors first and the features'
        transform are those with the best mean reciprocal rank on a tenth of the pairs, held out of the fit
        with every pair that shares a caption or image with them.

        Args:
            folder: the base whose tower, tokenizer and token embeddings are used.
            paths: n training images; unreadable ones are left out.
            captions: their n captions.
            home: cache folder for the features.
            seed: draws the held-out pairs.
            precision: of the tower, see :class:`puma.mini.base.vision.VisionTower`.

        Raises:
            InputError: the lengths differ, or there are too few unrelated pairs.
        """
        if len(paths) != len(captions):
            raise InputError(f"paths and captions must be as many, got {len(paths)} and {len(captions)}")
        tower, tokenizer = VisionTower(folder, precision=precision), AutoTokenizer.from_pretrained(folder)
        embeddings = token_embeddings(folder)
        features = image_features(tower, paths, home)
        readable = np.flatnonzero(features.index >= 0)
        pooled, texts = features.pooled()[readable], [captions[i] for i in readable.tolist()]
        ids = token_ids(tokenizer, texts)
        inside, outside = held_out_split(texts, features.index[readable].tolist(), HELD_OUT, seed)

        def targets(rows: np.ndarray, unit_targets: bool, idf: np.ndarray, mean: np.ndarray) -> np.ndarray:
            vectors = caption_vectors([ids[i] for i in rows], embeddings, idf) - mean
            return unit(vectors) if unit_targets else vectors

        def statistics(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            idf = inverse_document_frequency([ids[i] for i in rows], len(embeddings))
            return idf, caption_vectors([ids[i] for i in rows], embeddings, idf).mean(0)

        idf, mean = statistics(inside)
        truth = targets(outside, True, idf, mean)
        scores: dict[tuple[float, bool, str], float] = {}
        for name, transform in TRANSFORMS.items():
            for unit_targets in (False, True):
                ridge = Ridge(transform(pooled[inside]), targets(inside, unit_targets, idf, mean))
                for strength in STRENGTHS:
                    guess = unit(_centred(ridge.solve(strength), ridge)(transform(pooled[outside])))
                    scores[strength, unit_targets, name] = mean_reciprocal_rank(truth @ guess.T)
        best = max(scores, key=lambda choice: scores[choice])
        strength, unit_targets, name = best

        everything = np.arange(len(texts))
        idf, mean = statistics(everything)
        ridge = Ridge(TRANSFORMS[name](pooled), targets(everything, unit_targets, idf, mean))
        affine = _centred(ridge.solve(strength), ridge)
        notes = {
            "pairs": len(texts),
            "unreadable": len(features.unreadable),
            "held_out_pairs": len(outside),
            "strength": strength,
            "unit_targets": unit_targets,
            "transform": name,
            "held_out_mrr": round(scores[best], 4),
        }
        return cls(tower, tokenizer, embeddings, idf, mean, affine, name, home=home, notes=notes)

    @property
    def dim(self) -> int:
        """Length of a vector: the width of the token embeddings."""
        return self.embeddings.shape[1]

    @property
    def fingerprint(self) -> str:
        """Changes with the tower, the tokens' weights and the map."""
        digest = hashlib.sha256(f"{self.tower.fingerprint} {self.transform}".encode())
        for array in (self.affine.matrix, self.affine.bias, self.idf, self.mean):
            digest.update(np.ascontiguousarray(array).tobytes())
        digest.update(self.embeddings[:: max(1, len(self.embeddings) // 64)].tobytes())
        return f"ridge-{digest.hexdigest()[:16]}"

    def encode(self, items: Sequence[Item], *, instruction: str | None = None) -> np.ndarray:
        """Unit vectors, float32 [n, dim]. The features of image files are taken from the cache, and added to it.

        Args:
            items: n items.
            instruction: ignored; a bag of words would only be diluted by it.

        Raises:
            ImageError: an image cannot be read.
        """
        items = [as_item(item) for item in items]
        total = np.zeros((len(items), self.dim), np.float32)
        worded = [i for i, item in enumerate(items) if item.text is not None]
        if worded:
            ids = token_ids(self.tokenizer, [items[i].text or "" for i in worded])
            total[worded] += unit(caption_vectors(ids, self.embeddings, self.idf) - self.mean)
        with_image = [i for i, item in enumerate(items) if item.image is not None]
        if with_image:
            pooled = TRANSFORMS[self.transform](self._pooled([items[i] for i in with_image]))
            total[with_image] += unit(self.affine(pooled))
        return unit(total)

    def _pooled(self, items: Sequence[Item]) -> np.ndarray:
        pooled = np.zeros((len(items), self.affine.matrix.shape[0]), np.float32)
        files = [i for i, item in enumerate(items) if isinstance(item.image, (str, os.PathLike))]
        if files:
            names = [os.fspath(items[i].image) for i in files]  # type: ignore[arg-type]
            features = image_features(self.tower, names, self.home)
            if features.unreadable:
                path, reason = features.unreadable[0]
                raise ImageError(f"{path}: {reason} ({len(features.unreadable)} unreadable in all)")
            pooled[files] = features.pooled()
        others = sorted(set(range(len(items))) - set(files))
        for start in range(0, len(others), 32):
            batch = others[start : start + 32]
            images = [image for i in batch if (image := items[i].open_image()) is not None]
            # through float16, as the cache keeps them: an image gets one vector, whether it comes as a file or not
            pooled[batch] = self.tower(images).astype(np.float16).astype(np.float32).mean((2, 3))
        return pooled


def _centred(affine: AffineMap, ridge: Ridge) -> AffineMap:
    """The map without the targets' own mean, so that the mean image goes to the origin as the mean caption does."""
    return AffineMap(affine.matrix, (affine.bias - ridge.target_mean).astype(np.float32))
