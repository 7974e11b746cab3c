"""A sentence-transformers model not made by PUMA as an :class:`~puma.items.Encoder`, scored as ours are.

A query is embedded with the benchmark's instruction as ``prompt``, or with one of the model's own prompts by name; a
candidate as ``encode_document`` does it. Images are opened by PUMA, with its limits, and no text is ever taken for the
address of an image.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from puma.errors import DependencyError, DownloadError, ImageError, InputError, ModelError, install_command
from puma.items.item import IMAGE, IMAGE_TEXT, TEXT, Item
from puma.retriever.weight_samples import weight_samples

BATCH = 32
"""Items of a forward pass, as sentence-transformers has it."""
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_ADDRESS = re.compile(r"data:|https?://|.*\.\w{2,5}$", re.IGNORECASE | re.DOTALL)


class ForeignEncoder:
    """A ``SentenceTransformer`` behind the interface of our encoders.

    Args:
        model: any ``SentenceTransformer``.
        name: what it is called in messages.
        query_prompt: the name of one of the model's own prompts, which a query then takes instead of the instruction.

    Raises:
        InputError: the model has no prompt of that name, or takes neither texts nor images.
    """

    def __init__(self, model: Any, name: str, query_prompt: str | None = None) -> None:
        self.model, self.name, self.query_prompt = model.eval(), name, query_prompt
        prompts = getattr(model, "prompts", None) or {}
        if query_prompt is not None and query_prompt not in prompts:
            there = ", ".join(sorted(prompts)) or "none"
            raise InputError(f"--st-prompt {query_prompt!r}: {name} has no such prompt; it has {there}")
        self.modalities = tuple(kind for kind in (TEXT, IMAGE, IMAGE_TEXT) if self._supports(kind))
        """What it embeds, of :data:`puma.items.MODALITIES`."""
        if not self.modalities:
            raise InputError(f"{name}: takes neither texts nor images ({', '.join(map(str, model.modalities))})")
        self.dim = self._dim()
        self.fingerprint = self._fingerprint()

    def _supports(self, modality: str) -> bool:
        if modality != IMAGE_TEXT:
            return bool(self.model.supports(modality))
        return any(self.model.supports(pair) for pair in (("image", "text"), ("text", "image")))

    def _dim(self) -> int:
        tell = getattr(self.model, "get_embedding_dimension", None) or self.model.get_sentence_embedding_dimension
        known = getattr(self.model, "truncate_dim", None) or tell()
        if known:
            return int(known)
        from PIL import Image

        one: Any = "a" if TEXT in self.modalities else Image.new("RGB", (64, 64))
        return int(self.model.encode([one], convert_to_numpy=True, show_progress_bar=False).shape[1])

    def _fingerprint(self) -> str:
        digest = hashlib.sha256()
        for sample in weight_samples(self.model.state_dict()):
            digest.update(sample)
        for module in self.model:
            about = getattr(module, "get_config_dict", None)
            digest.update(f"{type(module).__name__} {about() if callable(about) else ''}".encode())
        prompts = sorted((getattr(self.model, "prompts", None) or {}).items())
        digest.update(
            f"{prompts} {self.query_prompt} {getattr(self.model, 'max_seq_length', None)} {self.dim}".encode()
        )
        return f"st-{digest.hexdigest()[:16]}"

    def encode(self, items: Sequence[Item], *, instruction: str | None = None) -> np.ndarray:
        """Embed items: float32 [n, dim], unit rows, in the order given. An instruction marks queries.

        Raises:
            InputError: an item is of a modality that the model does not embed.
            ImageError: an image cannot be opened, or the model's processor refuses it.
        """
        out = np.zeros((len(items), self.dim), dtype=np.float32)
        by_kind: dict[str, list[int]] = {}
        for place, item in enumerate(items):
            by_kind.setdefault(item.modality, []).append(place)
        for kind, places in by_kind.items():
            if kind not in self.modalities:
                raise InputError(
                    f"{self.name} does not embed {kind} items, only {', '.join(self.modalities)}; an evaluation takes "
                    "--tasks and --pools to leave them out"
                )
            places.sort(key=lambda place: -len(items[place].text or ""))
            for start in range(0, len(places), BATCH):
                rows = places[start : start + BATCH]
                out[rows] = self._vectors([items[place] for place in rows], kind, instruction)
        lengths = np.linalg.norm(out, axis=1, keepdims=True)
        return out / np.where(lengths > 0, lengths, 1)

    def _vectors(self, items: Sequence[Item], kind: str, instruction: str | None) -> np.ndarray:
        inputs = [self._input(item, kind) for item in items]
        try:
            return self._forward(inputs, instruction)
        except (ValueError, RuntimeError, TypeError, ZeroDivisionError) as error:
            if kind == TEXT or "out of memory" in str(error):
                raise
            for item, one in zip(items, inputs, strict=True):  # which one it is about
                try:
                    self._forward([one], instruction)
                except (ValueError, RuntimeError, TypeError, ZeroDivisionError) as own:
                    raise ImageError(f"{_name(item)}: {self.name} refuses it ({_first_line(own)})") from None
            raise

    def _input(self, item: Item, kind: str) -> Any:
        if kind == IMAGE:
            return item.open_image()
        if kind == IMAGE_TEXT:
            return {"text": item.text, "image": item.open_image()}
        # In a model of images, a string that looks like an address or a file would be fetched.
        return {"text": item.text} if IMAGE in self.modalities and _ADDRESS.match(item.text or "") else item.text

    def _forward(self, inputs: list[Any], instruction: str | None) -> np.ndarray:
        options: dict[str, Any] = {"batch_size": BATCH, "convert_to_numpy": True, "show_progress_bar": False}
        if instruction is None:
            vectors = self.model.encode_document(inputs, **options)
        elif self.query_prompt is not None:
            vectors = self.model.encode_query(inputs, prompt_name=self.query_prompt, **options)
        else:
            vectors = self.model.encode_query(inputs, prompt=instruction, **options)
        return np.asarray(vectors, dtype=np.float32)


def load_foreign(
    name: str,
    *,
    query_prompt: str | None = None,
    device: str | None = None,
    dtype: Any = None,
    attn: str | None = None,
) -> ForeignEncoder:
    """Load a sentence-transformers model: a folder, or ``org/name`` from the hub or its cache (``HF_HUB_OFFLINE=1``
    asks the cache only). Code that comes with a model is not run.

    Args:
        dtype: the weights' type; the model's own default if None.
        attn: ``sdpa``, ``eager`` or ``flash_attention_2``; the default if None.

    Raises:
        InputError: no such folder, and no name of the hub either.
        DownloadError: the hub does not have it, or cannot be reached.
        ModelError: it is there and cannot be loaded. DependencyError: it needs a package that is not installed.
    """
    place = str(Path(name).expanduser())
    local = bool(name) and os.path.exists(place)
    if local and not any(os.path.isfile(os.path.join(place, file)) for file in ("modules.json", "config.json")):
        raise InputError(f"--st {name}: no model folder (neither modules.json nor config.json in it)")
    if not local and (not _HUB_NAME.fullmatch(name) or os.path.isdir(name.split("/", 1)[0])):
        raise InputError(f"--st {name}: no such folder; a model of the hub is named org/name")
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise DependencyError(f"--st needs sentence-transformers ({error}): {install_command('train')}") from None
    options = {"dtype": dtype, "attn_implementation": attn}
    try:
        model = SentenceTransformer(
            place if local else name,
            device=device or _device(),
            model_kwargs={key: value for key, value in options.items() if value is not None},
            trust_remote_code=False,
        )
    except ImportError as error:
        raise DependencyError(f"--st {name}: {_first_line(error)}") from None
    except Exception as error:  # what a model's files make the libraries raise is no defect of ours
        if local:
            raise ModelError(f"--st {name}: cannot be loaded ({_first_line(error)})") from None
        if isinstance(error, (OSError, ConnectionError)):
            raise DownloadError(
                f"--st {name}: neither a folder here nor to be had from the hub or its cache ({_first_line(error)})"
            ) from None
        raise ModelError(f"--st {name}: cannot be loaded ({_first_line(error)})") from None
    return ForeignEncoder(model, name if not local else Path(os.path.abspath(place)).name, query_prompt)


def _device() -> str:
    from puma.retriever.devices import default_device

    return default_device()


def _name(item: Item) -> str:
    return os.fspath(item.image) if isinstance(item.image, (str, os.PathLike)) else "an image"


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
