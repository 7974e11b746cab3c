"""The projector in closed form: pooled vision feature -> idf-weighted mean token embedding of the caption, by ridge
regression, written exactly into FastVLM's Linear-GELU-Linear.

:mod:`puma.mini.baseline` retrieves with the same map.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from puma.data.mbeir import Benchmark, pool_path, query_path
from puma.errors import InputError, ModelError
from puma.mini.base.held_out import held_out_split
from puma.mini.base.vision import VisionTower, image_features, tower_precision
from puma.mini.fetch.packages import sha256_of

FORMAT = 2
"""Raised whenever the same pairs would give another projector than before."""
STRENGTHS = (30.0, 100.0, 300.0, 1000.0, 3000.0, 10000.0, 30000.0)
"""Ridge strengths tried, for standardised features (their diagonal is the number of images)."""
MIN_IDF = 0.1
HELD_OUT = 0.1
"""Share of the pairs held out to choose the strength."""
GELU_CENTRE = 8.0
GELU_REACH = 3.0
"""The projector's hidden units work at ``GELU_CENTRE`` plus at most ``GELU_REACH``; from 5 up GELU(x) is x to 3e-7."""


@dataclass(frozen=True)
class AffineMap:
    """``x @ matrix + bias`` from features [n, p] to embeddings [n, d]."""

    matrix: np.ndarray
    bias: np.ndarray

    def __call__(self, features: np.ndarray) -> np.ndarray:
        return features @ self.matrix + self.bias


def inverse_document_frequency(captions: Sequence[Sequence[int]], vocabulary: int) -> np.ndarray:
    """Weight of each token id: ``log(n / (1 + captions holding it))``, at least :data:`MIN_IDF`; float32 [vocabulary].

    Examples:
        >>> [f"{w:.3f}" for w in inverse_document_frequency([[0, 1], [0, 2], [0, 0], [0]], 4)]
        ['0.100', '0.693', '0.693', '1.386']
    """
    counts = np.zeros(vocabulary)
    for caption in captions:
        counts[list(set(caption))] += 1
    return np.maximum(np.log(max(len(captions), 1) / (1 + counts)), MIN_IDF).astype(np.float32)


def caption_vectors(captions: Sequence[Sequence[int]], embeddings: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted mean of token embeddings per caption: float32 [n, d]; zeros for a caption of no tokens.

    Args:
        captions: token ids of n captions.
        embeddings: [vocabulary, d].
        weights: [vocabulary], positive.
    """
    out = np.zeros((len(captions), embeddings.shape[1]), np.float32)
    for row, caption in enumerate(captions):
        if len(caption):
            w = weights[list(caption)]
            out[row] = (w / w.sum()) @ embeddings[list(caption)]
    return out


class Ridge:
    """Ridge regression of targets [n, d] on features [n, p] for any strength, after one decomposition.

    Features are centred and divided by their spread, targets centred; the bias is not penalised. Minimises
    ``|| z A - (y - mean y) ||^2 + strength || A ||^2`` over A, z the standardised features.
    """

    def __init__(self, features: np.ndarray, targets: np.ndarray) -> None:
        if len(features) != len(targets) or len(features) < 2:
            raise InputError(f"ridge needs two or more pairs, got {len(features)} features, {len(targets)} targets")
        self.mean, self.target_mean = features.mean(0, dtype=np.float64), targets.mean(0, dtype=np.float64)
        width = features.shape[1]
        gram, moments = np.zeros((width, width)), np.zeros((width, targets.shape[1]))
        for start in range(0, len(features), 4096):  # in float64, but never all pairs at once
            x = features[start : start + 4096].astype(np.float64) - self.mean
            gram += x.T @ x
            moments += x.T @ (targets[start : start + 4096].astype(np.float64) - self.target_mean)
        self.spread = np.sqrt(np.diag(gram) / len(features)) + 1e-3
        self._values, self._vectors = np.linalg.eigh(gram / np.outer(self.spread, self.spread))
        self._moments = self._vectors.T @ (moments / self.spread[:, None])

    def solve(self, strength: float, gain: float = 1.0) -> AffineMap:
        """The map at one strength; ``gain`` scales what varies and leaves the mean of the targets."""
        inner = self._vectors @ (self._moments / (np.maximum(self._values, 0.0) + strength)[:, None])
        matrix = gain * inner / self.spread[:, None]
        return AffineMap(matrix.astype(np.float32), (self.target_mean - self.mean @ matrix).astype(np.float32))


def unit(rows: np.ndarray) -> np.ndarray:
    """Rows divided by their length; a row of zeros becomes equal parts, so that every row has length one."""
    lengths = np.linalg.norm(rows, axis=-1, keepdims=True)
    flat = np.full_like(rows, 1 / np.sqrt(rows.shape[-1]))
    return np.where(lengths > 1e-12, rows / np.maximum(lengths, 1e-12), flat).astype(np.float32)


def mean_reciprocal_rank(scores: np.ndarray) -> float:
    """Mean over both directions of 1 / rank of the diagonal; ties count against it.

    Examples:
        >>> float(mean_reciprocal_rank(np.array([[2.0, 1.0], [0.0, 3.0]])))
        1.0
    """
    found = [1 / (side >= np.diag(side)[:, None]).sum(1) for side in (scores, scores.T)]
    return float(np.mean(found))


@dataclass(frozen=True)
class ProjectorWeights:
    """float32 arrays in torch's layout: ``weight_1`` [d, p], ``bias_1`` [d], ``weight_2`` [d, d], ``bias_2`` [d]."""

    weight_1: np.ndarray
    bias_1: np.ndarray
    weight_2: np.ndarray
    bias_2: np.ndarray


def as_linear_gelu_linear(affine: AffineMap, features: np.ndarray) -> ProjectorWeights:
    """Weights with which Linear-GELU-Linear is the affine map.

    A large bias moves the hidden units to where GELU is the identity; the second layer takes it off again. On features
    like those given the difference is under 1e-5 of the largest output; far outside, it grows gently. (In bfloat16 the
    units, near 8, come in steps of 1/32: about 2 % of their usual spread.)

    Args:
        affine: the map, p features to d outputs.
        features: [m, p], typical ones; they set the scale.
    """
    centre = features.mean(0)
    varying = (features - centre) @ affine.matrix
    scale = np.float32(GELU_REACH / max(1.1 * float(np.abs(varying).max(initial=0.0)), 1e-6))
    d = affine.matrix.shape[1]
    return ProjectorWeights(
        weight_1=np.ascontiguousarray(affine.matrix.T * scale, np.float32),
        bias_1=(GELU_CENTRE - scale * (centre @ affine.matrix)).astype(np.float32),
        weight_2=(np.eye(d) / scale).astype(np.float32),
        bias_2=(affine(centre) - GELU_CENTRE / scale).astype(np.float32),
    )


def token_ids(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Ids of each text's words: lower case, a space before (words inside a sentence have their own tokens), no
    special tokens."""
    prepared = [" " + " ".join(text.lower().split()) for text in texts]
    return [list(ids) for ids in tokenizer(prepared, add_special_tokens=False)["input_ids"]] if prepared else []


def token_embeddings(folder: Path | str) -> np.ndarray:
    """The input embeddings of a model folder, float32 [vocabulary, d], reading nothing else of its weights."""
    for path in sorted(Path(folder).glob("*.safetensors")):
        with safe_open(path, "pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 (it is no dict)
                if name.endswith("embed_tokens.weight"):
                    return tensors.get_tensor(name).float().numpy()
    raise ModelError(f"no token embeddings (embed_tokens.weight) in {folder}")


def training_pairs(root: Path | str) -> tuple[list[Path], list[str]]:
    """Images and captions of a benchmark's training queries of task 0 (text to image), one pair per positive."""
    benchmark = Benchmark(root)
    images = {candidate.did: candidate.image_path for candidate in benchmark.pool(0, "train")}
    paths, captions = [], []
    for query in benchmark.queries(0, "train"):
        for did in query.positives:
            if query.text and (path := images.get(did)):
                paths.append(Path(root) / path)
                captions.append(query.text)
    if not paths:
        raise InputError(f"{root} has no training pairs of task 0 (text to image) to fit a projector on")
    return paths, captions


def fitting_key(root: Path) -> str:
    """8 hexadecimal digits for a benchmark's training pairs and the constants used on them."""
    benchmark = Benchmark(root)
    files = [path(root, benchmark.dataset, 0, "train") for path in (query_path, pool_path)]
    parts = [sha256_of(path) for path in files if path.is_file()]
    text = repr([FORMAT, tower_precision(), parts, STRENGTHS, MIN_IDF, HELD_OUT, GELU_CENTRE, GELU_REACH])
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def fit(
    folder: Path | str,
    paths: Sequence[Path | str],
    captions: Sequence[str],
    *,
    home: Path | str | None = None,
    seed: int = 0,
) -> tuple[ProjectorWeights, dict[str, Any]]:
    """Projector weights for a base, and a note of how they came about.

    The strength is the one of :data:`STRENGTHS` with the best mean reciprocal rank on pairs held out of the fit. The
    gain then gives image tokens the mean length of token embeddings.

    Args:
        folder: the base.
        paths: n images; unreadable ones are left out.
        captions: their n captions.
        home: cache folder for the features.
    """
    features = image_features(VisionTower(folder, precision=tower_precision()), paths, home)
    readable = np.flatnonzero(features.index >= 0)
    texts = [captions[i] for i in readable.tolist()]
    pooled, embeddings = features.pooled()[readable], token_embeddings(folder)
    ids = token_ids(AutoTokenizer.from_pretrained(folder), texts)
    inside, outside = held_out_split(texts, features.index[readable].tolist(), HELD_OUT, seed)
    targets = caption_vectors(ids, embeddings, inverse_document_frequency([ids[i] for i in inside], len(embeddings)))
    ridge, scores = Ridge(pooled[inside], targets[inside]), {}
    truth = unit(targets[outside] - ridge.target_mean.astype(np.float32))
    for strength in STRENGTHS:
        guess = ridge.solve(strength)(pooled[outside]) - ridge.target_mean.astype(np.float32)
        scores[strength] = mean_reciprocal_rank(truth @ unit(guess).T)
    best = max(scores, key=lambda strength: scores[strength])

    targets = caption_vectors(ids, embeddings, inverse_document_frequency(ids, len(embeddings)))
    ridge = Ridge(pooled, targets)
    sample = readable[np.random.default_rng(seed).permutation(len(readable))[:512]]
    cells = features[sample].astype(np.float32).transpose(0, 2, 3, 1).reshape(-1, pooled.shape[1])
    varying = np.linalg.norm(ridge.solve(best)(cells) - ridge.target_mean, axis=1).mean()
    gain = float(np.linalg.norm(embeddings, axis=1).mean() / max(varying, 1e-12))
    note = {
        "pairs": len(readable),
        "unreadable": len(features.unreadable),
        "strength": best,
        "gain": gain,
        "held_out_mrr": {str(strength): round(score, 4) for strength, score in scores.items()},
    }
    return as_linear_gelu_linear(ridge.solve(best, gain), cells), note


def fitted_base(plain: Path, images: Path, folder: Path, home: Path) -> None:
    """Fill ``folder`` with the plain base, its projector fitted on a benchmark's training pairs."""
    import torch

    from puma.mini.base.settings import NOTE, BaseSettings, read_note, write_note

    weights, fitted = fit(plain, *training_pairs(images), home=home)
    for path in plain.iterdir():
        if path.suffix != ".safetensors" and path.name != NOTE:
            shutil.copyfile(path, folder / path.name)
    for path in plain.glob("*.safetensors"):
        tensors = load_file(path)
        for name, value in (
            ("linear_1.weight", weights.weight_1),
            ("linear_1.bias", weights.bias_1),
            ("linear_2.weight", weights.weight_2),
            ("linear_2.bias", weights.bias_2),
        ):
            for key in [key for key in tensors if key.endswith(f"multi_modal_projector.{name}")]:
                tensors[key] = torch.from_numpy(value)
        save_file(tensors, folder / path.name, metadata={"format": "pt"})
    settings = read_note(plain)["settings"]
    settings.pop("image_tokens")
    write_note(folder, BaseSettings(**{**settings, "strides": tuple(settings["strides"])}), projector=fitted)
