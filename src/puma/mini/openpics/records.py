"""Records of one image before and after it is rendered."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ImageRecord:
    """One image of a source, with what its package says of it.

    Args:
        key: unique and stable: "<source>/<name within the source>".
        source: the source's short name ("noto", "openclipart", "tuxpaint", ...).
        style: how a person would name the way it is drawn ("Noto", "clip art", "photo"), for task 7.
        name: short, lower-case, in English as far as the source goes; never empty.
        aliases: other short names of the same thing.
        keywords: lower-case words or phrases, possibly none.
        description: a sentence or two, or "".
        category: a word or phrase a person would ask by ("bird", "fruit"), or "".
        series: images of one icon or drawing series that differ only in a number share it; else "".
        tone: skin tone 1 (light) to 5 (dark), 0 if none is chosen.
        svg: the drawing itself, where it has no file of its own.
        path: the drawing's or image's file.
        reading: how sure the name is a name: False where it was guessed from a file name.
    """

    key: str
    source: str
    style: str
    name: str
    aliases: tuple[str, ...] = ()
    keywords: tuple[str, ...] = ()
    description: str = ""
    category: str = ""
    series: str = ""
    tone: int = 0
    svg: str | None = None
    path: Path | None = None
    reading: bool = True


@dataclass(frozen=True)
class Source:
    """One source of images, as the datasheet lists it."""

    name: str
    title: str
    package: str
    version: str
    licence: str
    credit: str
