"""What ``encode.py`` embeds: kinds of items as users have them, texts of puma's OpenPics and images made here."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from _photo_like import jpeg
from puma.items import Item

SIZES = ((160, 160), (320, 240), (240, 320), (640, 480), (480, 640), (1024, 768))
SHORT_INSTRUCTION = "Find a picture of this, please:"
LONG_INSTRUCTION = (
    "You are given a short description that somebody typed into the search box of a large collection of drawings. "
    "Find the picture in the collection that shows exactly what the words describe, not one that merely shares a "
    "colour or an object with it, and prefer"
)


@dataclass(frozen=True)
class Part:
    """One kind of items.

    Args:
        name: of the row in the results.
        items: texts, images (paths), or both.
        instruction: goes before each.
        one_by_one: embedded in a call each, as a service does for its users.
        repeats: some images come several times.
    """

    name: str
    items: list[Item]
    instruction: str | None = None
    one_by_one: bool = False
    repeats: bool = False


def parts(captions: list[str], folder: Path, seed: int, scale: float = 1.0, most_words: int = 260) -> list[Part]:
    """The kinds, in the order of the results; numbers of items times ``scale``, passages of up to ``most_words``."""
    generator = np.random.default_rng(seed)

    def count(number: int) -> int:
        return max(4, round(number * scale))

    def queries(number: int) -> list[Item]:
        """Three to nine words of a caption each, no two alike."""
        found: dict[str, None] = {}
        while len(found) < number:
            words = captions[int(generator.integers(len(captions)))].split()
            found[" ".join(words[: int(generator.integers(3, 10))]) + f" {len(found)}"] = None
        return [Item(text=text) for text in found]

    def passages(number: int) -> list[Item]:
        """A quarter of ``most_words`` to all of them."""
        words = " ".join(captions).split()
        starts = generator.integers(0, len(words) - 300, number)
        return [
            Item(text=" ".join(words[s : s + int(generator.integers(most_words // 4, most_words))])) for s in starts
        ]

    def images(number: int) -> list[Path]:
        made = []
        for _ in range(number):
            path = folder / f"{len(list(folder.iterdir()))}.jpg"
            path.write_bytes(jpeg(generator, *SIZES[int(generator.integers(len(SIZES)))]))
            made.append(path)
        return made

    pictures = images(count(80))
    illustrated = [Item(image=path, text=item.text) for path, item in zip(images(count(48)), queries(99), strict=False)]
    repeated = [Item(image=path) for path in images(count(16))] * 5
    generator.shuffle(repeated)  # type: ignore[arg-type]
    captioned = [Item(text=captions[i]) for i in generator.permutation(len(captions))[: count(128)]]
    whole = [
        Part("short queries", queries(count(192))),
        Part("short queries, instruction of 8 tokens", queries(count(192)), SHORT_INSTRUCTION),
        Part("short queries, instruction of 48 tokens", queries(count(96)), LONG_INSTRUCTION),
        Part("captions", captioned),
        Part("long passages", passages(count(24))),
        Part("images", [Item(image=path) for path in pictures]),
        Part("images with texts", illustrated),
        Part("images, each five times", repeated, repeats=True),
        Part("one image with many texts", _many_texts(images(count(8)), queries(count(64))), repeats=True),
        Part("one query a call, instruction of 48 tokens", queries(count(16)), LONG_INSTRUCTION, True),
    ]
    return whole


def mix(kinds: list[Part], seed: int, repeats: float = 0.2) -> list[Part]:
    """The realistic mix: all kinds but those made of repeats; a fifth of the images are repeats of others."""
    generator = np.random.default_rng(seed + 1)
    found = []
    for part in kinds:
        if part.one_by_one or part.repeats:
            continue
        items = list(part.items)
        if items[0].image is not None:
            items += [
                items[int(i)] for i in generator.integers(0, len(items), round(len(items) * repeats / (1 - repeats)))
            ]
            generator.shuffle(items)  # type: ignore[arg-type]
        found.append(replace(part, items=items))
    return found


def _many_texts(paths: list[Path], texts: list[Item]) -> list[Item]:
    """Eight texts to an image."""
    return [Item(image=paths[n // 8 % len(paths)], text=item.text) for n, item in enumerate(texts)]
