"""The tower's feature maps of many images, computed once and kept.

:class:`VisionTower` runs a model folder's tower fast, without its language model.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors import safe_open
from tqdm import tqdm
from transformers import AutoConfig, AutoImageProcessor, AutoModel

from puma.errors import ImageError, InputError, ModelError
from puma.items.item import open_image
from puma.mini.base.feature_store import KEY_BYTES, FeatureStore
from puma.mini.fetch.packages import cache_home
from puma.retriever.devices import has_fast_bf16
from puma.retriever.encoding.folding import fast_copy
from puma.storage.folders import storage_errors
from puma.training.augmenting import Augmentation

FORMAT = 1
"""Raised whenever the same tower and images would give other rows than before."""
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
PREFIX = "vision_tower."


def tower_precision() -> str:
    """The precision in which features are kept on this machine: ``bfloat16`` where that is the faster one."""
    return "bfloat16" if has_fast_bf16() else "float32"


class VisionTower:
    """A model folder's vision tower and image processor, without the language model.

    Args:
        folder: a FastVLM folder, such as :func:`puma.mini.base.assemble.assemble` returns.
        precision: ``float32`` gives what the whole model in float32 gives (to rounding); ``bfloat16`` is about three
            times as fast on a CPU with bfloat16 instructions, and within a cosine of 0.999 of it.

    Raises:
        ModelError: no vision tower there.
        InputError: an unknown precision.
    """

    def __init__(self, folder: Path | str, *, precision: str = "float32") -> None:
        if precision not in PRECISIONS:
            raise InputError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
        self.folder, self.precision = Path(folder), precision
        self.dtype = PRECISIONS[precision]
        model, self.weights_digest = _load(self.folder)
        self.model = fast_copy(model).to(memory_format=torch.channels_last)
        # the backend is not kept in the folder, and the other one gives slightly other pixels: ask for PIL's every time
        self.processor = AutoImageProcessor.from_pretrained(self.folder, backend="pil")

    @cached_property
    def fingerprint(self) -> str:
        """16 hexadecimal digits; changes with the weights, the image processor's settings and the precision."""
        settings = {k: v for k, v in self.processor.to_dict().items() if not k.startswith("_")}
        text = json.dumps([FORMAT, self.weights_digest, self.precision, settings], sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @cached_property
    def shape(self) -> tuple[int, int, int]:
        """Shape of one image's features: channels, height, width."""
        channels, height, width = self([Image.new("RGB", (32, 32))]).shape[1:]
        return channels, height, width

    def pixels(self, image: Image.Image) -> torch.Tensor:
        """The processor's output for one RGB image: float32 [3, height, width]."""
        return torch.from_numpy(np.asarray(self.processor(images=[image], return_tensors="np")["pixel_values"][0]))

    def forward(self, pixels: torch.Tensor) -> np.ndarray:
        """Features of a batch of pixels [n, 3, height, width]: float32 [n, channels, h, w]."""
        pixels = pixels.contiguous(memory_format=torch.channels_last)
        with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.dtype != torch.float32):
            return self.model(pixels).last_hidden_state.float().contiguous().numpy()

    def __call__(self, images: Sequence[Image.Image], *, batch_size: int = 32) -> np.ndarray:
        """Features of RGB images: float32 [n, channels, h, w]."""
        parts = [
            self.forward(torch.stack([self.pixels(p) for p in images[start : start + batch_size]]))
            for start in range(0, len(images), batch_size)
        ]
        return np.concatenate(parts) if parts else np.empty((0, *self.shape), np.float32)


@dataclass(frozen=True)
class ImageFeatures:
    """Features of n images in the order asked for.

    Attributes:
        rows: float16 [m, channels, h, w], on disk; also holds rows of other images.
        index: int64 [n], each image's row, or -1 if it could not be read.
        unreadable: (path, reason) of those.
    """

    rows: np.ndarray
    index: np.ndarray
    unreadable: tuple[tuple[str, str], ...]

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, positions: Any) -> np.ndarray:
        """float16 [k, channels, h, w] for positions among the n: integers, a slice, or a mask.

        Raises:
            ImageError: one of them could not be read.
        """
        chosen = np.atleast_1d(self.index[positions])
        if (chosen < 0).any():
            raise ImageError(f"{int((chosen < 0).sum())} of these pictures could not be read; see .unreadable")
        return np.asarray(self.rows[chosen])

    def pooled(self, block: int = 1024) -> np.ndarray:
        """The mean over positions: float32 [n, channels]; zeros where the image could not be read."""
        means = np.zeros((len(self), self.rows.shape[1]), np.float32)
        for start in range(0, len(self), block):
            chosen = self.index[start : start + block]
            readable = chosen >= 0
            part = self.rows[chosen[readable]].astype(np.float32)  # [k, channels, h, w]
            means[start : start + block][readable] = part.mean((2, 3))
        return means


def image_features(
    tower: VisionTower | Path | str,
    paths: Sequence[Path | str],
    home: Path | str | None = None,
    *,
    batch_size: int = 32,
    workers: int | None = None,
    show_progress: bool = True,
    variant: int = 0,
) -> ImageFeatures:
    """The tower's features of image files, from the cache where it has them, else computed and added to it.

    Images are known by their content, so a file that moves or is there twice is computed once. A killed run loses at
    most one batch. Unreadable images are listed in the result, and tried again the next time.

    Args:
        tower: a tower, or the model folder to load it from.
        paths: n files.
        home: cache folder; :func:`puma.mini.fetch.packages.cache_home` if None.
        batch_size: images per forward pass.
        workers: threads that decode; the number of cores if None.
        variant: 0 for the images as they are; another number for images moved and recoloured a little
            (:mod:`puma.training.augmenting`), each number in its own way.

    Raises:
        StorageError: the cache cannot be written.
    """
    tower = tower if isinstance(tower, VisionTower) else VisionTower(tower)
    name = f"{tower.precision}-{tower.fingerprint}" + (f"-variant{variant}" if variant else "")
    folder = (cache_home() if home is None else Path(home)) / "features" / name
    names = [os.fspath(path) for path in paths]
    with storage_errors(f"feature cache {folder}"), ThreadPoolExecutor(workers or os.cpu_count() or 1) as pool:
        keys = list(pool.map(_content_key, names, chunksize=64))
        with FeatureStore(folder, tower.shape) as store:
            wanted = {key: name for key, name in zip(keys, names, strict=True) if key is not None and key not in store}
            failed: dict[bytes, str] = {}
            hidden = not show_progress or not wanted
            with tqdm(total=len(wanted), desc="vision features", unit="picture", disable=hidden) as bar:
                for batch in _ready(tower, wanted, pool, batch_size, variant):
                    good = [(key, value) for key, value in batch if isinstance(value, torch.Tensor)]
                    failed.update({key: str(value) for key, value in batch if isinstance(value, ImageError)})
                    if good:
                        store.append([key for key, _ in good], tower.forward(torch.stack([p for _, p in good])))
                    bar.update(len(batch))
            index = np.array([-1 if key is None else store.position(key) for key in keys], np.int64)
            rows = store.rows()
    unreadable = tuple(
        (name, "cannot be read" if key is None else failed.get(key, "cannot be decoded"))
        for name, key, row in zip(names, keys, index, strict=True)
        if row < 0
    )
    return ImageFeatures(rows, index, unreadable)


def _ready(
    tower: VisionTower, wanted: dict[bytes, str], pool: ThreadPoolExecutor, batch_size: int, variant: int
) -> Iterator[list[tuple[bytes, torch.Tensor | ImageError]]]:
    """Batches of decoded images, two batches ahead of their use (more would only fill memory)."""

    change = Augmentation(tower.processor, variant) if variant else None

    def load(key: bytes, name: str) -> torch.Tensor | ImageError:
        try:
            pixels = tower.pixels(open_image(name))
            return pixels if change is None else change(pixels[None], (int.from_bytes(key[:4], "big"),))[0]
        except ImageError as error:
            return error

    entries = list(wanted.items())
    ahead: deque[list[tuple[bytes, Future[torch.Tensor | ImageError]]]] = deque()
    for start in range(0, len(entries) + 2 * batch_size, batch_size):
        if batch := entries[start : start + batch_size]:
            ahead.append([(key, pool.submit(load, key, name)) for key, name in batch])
        if ahead and (len(ahead) > 2 or not batch):
            yield [(key, future.result()) for key, future in ahead.popleft()]


def _content_key(name: str) -> bytes | None:
    try:
        with open(name, "rb") as stream:
            return hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=KEY_BYTES)).digest()
    except OSError:
        return None


def tower_weights(folder: Path) -> dict[str, torch.Tensor]:
    """The tensors of a model folder's vision tower by their names in it, reading nothing else of the folder's weights.

    Raises:
        ModelError: the folder holds no weights.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ModelError(f"no *.safetensors in {folder}: not a finished model folder")
    weights = {}
    for path in files:
        with safe_open(path, "pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 (it is no dict)
                if PREFIX in name:
                    weights[name.split(PREFIX, 1)[1]] = tensors.get_tensor(name)
    return weights


def _load(folder: Path) -> tuple[Any, str]:
    """The tower in float32 and the digest of its tensors."""
    weights = tower_weights(folder)
    model = AutoModel.from_config(AutoConfig.from_pretrained(folder).vision_config)
    try:
        model.load_state_dict({name: t.float() if t.is_floating_point() else t for name, t in weights.items()})
    except RuntimeError as error:
        raise ModelError(f"{folder} holds no whole vision tower under '{PREFIX}': {str(error)[:200]}") from error
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(name.encode() + weights[name].float().numpy().tobytes())
    return model.float().eval(), digest.hexdigest()
