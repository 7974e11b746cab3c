"""Filters as Milvus' boolean expressions. Loads no torch.

Whatever a user writes goes into an expression as hexadecimal digits of its UTF-8 bytes, and is stored so: nothing can
be quoted wrongly, equality is kept, and so is the order of code points. A number is stored as the sixteen digits of its
double-precision bits, changed so that they sort as the numbers do. So every comparison is one of plain ASCII strings.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from puma.index.filters import JOINS, MODALITY, ORDERED, Filter, Scalar, filter_fields

_SIGNS = {"gt": ">", "gte": ">=", "lt": "<", "lte": "<="}


def hexed(text: str) -> str:
    """The UTF-8 bytes of a text in hexadecimal: texts sort by them as by their code points.

    Examples:
        >>> hexed("a'b")
        '612762'
    """
    return text.encode("utf-8").hex()


def unhexed(digits: str) -> str:
    """The text of :func:`hexed`."""
    return bytes.fromhex(digits).decode("utf-8")


def stored_value(value: Scalar) -> str:
    """What stands for a value in the column ``fields``: a number's bits sort as the numbers do.

    Examples:
        >>> stored_value(-1.5) < stored_value(0.0) < stored_value(2.0) < stored_value(10.0)
        True
    """
    if isinstance(value, bool):
        return "1" if value else "0"
    if isinstance(value, str):
        return hexed(value)
    bits = struct.unpack(">Q", struct.pack(">d", value))[0]
    return f"{bits ^ (2**64 - 1) if bits >> 63 else bits | 1 << 63:016x}"


def stored_fields(payload: Mapping[str, Any]) -> dict[str, str]:
    """What filters see of a payload, by kind and key (:func:`puma.index.filters.filter_fields`)."""
    named: dict[str, Scalar] = json.loads(filter_fields(payload)[0])
    return {
        _field(name[:1], name[2:]): stored_value(float(value) if name[0] == "n" else value)
        for name, value in named.items()
    }


def expression(where: Filter | None, modalities: Sequence[str] | None = None) -> str:
    """A checked filter and checked modalities as one expression; empty for none."""
    parts = []
    if modalities is not None:
        parts.append(one_of("modality", modalities))
    if where is not None:
        parts.append(_of_filter(where))
    return " and ".join(f"({part})" for part in parts)


def one_of(column: str, values: Iterable[str]) -> str:
    """The column is one of these values, which are plain ASCII without quotes."""
    listed = ", ".join(f'"{value}"' for value in values)
    return f"{column} in [{listed}]" if listed else NEVER


NEVER, ALWAYS = 'key == ""', 'key != ""'
"""No key is empty."""


def below(column: str, paths: Sequence[str], separator: str) -> str:
    """The column holds one of these paths, or one below them."""
    parts = []
    for path in paths:
        start = path if path.endswith(("/", separator)) else path + separator
        parts.append(f'{column} == "{hexed(path)}" or {column} like "{hexed(start)}%"')
    return " or ".join(parts) or NEVER


def _of_filter(where: Filter) -> str:
    kind = where["type"]
    if kind in JOINS:
        return f" {kind} ".join(f"({_of_filter(part)})" for part in where["filters"])
    key, value = where["key"], where["value"]
    if kind in ORDERED:
        return f'{_path(value, key)} {_SIGNS[kind]} "{stored_value(value)}"'
    values = value if isinstance(value, list) else [value]
    if key == MODALITY:
        some = one_of("modality", [str(entry) for entry in values])
        return f"not ({some})" if kind in ("ne", "nin") else some
    by_kind: dict[str, list[Scalar]] = {}
    for entry in values:
        by_kind.setdefault(_path(entry, key), []).append(entry)
    if kind in ("eq", "in"):
        return " or ".join(_any_of(path, some) for path, some in by_kind.items()) or NEVER
    # What is missing fits, and its comparison is neither true nor false on every server.
    without = [f"(not (exists {path}) or not ({_any_of(path, some)}))" for path, some in by_kind.items()]
    return " and ".join(without) or ALWAYS


def _any_of(path: str, values: Sequence[Scalar]) -> str:
    """A field is one of these values. (Milvus Lite takes ``in`` with columns only.)"""
    return " or ".join(f'{path} == "{stored_value(value)}"' for value in values)


def _field(kind: str, key: str) -> str:
    return f"{kind}{hexed(key)}"


def _path(value: Scalar, key: str) -> str:
    kind = "b" if isinstance(value, bool) else "s" if isinstance(value, str) else "n"
    return f'fields["{_field(kind, key)}"]'
