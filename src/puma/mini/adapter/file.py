"""A trained retriever as a small file: its difference from an untrained one of the same base.

The header names the base by its settings, and by a digest of every tensor that the adapter builds on. What the adapter
carries itself may differ between bases: the plain mini base's random projector, say, which torch versions draw
differently. So an adapter for others is written against a *plain* base, whose making needs no images.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from puma.errors import InputError, ModelError
from puma.mini.adapter.arrays import SEPARATOR, content_digest, read_arrays
from puma.mini.adapter.coding import Coded, Plan, decoded, digest, encoded, relative_error
from puma.mini.adapter.photo_classifier import NAME, classifier_arrays, classifier_of
from puma.mini.adapter.quantised import BITS, GROUP
from puma.mini.adapter.sizes import ModuleSize, Tensor, sizes_by_module, table
from puma.mini.base.settings import card_of_base
from puma.mini.fetch.packages import fetch
from puma.pruning import decoder_of
from puma.retriever.model import Retriever
from puma.retriever.prompts import RET, PromptFormat
from puma.storage.folders import write_whole

FORMAT = 3
"""Raised whenever an older PUMA could not read the file. 3: there may be a photo classifier. (2 had one of another
kind, and cannot be read.)"""
HEADER = "puma_adapter"
"""The one key of the file's metadata, a JSON object. Several keys would come in any order, and the bytes with them."""
LIMIT = 20_000_000
"""Bytes that an adapter may take by default: what a package can ship."""


@dataclass(frozen=True)
class Written:
    """A finished adapter: its bytes in all, their SHA-256, and its size by module, largest first."""

    path: Path
    size: int
    sha256: str
    modules: tuple[ModuleSize, ...]

    def table(self) -> str:
        """The modules as lines of text."""
        return table(self.modules)


def write_adapter(
    retriever: Retriever,
    base_folder: str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    rank: int | None = None,
    bits: int = 8,
    tower_bits: int | None = None,
    group: int = GROUP,
    keep_last: bool = False,
    limit: int = LIMIT,
    notes: Mapping[str, Any] | None = None,
) -> Written:
    """Write the difference between a trained retriever and an untrained one of ``base_folder``.

    The same retriever, base and arguments give the same bytes. The file appears only when whole.

    Args:
        retriever: trained, of the first decoder layers of the base. It may have been trained from another folder of the
            same shapes, as the base with a fitted projector: then the adapter carries the projector.
        base_folder: the base that readers will have; for the mini base, the plain one.
        path: the file, usually ``*.safetensors``.
        rank: write matrices' differences as factors of at most this rank, where that is smaller; None in full.
        bits: per number of a difference, 2 to 8.
        tower_bits: the same for the vision tower; None: as ``bits``.
        group: numbers that share a scale (16 bits).
        keep_last: the retriever has the first k-1 layers and the last, as it was pruned.
        limit: bytes the file may take.
        notes: plain values for whoever reads the file: recipe, data, figures.

    Returns:
        Its size, and what takes it.

    Raises:
        InputError: a bad number, notes that are not JSON, or a file larger than ``limit``; the message gives the
            size by module. Nothing is written then.
        ModelError: the retriever is not of this base, or holds a number that is not finite.
    """
    for argument, width in (("bits", bits), ("tower_bits", bits if tower_bits is None else tower_bits)):
        if width not in BITS:
            raise InputError(f"{argument}={width!r}: give a whole number from {BITS[0]} to {BITS[-1]}")
    if (rank is not None and rank < 1) or group < 1:
        raise InputError(f"rank={rank!r}, group={group!r}: give whole numbers from 1 up")
    layers = len(decoder_of(retriever.model).layers)
    base = _untrained(base_folder, layers, keep_last, retriever.prompt)
    _check_same_shape(retriever, base)
    plan = Plan(bits, rank, group)
    in_tower = replace(plan, bits=plan.bits if tower_bits is None else tower_bits)
    tower, special = _tower_prefix(base.model), _special_rows(base)
    values, bases = _arrays(retriever.model), _arrays(base.model)
    entries: dict[str, Any] = {}
    tensors: dict[str, np.ndarray] = {}
    coded_tensors: list[Tensor] = []
    for name in sorted(values):
        value, old = values[name], bases[name]
        if not np.isfinite(value).all():
            raise ModelError(f"retriever: its tensor {name} holds a number that is not finite; it cannot be shipped")
        coded = encoded(value, old, in_tower if tower and name.startswith(tower) else plan, special.get(name, ()))
        entries[name] = coded.entry
        tensors |= {f"{name}{SEPARATOR}{part}": array for part, array in coded.arrays.items()}
        moved = float(np.linalg.norm((value - old).astype(np.float64)))
        lost = moved * relative_error(decoded(coded, old), value, old)
        coded_tensors.append(Tensor(name, coded.entry["kind"], value.size, coded.size, lost, moved))
    classifier = retriever.photo_classifier
    if classifier is not None:
        tensors |= {f"{NAME}{SEPARATOR}{part}": array for part, array in classifier_arrays(classifier).items()}
    by_key = sorted(retriever.instructions.items(), key=lambda entry: (entry[0][0], entry[0][1] or ""))
    header = {
        "format": 1 if classifier is None else FORMAT,
        "base": _note(base_folder),
        "layers": layers,
        "keep_last": keep_last,
        "prompt": retriever.prompt.to_dict(),
        "instructions": [[query, wanted, text] for (query, wanted), text in by_key],
        "dimensions": list(retriever.dimensions),
        "tensors": entries,
        "photo_classifier": None if classifier is None else classifier.fingerprint,
        "content": content_digest(tensors),
        "notes": dict(notes or {}),
    }
    try:
        text = json.dumps(header, sort_keys=True, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InputError(f"notes: must be plain JSON values ({error})") from None
    data = save(tensors, metadata={HEADER: text})
    modules = sizes_by_module(coded_tensors, len(data))
    if len(data) > limit:
        raise InputError(
            f"adapter {path}: {len(data):,} bytes, more than limit={limit:,}. Give fewer bits or a rank, keep fewer "
            f"layers, or leave the tower as it was. Size by module:\n{table(modules)}"
        )
    write_whole(path, data)
    return Written(Path(path), len(data), hashlib.sha256(data).hexdigest(), modules)


def read_adapter(
    path: str | os.PathLike[str],
    base_folder: str | os.PathLike[str],
    *,
    device: str | None = None,
    home: str | os.PathLike[str] | None = None,
) -> Retriever:
    """The retriever that was written, of this base; float32.

    Args:
        path: an adapter.
        base_folder: the base it was made for.
        device: where to put the retriever; by default CUDA if there is one.
        home: the cache folder, where a photo classifier's tower is; None for the default.

    Raises:
        InputError: there is no such file, or no base at ``base_folder``.
        ModelError: the file is cut, damaged, no adapter, of a newer format, or for another base.
    """
    header = read_header(path)
    wanted, found = header["base"].get("settings"), _note(base_folder).get("settings")
    if wanted and found and wanted != found:
        differing = [
            f"{key} {found.get(key)!r} instead of {wanted[key]!r}" for key in wanted if found.get(key) != wanted[key]
        ]
        raise ModelError(f"adapter {path}: made for another base than {base_folder}: {', '.join(differing)}")
    arrays = read_arrays(path, header)
    prompt = PromptFormat.from_dict(header["prompt"])
    retriever = _untrained(base_folder, header["layers"], header["keep_last"], prompt)
    state = retriever.model.state_dict()
    if set(state) != set(header["tensors"]):
        names = sorted(set(state) ^ set(header["tensors"]))
        raise ModelError(f"adapter {path}: made for another base than {base_folder}: only one of them has {names[0]}")
    with torch.no_grad():
        for name, entry in header["tensors"].items():
            old, coded = state[name].numpy(), Coded(entry, arrays.get(name, {}))
            if "base" in entry and digest(old, coded.arrays.get("rows", ())) != entry["base"]:
                raise ModelError(
                    f"adapter {path}: made for another base than {base_folder}: their tensors {name} differ. Give the "
                    "base it was made with, as its header describes it (puma.mini.adapter.file.read_header)"
                )
            try:
                value = decoded(coded, old)
            except (KeyError, ValueError, TypeError, IndexError) as error:
                raise ModelError(f"adapter {path}: damaged; its tensor {name} cannot be read ({error})") from None
            state[name].copy_(torch.from_numpy(np.array(value)))
    retriever.instructions = {(query, wanted): text for query, wanted, text in header["instructions"]}
    retriever.dimensions = header.get("dimensions", ())
    if header.get("photo_classifier"):
        own = functools.partial(fetch, home=None if home is None else Path(home))
        retriever.photo_classifier = classifier_of(
            arrays[NAME], retriever, Path(base_folder), wanted or found or {}, header["photo_classifier"], own
        )
    return retriever.to(device) if device else retriever.to("cuda" if torch.cuda.is_available() else "cpu")


def read_header(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What an adapter says of itself: ``format``, ``base`` (settings and packages), ``layers``, ``keep_last``,
    ``prompt``, ``instructions``, ``dimensions``, ``tensors``, ``notes``. Reads no weights.

    Raises:
        InputError: there is no such file.
        ModelError: it is cut, no adapter, or of a newer format.
    """
    if not Path(path).is_file():
        raise InputError(f"adapter {os.fspath(path)!r}: no such file")
    try:
        with safe_open(path, "np") as stored:
            metadata = stored.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise ModelError(f"adapter {path}: cut or no safetensors file ({error}); get it again") from None
    if HEADER not in metadata:
        raise ModelError(f"adapter {path}: a safetensors file, but no PUMA adapter (no {HEADER} in its metadata)")
    try:
        header = json.loads(metadata[HEADER])
        version = int(header["format"])
    except (ValueError, KeyError, TypeError):
        raise ModelError(f"adapter {path}: its header ({HEADER}) cannot be read; get it again") from None
    if version == 2:
        raise ModelError(f"adapter {path}: of format 2, which only an early PUMA read; make or get it again")
    if version > FORMAT:
        raise ModelError(f"adapter {path}: of format {version}, this PUMA reads up to {FORMAT}; update PUMA")
    return header


def _untrained(base_folder: str | os.PathLike[str], layers: int, keep_last: bool, prompt: PromptFormat) -> Retriever:
    retriever = Retriever.from_base(
        base_folder, layers=layers, keep_last=keep_last, prompt=prompt, dtype=torch.float32, device="cpu"
    )
    retriever.about = {**retriever.about, **card_of_base(Path(base_folder))}
    return retriever


def _check_same_shape(retriever: Retriever, base: Retriever) -> None:
    ours, theirs = ({n: tuple(t.shape) for n, t in r.model.state_dict().items()} for r in (retriever, base))
    for name in sorted(ours.keys() | theirs.keys()):
        if ours.get(name) != theirs.get(name):
            raise ModelError(
                f"retriever: its tensor {name} is {ours.get(name)}, this base's {theirs.get(name)}; give the base it "
                "was trained from (unmerged LoRA weights have to be merged first)"
            )
    image = [r.processor.image_processor.to_json_string() for r in (retriever, base)]
    words = [r.processor.tokenizer.get_vocab() for r in (retriever, base)]
    if image[0] != image[1] or words[0] != words[1]:
        which = "image processor" if image[0] != image[1] else "tokenizer"
        raise ModelError(f"retriever: its {which} is not this base's; give the base it was trained from")


def _arrays(model: Any) -> dict[str, np.ndarray]:
    """Every tensor by name, floating-point ones as float32."""
    state = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    return {name: (t.float() if t.is_floating_point() else t).numpy() for name, t in state.items()}


def _special_rows(retriever: Retriever) -> dict[str, list[int]]:
    """Rows of the token embeddings that are made, not learnt, by whoever assembles the base: ``[RET]``, and the image
    token, a mean of all others, which machines need not round alike. They are carried."""
    table, config = retriever.model.get_input_embeddings(), retriever.model.config
    image = getattr(config, "image_token_id", None) or getattr(config, "image_token_index", None)
    rows = {int(retriever.processor.tokenizer.convert_tokens_to_ids(RET)), *([] if image is None else [int(image)])}
    name = next(name for name, module in retriever.model.named_modules() if module is table)
    return {f"{name}.weight": sorted(rows)}


def _tower_prefix(model: Any) -> str | None:
    tower = model.get_encoder("image")
    return next((f"{name}." for name, module in model.named_modules() if module is tower and name), None)


def _note(base_folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Settings and packages of a base that was assembled; nothing of any other."""
    from puma.mini.base.settings import NOTE, read_note

    if not (Path(base_folder) / NOTE).is_file():
        return {}
    note = read_note(Path(base_folder))
    return {key: note[key] for key in ("settings", "packages") if key in note}
