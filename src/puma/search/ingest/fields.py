"""Fields that an image's own file gives its payload, to filter by: ``folder``, ``width``, ``height``, ``date``.

Loads no torch.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from puma.items.facts import image_facts
from puma.items.item import Item
from puma.items.objects import absolute

FOLDER = "folder"
"""The absolute folder of the image's file, or of the file that it is in."""


def file_fields(item: Item, file: bytes | None, shown: str | None) -> dict[str, Any]:
    """The fields of an item with an image; none without.

    Args:
        item: its image may be encoded bytes.
        file: the image's file, where it was read.
        shown: the payload's ``image``: an absolute path, perhaps followed by ``#`` and a place inside.
    """
    if shown is None:
        return {}
    data = file if file is not None else item.image
    facts = image_facts(data) if isinstance(data, bytes) else {}
    return {FOLDER: os.path.dirname(file_of(shown))} | facts


def file_of(shown: str) -> str:
    """The path of the file that a payload's ``image`` lies in: ``a.pdf#page=3`` is in ``a.pdf``.

    A file's own name may hold ``#``: what exists as it stands is a file, else what stands before the last ``#``.
    """
    if "#" not in shown or os.path.exists(shown):
        return shown
    before = shown.rpartition("#")[0]
    return before if Path(before).suffix else shown


def below(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """A filter for images in a folder or anywhere below it.

    Examples:
        >>> below("/a/b")["filters"][1]["filters"][0]
        {'type': 'gte', 'key': 'folder', 'value': '/a/b/'}
    """
    path = absolute(os.path.expanduser(folder))
    inside = path.rstrip(os.sep) + os.sep
    after = inside[:-1] + chr(ord(os.sep) + 1)  # what sorts next after everything that begins with the folder
    return {
        "type": "or",
        "filters": [
            {"type": "eq", "key": FOLDER, "value": path},
            {
                "type": "and",
                "filters": [
                    {"type": "gte", "key": FOLDER, "value": inside},
                    {"type": "lt", "key": FOLDER, "value": after},
                ],
            },
        ],
    }
