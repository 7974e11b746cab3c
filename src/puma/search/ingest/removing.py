"""Removing what came from files and folders, whatever gave it to the index. Loads no torch."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from puma.errors import InputError
from puma.index import Index
from puma.items.objects import absolute
from puma.search.ingest.fields import file_of


def remove_paths(index: Index, paths: Sequence[str | os.PathLike[str]]) -> int:
    """Remove the items of these files, and of all files below these folders; how many rows went.

    An item that came from elsewhere too (the same picture in another folder) stays, as that one's. Images that a list
    names (a line of a JSONL file) go by their own path as well as by the list's.

    Args:
        paths: they need not exist any more.

    Raises:
        InputError: nothing in the index came from one of them; nothing was removed then.
    """
    wanted = [absolute(os.path.expanduser(path)) for path in paths]
    pairs = {path: index.sources([path]) for path in wanted}
    by_source = {name for found in pairs.values() for _, name in found}
    named: dict[str, list[str]] = {path: [] for path in wanted}
    for rows in index.scan(vectors=False):
        for row in rows:
            image = row.payload.get("image")
            if not isinstance(image, str) or row.id in by_source:
                continue
            for path in wanted:
                if _is_in(image, path) or _is_in(file_of(image), path):
                    named[path].append(row.id)
    nothing = [str(given) for given, path in zip(paths, wanted, strict=True) if not pairs[path] and not named[path]]
    if nothing:
        raise InputError(
            f"{index.address}: nothing in it came from {', '.join(nothing[:5])}; nothing was removed ('puma index ls' "
            "shows the paths)"
        )
    removed = index.forget_sources(sorted({pair for found in pairs.values() for pair in found}))
    return removed + index.delete(sorted({name for names in named.values() for name in names}))


def _is_in(path: str, wanted: str) -> bool:
    return path == wanted or Path(path).is_relative_to(wanted)
