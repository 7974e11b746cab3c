"""Tables of pairs that people have: CSV, JSONL, Parquet and folders of the ``datasets`` library, row by row.

A row is a query, a right answer, and optionally an instruction and wrong answers; each is a text, an image or both.
What cannot be used is left out and listed. The format is described in docs/own-data.md. Loads no torch.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from puma.data.columnar import (
    PARQUET,
    arrow_rows,
    arrow_schema,
    is_image,
    is_list_of,
    is_text,
    open_parquet,
    parquet_rows,
)
from puma.data.encodings import EMPTY
from puma.data.pair_columns import (
    INSTRUCTION,
    NEGATIVE,
    POSITIVE_IMAGE,
    POSITIVE_TEXT,
    QUERY_IMAGE,
    QUERY_TEXT,
    PairColumns,
    choose_columns,
    is_image_field,
)
from puma.data.rows import DELIMITED, JSON_LINES, Row, csv_layout, csv_rows, json_rows
from puma.data.saved_datasets import arrow_files, is_saved_dataset, split_folder
from puma.errors import DataError, InputError
from puma.items.item import Item
from puma.items.skips import Skip

SUFFIXES = (*DELIMITED, *JSON_LINES, *PARQUET)
ADVICE = "; save the file as UTF-8"
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")

Keep = Callable[[bytes], Path]
"""Puts the bytes of an image into a file and names it."""


@dataclass(frozen=True)
class PairRow:
    """One row: the query, its right answer, what it asks for, and wrong answers. ``where`` is its place."""

    where: str
    query: Item
    positive: Item
    instruction: str | None = None
    negatives: tuple[Item, ...] = ()


def is_pair_table(path: str | os.PathLike[str]) -> bool:
    """Whether a path is a table of pairs and not a folder in M-BEIR's layout: any file, or a saved data set."""
    path = Path(path)
    return path.is_file() or path.suffix.lower() in SUFFIXES or is_saved_dataset(path)


class PairTable:
    """A table of pairs.

    Args:
        path: a ``.csv`` or ``.tsv``, ``.jsonl`` or ``.ndjson``, or ``.parquet`` file, or a folder that
            ``Dataset.save_to_disk`` or ``DatasetDict.save_to_disk`` made (of several splits ``train`` is read).
        columns: the file's column by field, where their names differ
            (:func:`puma.data.pair_columns.parse_columns`).

    Raises:
        InputError: no such file, or one of another kind.
        DataError: it cannot be read, or its columns do not fit.
    """

    def __init__(self, path: str | os.PathLike[str], columns: Mapping[str, str] | None = None) -> None:
        self.path = Path(path)
        given = columns or {}
        kind = self.path.suffix.lower()
        if not os.path.exists(self.path):
            raise InputError(f"{self.path}: no such file or folder; give a table of pairs ({', '.join(SUFFIXES)})")
        try:
            if self.path.is_dir():
                self.columns, self._rows = self._of_dataset(given)
            elif kind in DELIMITED:
                self.columns, self._rows = self._of_csv(given)
            elif kind in JSON_LINES:
                self.columns, self._rows = self._of_json(given)
            elif kind in PARQUET:
                self.columns, self._rows = self._of_parquet(given)
            else:
                raise InputError(f"{self.path}: unknown kind of table; known are {', '.join(SUFFIXES)}")
        except OSError as error:
            raise DataError(f"{self.path}: cannot be read ({error.strerror or error})") from None
        self.base = self.path if self.path.is_dir() else self.path.parent
        """What images' paths are relative to."""

    def rows(self, skips: list[Skip], keep: Keep) -> Iterator[PairRow]:
        """The rows that can be used, in order. Images are not opened.

        Args:
            skips: gets those that cannot, each with its place and the reason.
            keep: what is done with images that the table itself holds.
        """
        try:
            for where, found in self._rows():
                if isinstance(found, Skip):
                    if found.reason != EMPTY:
                        skips.append(found)
                    continue
                try:
                    yield _pair_row(where, found, self.columns, self.base, keep)
                except InputError as error:
                    skips.append(Skip(where, str(error)))
        except (DataError, OSError) as error:  # the rows before a damaged place can be used
            skips.append(Skip(str(self.path), str(error).removeprefix(f"{self.path}: ")))

    def _of_csv(self, given: Mapping[str, str]) -> tuple[PairColumns, Callable[[], Iterable[Row]]]:
        wanted = [*given.values(), QUERY_TEXT, QUERY_IMAGE, POSITIVE_TEXT, POSITIVE_IMAGE, INSTRUCTION]
        layout = csv_layout(self.path, wanted, ADVICE)
        columns = choose_columns(layout.names, given, f"{self.path}, line {1 + layout.before}")
        return columns, lambda: csv_rows(self.path, layout, ADVICE)

    def _of_json(self, given: Mapping[str, str]) -> tuple[PairColumns, Callable[[], Iterable[Row]]]:
        rows = (found for _, found in json_rows(self.path, advice=ADVICE) if not isinstance(found, Skip))
        names = dict.fromkeys(name for found in rows for name in found)
        if not names:
            raise DataError(f"{self.path}: holds no JSON object; give one a line, with query_text and positive_image")
        return choose_columns(names, given, str(self.path)), lambda: json_rows(self.path, advice=ADVICE)

    def _of_parquet(self, given: Mapping[str, str]) -> tuple[PairColumns, Callable[[], Iterable[Row]]]:
        with open_parquet(self.path) as file:
            schema = file.schema_arrow
        columns = _typed_columns(schema, given, str(self.path))
        return columns, lambda: _numbered(self.path, parquet_rows(self.path, columns.names))

    def _of_dataset(self, given: Mapping[str, str]) -> tuple[PairColumns, Callable[[], Iterable[Row]]]:
        files = arrow_files(split_folder(self.path))
        columns = _typed_columns(arrow_schema(files[0]), given, str(self.path))
        return columns, lambda: _numbered(self.path, (row for file in files for row in arrow_rows(file, columns.names)))


def _numbered(path: Path, rows: Iterable[dict[str, Any]]) -> Iterator[Row]:
    for number, fields in enumerate(rows, 1):
        yield f"{path}:{number}", fields


def _typed_columns(schema: Any, given: Mapping[str, str], where: str) -> PairColumns:
    """The columns of a table that says their types.

    Raises:
        DataError: as :func:`choose_columns`; a column is of a type that cannot hold what it should.
    """
    columns = choose_columns(schema.names, given, where)
    for field, source in columns.sources.items():
        image = is_image_field(field)
        test, wanted = (is_image, "paths, bytes or {bytes, path}") if image else (is_text, "strings")
        kind = schema.field(source).type
        lists = NEGATIVE.fullmatch(field) is not None
        if not (test(kind) or (lists and is_list_of(kind, test))):
            more = ", or lists of them" if lists else ""
            raise DataError(f"{where}: column {source} must hold {wanted}{more} to be {field}, its type is {kind}")
    return columns


def _pair_row(where: str, fields: Mapping[str, Any], columns: PairColumns, base: Path, keep: Keep) -> PairRow:
    """A row's items.

    Raises:
        InputError: says what is wrong with it.
    """

    def cell(field: str) -> Any:
        return fields.get(columns.sources[field]) if field in columns.sources else None

    def item(side: str, text: Any, image: Any) -> Item:
        words, picture = _text(f"{side}_text", text), _image(f"{side}_image", image, base, keep)
        if words is None and picture is None:
            raise InputError(f"it has no {side}: neither text nor image")
        return Item(words, picture)

    query = item("query", cell(QUERY_TEXT), cell(QUERY_IMAGE))
    positive = item("positive", cell(POSITIVE_TEXT), cell(POSITIVE_IMAGE))
    instruction = _text(INSTRUCTION, cell(INSTRUCTION))
    negatives = [
        item("negative", text, image)
        for text_column, image_column in columns.negatives
        for text, image in _negatives(*(fields.get(name) if name else None for name in (text_column, image_column)))
    ]
    return PairRow(where, query, positive, " ".join(instruction.split()) if instruction else None, tuple(negatives))


def _negatives(text: Any, image: Any) -> list[tuple[Any, Any]]:
    """A row's negatives of one kind: texts and images of lists belong together by their place."""
    texts, images = (
        value if isinstance(value, list) else [] if _nothing(value) else [value] for value in (text, image)
    )
    if texts and images and len(texts) != len(images):
        raise InputError(f"negative_text holds {len(texts)} entries and negative_image {len(images)}; give as many")
    most = max(len(texts), len(images))
    return [
        (text, image)
        for text, image in zip(texts or [None] * most, images or [None] * most, strict=True)
        if not (_nothing(text) and _nothing(image))
    ]


def _nothing(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def _text(field: str, value: Any) -> str | None:
    if _nothing(value):
        return None
    if not isinstance(value, str):
        raise InputError(f"{field} must be a string, got {type(value).__name__}: {value!r:.60}")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise InputError(f"{field} is not valid Unicode{ADVICE}") from None
    return value


def _image(field: str, value: Any, base: Path, keep: Keep) -> Path | None:
    """Where an image is.

    Args:
        value: a path, a data URI, bytes, or ``{"bytes": ..., "path": ...}`` (in JSON the bytes are base64).
    """
    if isinstance(value, dict):
        unknown = sorted(set(value) - {"bytes", "path"})
        if unknown:
            raise InputError(f"{field} has the keys {unknown}; give bytes and path")
        inner = value.get("bytes")
        if isinstance(inner, str) and inner:
            return keep(_decoded(field, inner))
        value = value.get("path") if inner in (None, "", b"") else inner
    if _nothing(value) or value == b"":
        return None
    if isinstance(value, (bytes, bytearray)):
        return keep(bytes(value))
    if not isinstance(value, str):
        raise InputError(f"{field} must be a path, bytes or {{bytes, path}}, got {type(value).__name__}: {value!r:.60}")
    if value[:5].lower() == "data:":
        return keep(_decoded(field, value.partition(",")[2]))
    if _ADDRESS.match(value):
        raise InputError(f"{field} {value[:80]!r}: addresses are never fetched; download the images and give paths")
    if "\0" in value:
        raise InputError(f"{field}: a path cannot hold a NUL character")
    return Path(os.path.abspath(base / value.strip()))


def _decoded(field: str, text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise InputError(f"{field}: the bytes are not base64") from None
