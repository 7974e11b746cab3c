"""How paths are read: which columns, which encoding, which parts of folders. Loads no torch."""

from __future__ import annotations

import codecs
from dataclasses import dataclass

from puma.data import encodings
from puma.errors import InputError

ADVICE = "; if the file is in another encoding, name it: --encoding cp1252 (latin-1, utf-16, gb18030, ...)"
"""Said after the reason where a file is not in the encoding that it was read in."""
NOT_UTF8 = encodings.NOT_UTF8 + ADVICE
NO_COLUMN = "-"
"""Instead of a column's name: none of them."""


@dataclass(frozen=True)
class ReadOptions:
    """What :meth:`puma.Searcher.add_paths` takes beside the paths.

    Args:
        text_column, image_column: the column (or JSON key) that holds the text or the image; None for the usual names
            (:mod:`puma.search.ingest.columns`), ``-`` for no column.
        encoding: of text files, tables and JSON lines, as Python names it; None for UTF-8, or UTF-16 and UTF-32 where
            the file's beginning shows them.
        exclude: patterns (``*.gif``, ``drafts``, ``2019/*``) of files and folders that are left out, compared with
            the name and with the path inside the folder.
        follow: whether links to folders inside folders are followed.
        hidden: whether hidden files and folders, and those that systems keep for themselves, are read too.
        rehash: whether files are read again that have not changed by size and time.

    Raises:
        InputError: the encoding is not known, or a column's name is empty.
    """

    text_column: str | None = None
    image_column: str | None = None
    encoding: str | None = None
    exclude: tuple[str, ...] = ()
    follow: bool = False
    hidden: bool = False
    rehash: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.exclude, str):
            raise InputError(
                f"exclude must be several patterns, got one string {self.exclude!r:.80}; put it in a tuple"
            )
        object.__setattr__(self, "exclude", tuple(self.exclude))
        for name in ("text_column", "image_column"):
            if getattr(self, name) == "":
                raise InputError(f"{name} must name a column, got an empty string; '{NO_COLUMN}' stands for none")
        if self.text_column is not None and self.text_column == self.image_column != NO_COLUMN:
            raise InputError(f"text_column and image_column are both {self.text_column!r:.80}; name two columns")
        if self.encoding is not None:
            try:
                codecs.lookup(self.encoding)
                "".encode(self.encoding)
            except (LookupError, UnicodeError, ValueError):
                raise InputError(
                    f"encoding {self.encoding!r:.80} is unknown; give one like utf-8, utf-16, cp1252, latin-1, gb18030"
                ) from None

    def reading(self) -> str:
        """What changes the items that a file gives: another value, and the file has to be read again."""
        return repr((self.text_column, self.image_column, self.encoding))
