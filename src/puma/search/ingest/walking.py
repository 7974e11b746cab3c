"""Folders walked in order: what is left out and why, links followed or reported, no endless loop. Loads no torch."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Iterator
from pathlib import Path

from puma.items.encoder import Skip
from puma.search.ingest.options import ReadOptions
from puma.search.ingest.records import Ignored, source_of

SYSTEM_FOLDERS = ("@eaDir", "__MACOSX", "$RECYCLE.BIN", "System Volume Information", "lost+found", "node_modules")
"""Folders that systems and programs keep for themselves: previews, bins, other people's parts."""
HIDDEN_FILE = "hidden files (--hidden reads them)"
HIDDEN_FOLDER = "folders that are hidden or a system's own (--hidden reads them)"
LINKED_FOLDER = "linked folders (--follow reads them)"
SEEN_FOLDER = "links to folders that are read anyway"

Step = tuple[str, list[str]] | Skip | Ignored


def walk(folder: Path, options: ReadOptions) -> Iterator[Step]:
    """Each folder with its files' names, in order, and everything that is left out; at the end those folders that could
    not be looked into. With ``follow`` each folder is read once, whatever links lead to it."""
    closed: list[Skip] = []

    def note(error: OSError) -> None:
        where = str(error.filename)
        closed.append(Skip(where, f"{error.strerror}", source_of(Path(where))))

    met = {_identity(str(folder))}
    for parent, folders, files in os.walk(folder, onerror=note, followlinks=options.follow):
        kept = []
        # Real folders first: of a folder and a link to it beside it, the folder gives the paths.
        for name in sorted(folders, key=lambda name: (os.path.islink(os.path.join(parent, name)), name)):
            where = os.path.join(parent, name)
            reason = why_left_out(_inside(where, folder), name, options, HIDDEN_FOLDER, name in SYSTEM_FOLDERS)
            if reason is None and os.path.islink(where) and not options.follow:
                reason = LINKED_FOLDER
            if reason is None and options.follow:
                identity = _identity(where)
                reason = SEEN_FOLDER if identity in met else None
                met.add(identity)
            if reason is None:
                kept.append(name)
            else:
                yield Ignored(where, reason)
        folders[:] = sorted(kept)
        names = []
        for name in sorted(files):
            where = os.path.join(parent, name)
            reason = why_left_out(_inside(where, folder), name, options, HIDDEN_FILE, False)
            if reason is None:
                names.append(name)
            else:
                yield Ignored(where, reason)
        yield parent, names
    yield from closed


def why_left_out(inside: str, name: str, options: ReadOptions, hidden: str, of_system: bool) -> str | None:
    """Why a file or folder inside a folder is left out; None if it is read.

    Args:
        inside: its path below the folder that was given, with slashes.
        name: its own name.
        hidden: the reason to give if it is hidden.
        of_system: whether it is a folder that systems keep for themselves.
    """
    for pattern in options.exclude:
        plain = pattern.rstrip("/")
        if fnmatch.fnmatch(name, plain) or fnmatch.fnmatch(inside, plain):
            return f"left out by --exclude {pattern}"
    return hidden if not options.hidden and (name.startswith(".") or of_system) else None


def _inside(where: str, folder: Path) -> str:
    return os.path.relpath(where, folder).replace(os.sep, "/")


def _identity(path: str) -> tuple[int, int] | str:
    try:
        found = os.stat(path)
        return found.st_dev, found.st_ino
    except OSError:  # looked into, and reported, by the walk itself
        return path
