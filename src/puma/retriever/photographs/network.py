"""The network behind a photo classifier, in torch: an image tower, a linear layer for the classes, and one that tells
photographs from drawings. Kept in a folder of its own inside the retriever's.
"""

from __future__ import annotations

import functools
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from puma.errors import ModelError
from puma.retriever.encoding.folding import fast_copy
from puma.retriever.images.pixels import Preprocessing
from puma.retriever.photographs.classifier import ARRAYS, FOLDER, PhotoClassifier
from puma.retriever.weight_samples import digest_of
from puma.storage.folders import write_json

WEIGHTS, SETTINGS = "model.safetensors", "classifier.json"
FORMAT = 1
"""Raised whenever an earlier PUMA could not read the folder."""
BEFORE = "puma_tagger"
"""The folder of a classifier whose words were read as text, which this version does not do."""


class PhotoNetwork(nn.Module):
    """Pixel values [n, 3, height, width] -> logits float32 [n, classes], and how much the features are those of a
    photograph, float32 [n].

    Args:
        tower: transformers' model of an image, whose last hidden state is a map [n, channels, h, w].
        classes: how many.
    """

    def __init__(self, tower: Any, classes: int) -> None:
        super().__init__()
        width = int(tower.config.hidden_size)
        self.tower, self.classifier, self.photo = tower, nn.Linear(width, classes), nn.Linear(width, 1)

    def forward(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.of_map(self.tower(pixel_values).last_hidden_state)

    def of_map(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The same of the tower's map [n, channels, h, w]."""
        pooled = features.mean((2, 3))
        return self.classifier(pooled), self.photo(pooled)[:, 0]


def torch_classifier(
    network: PhotoNetwork,
    names: tuple[str, ...],
    images: Preprocessing,
    *,
    gate: np.ndarray,
    statistics: np.ndarray,
    vectors: np.ndarray,
    direction: np.ndarray,
) -> PhotoClassifier:
    """A photo classifier whose network runs in torch, in float32 on the CPU.

    Args:
        network: its weights.
        names: of the classes.
        images: what is done to images before it.
        gate, statistics, vectors, direction: see
            :class:`~puma.retriever.photographs.classifier.PhotoClassifier`. The fingerprint leaves the last two out:
            they follow from the retriever's weights, which its own fingerprint has.
    """
    network = network.float().eval()

    @functools.cache  # made with the first photograph: a search for words needs none
    def tower() -> nn.Module:
        return fast_copy(network.tower).to(memory_format=torch.channels_last)

    def run(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        given = torch.from_numpy(pixels).contiguous(memory_format=torch.channels_last)
        with torch.inference_mode(), torch.autocast("cpu", enabled=False):
            logits, photo = network.of_map(tower()(given).last_hidden_state)
            return logits.numpy(), photo.numpy()

    settings = json.dumps([names, asdict(images)])
    state = {**network.state_dict(), "gate": torch.from_numpy(gate), "statistics": torch.from_numpy(statistics)}
    return PhotoClassifier(
        names, images, run, digest_of([settings], state), gate, statistics, vectors, direction, network
    )


def save_classifier(classifier: PhotoClassifier, folder: Path) -> None:
    """Write a photo classifier of :func:`torch_classifier` into a retriever's folder."""
    own, module = folder / FOLDER, classifier.module
    own.mkdir()
    state = {name: tensor.contiguous() for name, tensor in module.state_dict().items()}
    state |= {name: torch.from_numpy(getattr(classifier, name).copy()) for name in ARRAYS}
    save_file(state, own / WEIGHTS, metadata={"format": "pt"})
    config = module.tower.config.to_dict()
    images = asdict(classifier.images)
    write_json(own / SETTINGS, {"format": FORMAT, "tower": config, "names": classifier.names, "images": images})


def read_classifier(folder: Path) -> PhotoClassifier | None:
    """The photo classifier of a retriever's folder; None if it has none.

    Raises:
        ModelError: it is damaged, or a newer PUMA wrote it, or an early one, whose classifier worked in another way.
    """
    own = folder / FOLDER
    if (folder / BEFORE).is_dir():
        raise ModelError(
            f"{folder / BEFORE}: made by an earlier PUMA, which used it in another way; make the model again, or "
            "delete this folder to use the model without a photo classifier"
        )
    if not own.is_dir():
        return None
    from transformers import AutoConfig, AutoModel

    try:
        settings = json.loads((own / SETTINGS).read_text(encoding="utf-8"))
        if int(settings["format"]) > FORMAT:
            raise ModelError(f"{own}: written by a newer PUMA (format {settings['format']}): update PUMA")
        with torch.device("meta"):  # no weights are drawn that the file's would replace
            network = PhotoNetwork(
                AutoModel.from_config(AutoConfig.for_model(**settings["tower"])), len(settings["names"])
            )
        state = load_file(own / WEIGHTS)
        arrays = {name: state.pop(name).numpy() for name in ARRAYS}
        network.load_state_dict(state, assign=True)
        images = Preprocessing.from_dict(settings["images"])
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        said = " ".join(str(error).split())[:200]
        raise ModelError(
            f"{own}: cannot be read ({type(error).__name__}: {said}); make the model again, or delete this folder "
            "to use the model without a photo classifier"
        ) from None
    return torch_classifier(network, tuple(settings["names"]), images, **arrays)
