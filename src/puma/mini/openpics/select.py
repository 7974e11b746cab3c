"""Which rendered images are kept, and in which split: pixel duplicates, near-duplicates, families, strata."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from puma.mini.openpics.captions import words
from puma.mini.openpics.families import concept_of, families, near_duplicates, split
from puma.mini.openpics.library import Shown
from puma.mini.openpics.records import ImageRecord

SHARES: dict[str, dict[str, float]] = {
    "drawn by four or more": {"test": 0.135, "val": 0.04},
    "drawn by two or three": {"test": 0.15, "val": 0.05},
    "drawn once": {"test": 0.09, "val": 0.04},
}
"""By how many sources drew a family: the share of families tested on. Most tasks need several drawings of a thing, and
training needs images, so the share is largest where a family tests most tasks."""
MAX_TESTED = 60
"""Largest family, in images, that may be in test or val."""
MAX_TESTED_WORDS = 7
"""Longest name, in words, that may be in test or val: longer ones are cut sentences."""


@dataclass(frozen=True)
class Rendered:
    """An image and what rendering made of it: ``pixels`` is a hash, ``thumb`` a grey thumbnail in hexadecimal."""

    image: ImageRecord
    reason: str | None = None
    pixels: str = ""
    thumb: str = ""


def without_duplicates(rendered: Iterable[Rendered], counts: Counter[str]) -> list[Rendered]:
    """One of each set of pixels: the best named, which takes over the others' names and keywords."""
    by_pixels: dict[str, list[Rendered]] = defaultdict(list)
    for one in rendered:
        if one.reason is not None:
            counts[f"not rendered: {one.reason}"] += 1
        else:
            by_pixels[one.pixels].append(one)
    kept = []
    for same in by_pixels.values():
        same.sort(key=lambda one: (not one.image.reading, one.image.tone, one.image.source == "openclipart"))
        best, others = same[0].image, [one.image for one in same[1:]]
        counts["pixel duplicates"] += len(others)
        if others:
            aliases = dict.fromkeys((*best.aliases, *(a for o in others for a in (o.name, *o.aliases))))
            aliases.pop(best.name, None)
            keywords = dict.fromkeys((*best.keywords, *(k for o in others for k in o.keywords)))
            best = replace(best, aliases=tuple(aliases), keywords=tuple(keywords))
        kept.append(replace(same[0], image=best))
    return sorted(kept, key=lambda one: one.image.key)


def assign(kept: Sequence[Rendered], counts: Counter[str]) -> list[Shown]:
    """Give every image its concept, family, split and file name."""
    images = [one.image for one in kept]
    thumbs = np.array([np.frombuffer(bytes.fromhex(one.thumb), np.uint8) for one in kept])
    clip_art = [i for i, image in enumerate(images) if image.source in ("openclipart", "tuxpaint")]
    near = near_duplicates(thumbs, clip_art) if kept else []
    counts["near-duplicate pairs put in one family"] = len(near)
    names = families(images, near)
    splits = split(names, *_strata(images, names))
    counts["families"] = len(splits)
    used = [(p, n) for p, n in zip(images, names, strict=True) if p.tone == 0 or splits[n] == "train"]
    counts["skin tones left out of val and test"] = len(images) - len(used)
    return [
        Shown(image, f"mbeir_images/openpics_images/{file_name(image)}", concept_of(image), name, splits[name])
        for image, name in used
    ]


def file_name(image: ImageRecord) -> str:
    """The image's file under the images' folder: readable, ASCII, one folder a source."""
    source, rest = image.key.split("/", 1)
    safe = "".join(c if c.isascii() and (c.isalnum() or c in "-_.") else "_" for c in rest.replace("/", "__"))
    return f"{source}/{safe}.webp"


def _strata(
    images: Sequence[ImageRecord], names: Sequence[str]
) -> tuple[dict[str, str], dict[str, dict[str, float]], dict[str, bool]]:
    known = vocabulary(images)
    members: dict[str, list[ImageRecord]] = defaultdict(list)
    for image, name in zip(images, names, strict=True):
        members[name].append(image)
    strata, fit = {}, {}
    for name, group in members.items():
        sources = len({image.source for image in group})
        strata[name] = (
            "drawn by four or more" if sources >= 4 else "drawn by two or three" if sources >= 2 else "drawn once"
        )
        plain = all(_plain(image, known) for image in group)
        fit[name] = plain and len(group) <= MAX_TESTED
    return strata, SHARES, fit


def _plain(image: ImageRecord, known: set[str]) -> bool:
    said = words(image.name)
    return len(said) <= MAX_TESTED_WORDS and set(said) <= known and "icon" not in image.style


def vocabulary(images: Iterable[ImageRecord]) -> set[str]:
    """Words taken for English: of the sources whose captions are edited, or in three clip-art drawings' keywords."""
    known: set[str] = set()
    seen: Counter[str] = Counter()
    for image in images:
        texts = (image.name, *image.keywords)
        found = {word for text in texts for word in words(text)}
        if image.source == "openclipart":
            seen.update({word for text in image.keywords for word in words(text)})
        else:
            known |= found
    return known | {word for word, count in seen.items() if count >= 3}
