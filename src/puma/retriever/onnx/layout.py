"""The folder of an exported retriever: its files, and the one that says how to read them. Loads no torch."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from puma.errors import ModelError
from puma.retriever.images.patches import Patches
from puma.retriever.images.pixels import Preprocessing
from puma.retriever.images.tiles import Tiles

EXPORT_FILE = "puma_onnx.json"
"""Holds an :class:`Export`, by which a folder is known to be one."""
TEXT_GRAPH = "puma_text.onnx"
"""``input_ids`` and ``attention_mask`` int64 [n, length], padded on the right, and ``image_features`` float32
[rows, dim], those of all images of the batch in the order of their placeholders -> ``vectors`` float32 [n, dim], of
unit length. Where :attr:`Export.prefix` is given, also ``prefix_keys`` and ``prefix_values`` float32 [layers, heads,
known, size], of the tokens before all sequences -> ``keys`` and ``values`` of the first sequence. Where images are
:class:`~puma.retriever.images.patches.Patches`, also ``position_ids`` int64 [3, n, length]
(:mod:`puma.retriever.onnx.seeing`); features may then be wider than ``dim``: what deeper layers get follows."""
VISION_GRAPH = "puma_vision.onnx"
"""``pixel_values`` float32 [images, 3, height, width], where images are
:class:`~puma.retriever.images.tiles.Tiles` those of tiles, -> ``image_features`` float32 [images * rows an image, dim].
Of patches, all that :meth:`puma.retriever.images.patches.Patches.inputs` makes."""
TOKENIZER = "tokenizer.json"
FORMAT = 2
"""The newest that can be read here. Raised whenever an earlier PUMA could not read some folder."""
FP32, INT8 = "fp32", "int8"

Images = Preprocessing | Patches | Tiles
"""What is done to images before a vision graph."""
_KINDS: dict[str | None, type[Images]] = {None: Preprocessing, "patches": Patches, "tiles": Tiles}
"""By ``images.kind`` in the file. Format 1 had one kind, and no name for it."""


@dataclass(frozen=True)
class Export:
    """What must be known of the graphs to use them.

    Args:
        puma: the version that wrote it.
        base: transformers' ``model_type`` of the model.
        precision: ``fp32`` or ``int8``.
        fingerprint: of the vectors; in fp32 the model's own, whose vectors these are.
        dim: length of a vector.
        source: the folder or hub name that was exported, as it was given.
        pad_id, ret_id: token numbers.
        control: strings that the model reads as control tokens, longest first.
        special_ids: token numbers that stand for no text.
        image_token: the placeholder of an image in a prompt.
        image_rows: placeholders, and rows of features, an image or tile; 0 where there is no vision graph, and where
            their number depends on the image (patches).
        images: what is done to images before the vision graph; None where there is none.
        prefix: layers, heads and size of the keys of a prefix; None where the text graph takes none.
        dimensions: lengths below ``dim`` that its vectors may be cut to, rising.
        photo_classifier: whether there is one (:mod:`puma.retriever.onnx.photo_classifier`).
    """

    puma: str
    base: str
    precision: str
    fingerprint: str
    dim: int
    source: str
    pad_id: int
    ret_id: int
    control: tuple[str, ...]
    special_ids: tuple[int, ...]
    image_token: str
    image_rows: int
    images: Images | None
    prefix: tuple[int, int, int] | None
    dimensions: tuple[int, ...] = ()
    photo_classifier: bool = False

    @property
    def format(self) -> int:
        """The oldest that can say all this, so that no earlier PUMA refuses a folder that it could read."""
        return 1 if not self.photo_classifier and isinstance(self.images, Preprocessing | None) else 2

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a JSON file."""
        values = {"format": self.format, **asdict(self)}
        kind = next((name for name, one in _KINDS.items() if name and isinstance(self.images, one)), None)
        if kind is not None:
            values["images"]["kind"] = kind
        return values


def is_exported(path: str | os.PathLike[str]) -> bool:
    """Whether a folder here holds an exported retriever."""
    return (Path(path) / EXPORT_FILE).is_file()


def read_export(folder: Path) -> Export:
    """What an exported folder says of itself.

    Raises:
        ModelError: a newer PUMA exported it, or its file is damaged.
    """
    try:
        values = json.loads((folder / EXPORT_FILE).read_text(encoding="utf-8"))
        found, writer = int(values["format"]), str(values["puma"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _damaged(folder, error) from None
    if found > FORMAT:
        import puma

        raise ModelError(
            f"model {str(folder)!r}: exported by a newer version, PUMA {writer} (format {found}; PUMA "
            f"{puma.__version__} here reads up to {FORMAT}): update PUMA, or export the model again with this one"
        )
    if values.get("tagged"):
        raise ModelError(
            f"model {str(folder)!r}: exported by PUMA {writer}, whose classifier of photographs worked in another way: "
            "export the model again"
        )
    try:
        kept = {field.name: values[field.name] for field in fields(Export) if field.name != "photo_classifier"}
        kept["photo_classifier"] = bool(values.get("photo_classifier"))
        if kept["images"] is not None:
            images = dict(kept["images"])
            kept["images"] = _KINDS[images.pop("kind", None)].from_dict(images)
        kept |= {name: tuple(kept[name]) for name in ("control", "special_ids", "dimensions")}
        if kept["prefix"] is not None:
            kept["prefix"] = tuple(kept["prefix"])
        return Export(**kept)
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(folder, error) from None


def _damaged(folder: Path, error: Exception) -> ModelError:
    return ModelError(
        f"model {str(folder)!r}: {EXPORT_FILE} cannot be read ({type(error).__name__}: {error}); export the model again"
    )
