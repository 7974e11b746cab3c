"""The columns of a table of pairs: what each means, and which of a file's columns it is. Loads no torch."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from puma.errors import DataError, InputError

QUERY_TEXT, QUERY_IMAGE = "query_text", "query_image"
POSITIVE_TEXT, POSITIVE_IMAGE = "positive_text", "positive_image"
INSTRUCTION = "instruction"
FIELDS = (QUERY_TEXT, QUERY_IMAGE, POSITIVE_TEXT, POSITIVE_IMAGE, INSTRUCTION)
NEGATIVE = re.compile(r"negative_(?P<kind>text|image)(?P<name>\w*)")
"""Negatives may be any number: what follows ``negative_text`` and ``negative_image`` tells which belong together."""
_KNOWN = f"{', '.join(FIELDS)}, negative_text* and negative_image*"


@dataclass(frozen=True)
class PairColumns:
    """Which column of a file holds what.

    Args:
        sources: a column of the file by field, as ``{"query_text": "caption", "positive_image": "path"}``.
    """

    sources: Mapping[str, str]

    @property
    def names(self) -> list[str]:
        """The columns that are read, each once."""
        return list(dict.fromkeys(self.sources.values()))

    @property
    def negatives(self) -> list[tuple[str | None, str | None]]:
        """The columns of each kind of negative: (text, image), one of them may be None."""
        found: dict[str, dict[str, str]] = {}
        for field, source in self.sources.items():
            if match := NEGATIVE.fullmatch(field):
                found.setdefault(match["name"], {})[match["kind"]] = source
        return [(columns.get("text"), columns.get("image")) for columns in found.values()]


def is_field(name: str) -> bool:
    """Whether a column of this name needs no ``--columns``."""
    return name in FIELDS or NEGATIVE.fullmatch(name) is not None


def is_image_field(name: str) -> bool:
    """Whether a field holds images, not texts."""
    match = NEGATIVE.fullmatch(name)
    return name in (QUERY_IMAGE, POSITIVE_IMAGE) if match is None else match["kind"] == "image"


def parse_columns(text: str | None) -> dict[str, str]:
    """A column map as it is written on the command line.

    Raises:
        InputError: a part is not ``field=column``, a field is unknown or given twice.

    Examples:
        >>> parse_columns("query_text=caption, positive_image=path")
        {'query_text': 'caption', 'positive_image': 'path'}
    """
    found: dict[str, str] = {}
    for part in text.split(",") if text is not None else ():
        field, sign, source = (piece.strip() for piece in part.partition("="))
        if not sign or not field or not source:
            raise InputError(f"--columns {text!r}: {part.strip()!r} must be field=column, as query_text=caption")
        if not is_field(field):
            raise InputError(f"--columns {text!r}: there is no field {field!r}; there are {_KNOWN}")
        if field in found:
            raise InputError(f"--columns {text!r}: {field} is given twice")
        found[field] = source
    return found


def choose_columns(names: Iterable[str], given: Mapping[str, str], where: str) -> PairColumns:
    """The columns of a file that has these names.

    Args:
        names: of the file's columns.
        given: what the user said, by field; it goes before a column that has the field's own name.
        where: the file, for messages.

    Raises:
        DataError: a given column is not there or there twice, or none holds queries or positives.
    """
    present = list(names)
    if not any(present):
        raise DataError(f"{where}: no column names; the file is empty, or its first line is not a header")
    absent = [source for source in given.values() if source not in present]
    if absent:
        raise DataError(f"{where}: --columns names {', '.join(map(repr, absent))}, and the file has {present}")
    taken = set(given.values())
    own = {name: name for name in present if is_field(name) and name not in taken}
    sources = {**own, **given}
    for side, fields in (("query", (QUERY_TEXT, QUERY_IMAGE)), ("positive", (POSITIVE_TEXT, POSITIVE_IMAGE))):
        if not set(fields) & set(sources):
            raise DataError(
                f"{where}: no column {fields[0]} or {fields[1]}; the file has {present}. Say which columns hold the "
                f"queries and the positives: --columns query_text=NAME,positive_image=NAME (here the {side} is missing)"
            )
    twice = sorted({source for source in sources.values() if present.count(source) > 1})
    if twice:
        raise DataError(f"{where}: several columns are named {', '.join(map(repr, twice))}; rename all but one")
    return PairColumns(sources)
