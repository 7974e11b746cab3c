"""Open Clip Art's drawings: title, description and keywords from each file's own metadata. Reading only."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from puma.mini.openpics.captions import JUNK_NAMES, keyword, plain, short_name
from puma.mini.openpics.records import ImageRecord

FOLDER = "usr/share/openclipart/svg"
MAX_BYTES = 3 * 2**20
"""Largest drawing that is read, in bytes; the package's own largest is under 2 MB."""
MAX_SAME_TITLE = 8
"""Most drawings kept under one title: beyond, they are a series of near-duplicates."""

# Titles that a whole collection shares: the drawing's own name is in its file name.
_COLLECTION = re.compile(
    r"flat icon collection|^gramastar|lemon svg theme|etiquette icons|aiga[_ ]symbol|various cliparts?$|svg road signs|"
    r"^clipart by |gold[- ]theme|^r16 s|svg gradient|^card$|^people$|^australian maps|blueberry - iconset|"
    r"^advertising$|^map symbols$|^homes clipart|plastik-icon|^stick man$|^simple arrows|^sallite$|"
    r"architetto francesco|@|^mr$",
    re.IGNORECASE,
)
# Authors' and libraries' names that file names end in: house_john_doe_01, but not house_red_01
_SUFFIX = re.compile(
    r"\b(nicu ?buculei|buculei|ganson|lumen design|lumen desig\w*|architett\w*|francesc\w*|rollandin\w*|fra\d*|01|02)\b"
)
_CATEGORY = {
    "birds": "bird",
    "bugs": "insect",
    "mammals": "mammal",
    "big_cats": "big cat",
    "housecats": "cat",
    "dogs": "dog",
    "fish": "fish",
    "flowers": "flower",
    "trees": "tree",
    "fruit": "fruit",
    "vegetables": "vegetable",
    "desserts": "dessert",
    "beverages": "drink",
    "flags": "flag",
    "people": "person",
    "tools": "tool",
    "food": "food",
    "transportation": "vehicle",
    "land": "vehicle",
    "air": "aircraft",
    "watercraft": "boat",
    "buildings": "building",
    "music": "musical instrument",
    "sports": "sports item",
    "toys": "toy",
    "games": "game",
    "clothing": "piece of clothing",
    "bodypart": "body part",
    "weather": "weather sign",
    "hardware": "device",
    "electronics": "device",
    "animals": "animal",
    "plants": "plant",
    "geography": "map or place",
    "icons": "icon",
    "theme": "icon",
    "office": "office item",
    "furniture": "furniture",
    "roadsigns": "road sign",
    "national": "flag",
    "europe": "flag",
    "america": "flag",
    "africa": "flag",
    "asia": "flag",
    "oceania": "flag",
    "cards": "playing card",
    "medicine": "medical item",
    "astronomy": "space object",
    "education": "school item",
    "arrows": "arrow",
    "stars": "star",
    "patterns": "pattern",
    "map_symbols": "map symbol",
    "containers": "container",
    "computer": "computer item",
    "signs_and_symbols": "sign",
    "reptiles": "reptile",
    "farm_animals": "farm animal",
    "sea": "sea animal",
    "festive": "festive item",
    "smileys": "face",
    "hats": "hat",
}


def read(package: Path, counts: Counter[str]) -> list[ImageRecord]:
    """All drawings of the unpacked package that say what they show. ``counts`` gets what was left out, by reason."""
    root, images, same = package / FOLDER, [], Counter[str]()
    for file in sorted(root.rglob("*.svg")):
        if file.is_symlink() or not file.is_file():
            counts["link to another"] += 1
            continue
        counts["found"] += 1
        if file.stat().st_size > MAX_BYTES:
            counts[f"larger than {MAX_BYTES:,} bytes"] += 1
            continue
        title, description, subjects = _metadata(file.read_text(encoding="utf-8", errors="replace"))
        folders = file.relative_to(root).parts[:-1]
        name, sure = short_name(title), True
        if _COLLECTION.search(title) or _SUFFIX.search(name) or name in JUNK_NAMES or len(name) < 3:
            name, sure = _from_file_name(file.stem, folders), False
        if name in JUNK_NAMES or len(name) < 3 or not re.search("[a-z]{2}", name):
            counts["junk title"] += 1
            continue
        same[name] += 1
        if same[name] > MAX_SAME_TITLE:
            counts[f"series: more than {MAX_SAME_TITLE} under one title"] += 1
            continue
        if "flags" in folders and "flag" not in name:
            name = f"flag of {name}"
        theme = next((part.split("-")[0] for part in folders if part.endswith("-theme")), "")
        images.append(
            ImageRecord(
                key="openclipart/" + file.relative_to(root).with_suffix("").as_posix(),
                source="openclipart",
                style=f"{theme} theme icon" if theme else "clip art",
                name=name,
                keywords=tuple(dict.fromkeys(k for k in map(keyword, subjects) if k)),
                description=_sentence(description, title),
                category=next((_CATEGORY[part] for part in reversed(folders) if part in _CATEGORY), ""),
                series=re.sub(r"\d+", "#", file.relative_to(root).as_posix()) if re.search(r"\d", title) else "",
                path=file,
                reading=sure,
            )
        )
    return images


def _metadata(raw: str) -> tuple[str, str, list[str]]:
    """Title, description and keywords of a drawing; files are not always well-formed, so no XML reader is asked."""
    work = re.search(r"<(?:\w+:)?Work\b.{0,20000}?</(?:\w+:)?Work>", raw, re.DOTALL)
    if work is None:
        return "", "", []

    def field(name: str) -> str:
        found = re.search(rf"<dc:{name}\b[^>]*>(.*?)</dc:{name}>", work[0], re.DOTALL)
        return found[1] if found else ""

    return (
        plain(field("title")),
        plain(field("description")),
        [plain(item) for item in re.findall(r"<rdf:li\b[^>]*>(.*?)</rdf:li>", field("subject"), re.DOTALL)],
    )


def _from_file_name(stem: str, folders: tuple[str, ...]) -> str:
    text = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", stem).lower()
    text = re.sub(r"[_\-.+]+", " ", text)
    text = re.sub(r"\b(aiga|gnome|fs|mime|stock|svg|openclipart|nicu|kde|icon)\b", " ", text)
    text = re.sub(r"\d+(pt\d+step)?|\b[a-z]\b", " ", _SUFFIX.sub(" ", text))
    name = short_name(text)
    if any(part in ("arrows", "patterns", "stars", "jigsaw", "flowchart") for part in folders) and len(name) < 3:
        return ""
    return name


def _sentence(description: str, title: str) -> str:
    if len(description) < 12 or "@" in description or "http" in description or "www." in description:
        return ""
    if description.lower() == title.lower() or len(description.split()) < 3:
        return ""
    if re.search(r"converted from|openclipart|inkscape|part of|collection|by .{3,30}$", description, re.IGNORECASE):
        return ""
    return " ".join(description.split()[:30])
