"""Tux Paint's stamps: photographs and drawings, each with a sentence beside it. Reading only, no rendering."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from puma.mini.openpics.captions import JUNK_NAMES, plain, short_name
from puma.mini.openpics.records import ImageRecord

FOLDER = "usr/share/tuxpaint/stamps"

_GENERIC = {"cartoon", "other", "clipart", "symbols", "photo", "naturalforces", "town", "household", "hobbies"}


def read(package: Path, counts: Counter[str]) -> list[ImageRecord]:
    """All stamps of the unpacked package that have a caption. ``counts`` gets what was left out, by reason."""
    root, images = package / FOLDER, []
    for caption in sorted(root.rglob("*.txt")):
        counts["found"] += 1
        file = next((f for f in (caption.with_suffix(".png"), caption.with_suffix(".svg")) if f.is_file()), None)
        if file is None:
            counts["caption without an image"] += 1
            continue
        first = caption.read_text(encoding="utf-8", errors="replace").split("\n", 1)[0].lstrip("\ufeff").strip()
        if not first or re.match(r"[A-Za-z_@]+\.utf8=", first):
            counts["empty caption"] += 1
            continue
        sentence = plain(first)
        shorter = re.sub(r"\([^)]*\)", " ", sentence)
        beginning = re.split(r"(?<=[a-z]{2})[.!?;](?: |$)|, (?:a|an|the|which|also|known|or) | — | - |: ", shorter)[0]
        name = short_name(beginning)
        if name in JUNK_NAMES or len(name) < 2:
            counts["junk title"] += 1
            continue
        folders = [
            part
            for part in file.relative_to(root).parts[:-1]
            if part not in _GENERIC and part.replace("_", "").isalpha()
        ]
        images.append(
            ImageRecord(
                key="tuxpaint/" + file.relative_to(root).with_suffix("").as_posix(),
                source="tuxpaint",
                style="a photo" if file.suffix == ".png" and "cartoon" not in file.parts else "a drawing",
                name=name,
                keywords=tuple(dict.fromkeys(part.replace("_", " ") for part in reversed(folders))),
                description=sentence if len(sentence.split()) > len(name.split()) + 2 else "",
                category=_category(folders),
                path=file,
            )
        )
    return images


def _category(folders: list[str]) -> str:
    names = {
        "insects": "insect or spider",
        "arttools": "art tool",
        "body_parts": "body part",
        "auto": "car",
        "flight": "aircraft",
        "masstransit": "vehicle",
        "emergency": "vehicle",
        "ship": "ship",
        "seasonal": "holiday item",
        "roadsigns": "road sign",
        "people": "person",
        "clothes": "piece of clothing",
        "military": "weapon",
        "space": "space object",
        "medical": "medical item",
        "alphabets": "letter or digit",
        "asl": "hand sign",
        "english": "letter",
        "lowercase": "letter",
        "uppercase": "letter",
        "euro": "coin",
        "music": "musical instrument",
        "math": "shape",
        "dishes": "kitchen item",
        "fish": "fish",
        "shellfish": "shellfish",
        "sports": "sports item",
        "food": "food",
        "fruit": "fruit",
        "money": "coin",
        "electronics": "device",
        "chess": "chess piece",
        "faces": "face",
        "newyears": "holiday item",
        "winter": "winter item",
        "christmas": "christmas item",
        "halloween": "halloween item",
    }
    if not folders:
        return ""
    last = folders[-1]
    return names.get(last, last.replace("_", " ").removesuffix("s") if not last.endswith("ss") else last)
