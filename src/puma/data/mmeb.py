"""MMEB's layout (VLM2Vec's image tasks): which subsets there are, and the reading of their rows, all faults named.

Loads no torch.

The layout, under one root, as ``TIGER-Lab/MMEB-eval`` is published and its images are unpacked::

    <subset>/test-00000-of-00001.parquet      one or more shards; test.jsonl or <subset>.jsonl are read, too
    eval_images/<path as in the rows>         or images/, image-tasks/ (MMEB-V2), or the root itself

A row is one query with candidates of its own, the first of which is right::

    qry_text       str             the instruction is part of it; "<|image_1|>" stands where the image goes
    qry_img_path   str             relative to the images' folder; "" for none
    tgt_text       list of str     "" where a candidate is an image only
    tgt_img_path   list of str     as long as tgt_text; may be missing or null where no candidate has an image
    qry_inst, tgt_inst   str       only in the instruction edition of V2, whose texts leave the instruction out

Sources: the dataset card of TIGER-Lab/MMEB-eval; VLM2Vec's repository, ``eval.py`` and ``src/dataset.py`` of its v1
branch (the row), ``src/data/eval_dataset/image_*.py`` of its main branch (the V2 columns); Jiang et al.,
arXiv:2410.05160 (subsets, meta-tasks, in and out of distribution).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from puma.data.columnar import parquet_rows
from puma.data.mbeir import MAX_FAULTS
from puma.errors import DataError, InputError
from puma.items.item import Item

IMAGE_TOKEN = "<|image_1|>"
"""What MMEB's texts hold where the image goes; stripped, since the encoder places the image itself."""

META_TASKS: dict[str, tuple[str, ...]] = {
    "classification": (
        "ImageNet-1K",
        "N24News",
        "HatefulMemes",
        "VOC2007",
        "SUN397",
        "Place365",
        "ImageNet-A",
        "ImageNet-R",
        "ObjectNet",
        "Country211",
    ),
    "vqa": (
        "OK-VQA",
        "A-OKVQA",
        "DocVQA",
        "InfographicsVQA",
        "ChartQA",
        "Visual7W",
        "ScienceQA",
        "VizWiz",
        "GQA",
        "TextVQA",
    ),
    "retrieval": (
        "VisDial",
        "CIRR",
        "VisualNews_t2i",
        "VisualNews_i2t",
        "MSCOCO_t2i",
        "MSCOCO_i2t",
        "NIGHTS",
        "WebQA",
        "FashionIQ",
        "Wiki-SS-NQ",
        "OVEN",
        "EDIS",
    ),
    "grounding": ("MSCOCO", "RefCOCO", "RefCOCO-Matching", "Visual7W-Pointing"),
}
"""The 36 subsets by meta-task, named as their folders are."""

OUT_OF_DISTRIBUTION = frozenset(
    (
        "Place365",
        "ImageNet-A",
        "ImageNet-R",
        "ObjectNet",
        "Country211",
        "ScienceQA",
        "VizWiz",
        "GQA",
        "TextVQA",
        "FashionIQ",
        "Wiki-SS-NQ",
        "OVEN",
        "EDIS",
        "RefCOCO",
        "RefCOCO-Matching",
        "Visual7W-Pointing",
    )
)
"""The 16 subsets that MMEB's training set has no part of; the other 20 are in distribution."""

SUBSETS: tuple[str, ...] = tuple(name for names in META_TASKS.values() for name in names)
IMAGE_FOLDERS = ("eval_images", "images", "image-tasks")
"""Where the images are looked for, in this order; else under the root itself."""


@dataclass(frozen=True, slots=True)
class Side:
    """One query or candidate: a text without :data:`IMAGE_TOKEN`, a path relative to the images' folder, or both; the
    instruction if the row keeps it apart."""

    text: str | None
    image_path: str | None
    instruction: str | None = None

    def item(self, images: str | os.PathLike[str]) -> Item:
        """As an Item, its image named by a path under ``images``. The instruction is not in it."""
        return Item(text=self.text, image=None if self.image_path is None else Path(images) / self.image_path)


@dataclass(frozen=True, slots=True)
class Row:
    """A query and its candidates; the first is right. Candidates that are alike are one candidate, so all differ."""

    query: Side
    candidates: tuple[Side, ...]


def find_subsets(root: str | os.PathLike[str]) -> list[str]:
    """The published subsets whose files are under ``root``, in the published order.

    Raises:
        DataError: no such folder, or none of them is there.
    """
    if not Path(root).is_dir():
        raise DataError(f"{os.fspath(root)}: no such folder; expected MMEB's subsets in it")
    found = [name for name in SUBSETS if _files(Path(root), name)]
    if not found:
        raise DataError(
            f"{os.fspath(root)}: none of MMEB's subsets is here; expected <subset>/test-00000-of-00001.parquet or "
            f"<subset>/test.jsonl, with <subset> one of {', '.join(SUBSETS)}"
        )
    return found


def image_folder(root: str | os.PathLike[str]) -> Path:
    """The folder that the rows' image paths are relative to: the first of :data:`IMAGE_FOLDERS` that exists, or the
    root."""
    return next((Path(root) / name for name in IMAGE_FOLDERS if (Path(root) / name).is_dir()), Path(root))


def read_subset(root: str | os.PathLike[str], subset: str) -> list[Row]:
    """Read the test rows of one subset.

    Raises:
        InputError: ``subset`` is no plain name.
        DataError: its files are missing or have faults; the message names file and row (the first 20).
    """
    if not subset or subset != Path(subset).name:
        raise InputError(f"subset must be the name of a folder under the root, got {subset!r}")
    files = _files(Path(root), subset)
    if not files:
        raise DataError(
            f"{os.fspath(root)}: no rows of {subset}; expected {subset}/test-00000-of-00001.parquet or "
            f"{subset}/test.jsonl"
        )
    rows: list[Row] = []
    faults: list[str] = []
    for path in files:
        for number, values in _values(path, faults):
            wrong, row = _row(values)
            faults += [f"{path}: row {number}: {fault}" for fault in wrong]
            if row is not None:
                rows.append(row)
    if not rows and not faults:
        faults.append(f"{files[0]}: no rows")
    if faults:
        more = [f"... and {len(faults) - MAX_FAULTS} more"] if len(faults) > MAX_FAULTS else []
        raise DataError(
            f"{subset}: {len(faults)} fault{'s' if len(faults) > 1 else ''}:\n  "
            + "\n  ".join(faults[:MAX_FAULTS] + more)
        )
    return rows


def _files(root: Path, subset: str) -> list[Path]:
    """A subset's shards; of several formats the first that is there."""
    folder = root / subset
    for found in (
        sorted(folder.glob("test-*.parquet")) or sorted(folder.glob("test.parquet")),
        sorted(folder.glob("test*.jsonl")),
        [root / f"{subset}.parquet"],
        [root / f"{subset}.jsonl"],
    ):
        files = [path for path in found if path.is_file()]
        if files:
            return files
    return []


def _values(path: Path, faults: list[str]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    if path.suffix == ".parquet":
        try:
            yield from enumerate(parquet_rows(path), 1)
        except (DataError, OSError) as error:
            faults.append(f"{path}: cannot be read as parquet ({str(error).removeprefix(f'{path}: ')})")
        return
    with open(path, "rb") as stream:
        for number, line in enumerate(stream, 1):
            if not line.strip():
                continue
            try:
                values = json.loads(line)
            except (ValueError, RecursionError) as error:
                faults.append(f"{path}: row {number}: is not JSON ({error})")
                continue
            if isinstance(values, dict):
                yield number, values
            else:
                faults.append(f"{path}: row {number}: must be a JSON object, got {values!r:.60}")


def _row(values: Mapping[str, Any]) -> tuple[list[str], Row | None]:
    faults: list[str] = []

    def text(name: str) -> str:
        value = values.get(name)
        if value is not None and not isinstance(value, str):
            faults.append(f"{name} must be a string, got {value!r:.60}")
        return value if isinstance(value, str) else ""

    def texts(name: str) -> Sequence[str]:
        value = values.get(name)
        if not isinstance(value, (list, tuple)) or not all(one is None or isinstance(one, str) for one in value):
            faults.append(f"{name} must be a list of strings, got {value!r:.60}")
            return []
        return [one or "" for one in value]

    missing = [name for name in ("qry_text", "tgt_text") if name not in values]
    if missing:
        return [f"lacks {' and '.join(missing)}; it has {', '.join(sorted(values))}"], None
    captions = texts("tgt_text")
    paths = [""] * len(captions) if values.get("tgt_img_path") is None else texts("tgt_img_path")
    query = _side(text("qry_text"), text("qry_img_path"), text("qry_inst"))
    about = text("tgt_inst")
    if not faults and len(captions) != len(paths):
        faults.append(f"tgt_text has {len(captions)} entries and tgt_img_path {len(paths)}: they must be as many")
    if not faults and not captions:
        faults.append("tgt_text is empty: the first candidate must be the right one")
    if faults:
        return faults, None
    candidates = tuple(dict.fromkeys(_side(f"{about} {one}", path) for one, path in zip(captions, paths, strict=True)))
    for side, name in [(query, "qry"), *((one, "tgt") for one in candidates)]:
        if side.text is None and side.image_path is None:
            faults.append(f"{name}_text and {name}_img_path are both empty")
        elif side.image_path is not None and (os.path.isabs(side.image_path) or ".." in Path(side.image_path).parts):
            faults.append(f"{name}_img_path must stay under the images' folder, got {side.image_path!r}")
    return (faults, None) if faults else ([], Row(query, candidates))


def _side(text: str, path: str, instruction: str = "") -> Side:
    return Side(_plain(text), path.strip() or None, _plain(instruction))


def _plain(text: str) -> str | None:
    """A text without the image token and the white space around it."""
    return text.replace(IMAGE_TOKEN, "").strip() or None
