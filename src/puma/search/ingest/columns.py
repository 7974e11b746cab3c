"""Which of a row's fields is the text and which the image, as tables of many origins name them. Loads no torch.

``text`` and ``image`` are always taken. Where one is missing, the usual other names are tried in order, without regard
to case; a path under another name counts as an image only if it ends like one. What looks like an image and is not used
is reported once a file.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import PurePath
from typing import Any

from puma.items.formats import SUFFIXES
from puma.items.objects import AnyPath
from puma.search.ingest.options import NO_COLUMN, ReadOptions
from puma.search.ingest.records import Note

TEXT_NAMES = ("text", "txt", "caption", "sentence", "description", "content", "body")
IMAGE_NAMES = (
    "image", "images", "img", "picture", "photo", "image_path", "img_path", "image_file", "image_name",
    "file_name", "filename", "file_path", "filepath", "path", "file",
)  # fmt: skip
"""``file_name`` is that of the hub's image folders (``metadata.jsonl`` beside the images)."""
_ADDRESS = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*://")


@dataclass
class Columns:
    """The choice for one file.

    Args:
        options: what the caller named.
        unused: fields that looked like images and were not used, in the order they were met.
    """

    options: ReadOptions
    unused: list[str] = field(default_factory=list)

    def text_in(self, names: Iterable[str]) -> str | None:
        """The name that holds the text, of these; None for none."""
        return _chosen(self.options.text_column, TEXT_NAMES, list(names))

    def images_in(self, names: Iterable[str]) -> list[str]:
        """The names that may hold the image, best first."""
        given, every = self.options.image_column, list(names)
        if given is not None or "image" in every:
            found = _chosen(given, ("image",), every)
            return [] if found is None else [found]
        return [name for alias in IMAGE_NAMES for name in every if _plain(name) == alias]

    def usable(self, names: Iterable[str]) -> bool:
        """Whether a table with these columns can give items."""
        every = list(names)
        return self.text_in(every) is not None or bool(self.images_in(every))

    def rows(self, fields: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """A row's fields as ``text``, ``image``, ``id`` and the rest: several where it holds several images, each with
        the same text; an ``id`` of the row's own is numbered then."""
        text_name = self.text_in(fields)
        if text_name not in (None, "text", self.options.text_column) and not isinstance(fields[text_name], str):
            text_name = None  # another name's meaning is not certain
        candidates = self.images_in(fields)
        named = self.options.image_column is not None
        image_name = next((name for name in candidates if named or name == "image" or _is_usable(fields[name])), None)
        # Fields of these names that are not chosen have no place: an item's text and image are stored under them.
        used = {text_name, image_name, "text", "image"}
        rest = {key: value for key, value in fields.items() if key not in used}
        for key, value in rest.items():
            if key not in self.unused and looks_like_image(value):
                self.unused.append(key)
        text = {} if text_name is None else {"text": fields[text_name]}
        images = fields.get(image_name) if image_name is not None else None
        several = [image for image in images if image] if isinstance(images, (list, tuple)) else [images]
        for number, image in enumerate(several or [None], start=1):
            row = dict(text) if image_name is None else text | {"image": _inner(image)}
            row |= {key: value for key, value in rest.items() if key not in row}
            if number > 1 and row.get("id") not in (None, ""):
                row["id"] = f"{row['id']}#{number}"
            yield row

    def notes(self, path: AnyPath) -> Iterator[Note]:
        """One for each field of a file that looked like an image and was not used."""
        for name in self.unused:
            yield Note(str(path), f"{name!r:.80} looks like an image and is not used; --image-column names it")

    def wanted(self) -> str:
        """What a table needs, for messages."""
        options = self.options
        if options.text_column is not None or options.image_column is not None:
            names = (options.text_column, options.image_column)
            return "a column named " + " or ".join(repr(name) for name in names if name not in (None, NO_COLUMN))
        return "a column named text or image (or caption, file_name, ...; --text-column and --image-column name others)"


def looks_like_image(value: Any) -> bool:
    """Whether a value under any name is most likely an image: a path that ends like one, bytes, or what holds them."""
    if isinstance(value, bytes):
        return bool(value)
    if isinstance(value, str):
        return len(value) < 4096 and PurePath(value.split("?", 1)[0]).suffix.lower() in SUFFIXES
    if isinstance(value, Mapping):
        return bool({"bytes", "path"} & set(value)) and set(value) <= {"bytes", "path"}
    return isinstance(value, (list, tuple)) and bool(value) and all(looks_like_image(part) for part in value)


def _is_usable(value: Any) -> bool:
    return looks_like_image(value) and not (isinstance(value, str) and _ADDRESS.match(value))


@lru_cache(maxsize=1024)  # the names are the same in every row, and each is compared with all that are usual
def _plain(name: str) -> str:
    return re.sub(r"[\s-]+", "_", name.strip().lower())


def _chosen(given: str | None, aliases: tuple[str, ...], names: list[str]) -> str | None:
    if given == NO_COLUMN:
        return None
    if given is not None:
        return given if given in names else next((name for name in names if _plain(name) == _plain(given)), None)
    exact = next((name for name in names if name == aliases[0]), None)
    return exact or next((name for alias in aliases for name in names if _plain(name) == alias), None)


def _inner(image: Any) -> Any:
    """The path in a struct that has nothing else; other values as they are."""
    if isinstance(image, Mapping) and set(image) <= {"bytes", "path"} and not image.get("bytes"):
        return image.get("path")
    return image
