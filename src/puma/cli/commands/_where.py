"""``--where`` on the command line: a short form of the index's filters (:mod:`puma.index.filters`)."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from typing import Any

from puma.errors import InputError
from puma.index.filters import ORDERED

_FORM = re.compile(r"\s*(?P<key>[^=<>!]+?)\s*(?P<sign>!=|<=|>=|==|=|<|>)\s*(?P<value>.*?)\s*", re.DOTALL)
_SIGN = re.compile(r"[=<>]|!=")
_JOINED = re.compile(r"\s(?:and|or|&&|\|\|)\s+[^=<>!\s]+\s*(?:!=|[<>]=?|=)", re.IGNORECASE)
_KINDS = {"=": "eq", "==": "eq", "!=": "ne", "<": "lt", "<=": "lte", ">": "gt", ">=": "gte"}


def parse_where(
    conditions: Sequence[str] | None, folder: str | os.PathLike[str] | None = None
) -> dict[str, Any] | None:
    """Conditions, all of which must hold, as a filter; None for none.

    Args:
        conditions: each ``KEY=VALUE``, with ``=``, ``!=``, ``<``, ``<=``, ``>`` or ``>=``; or a filter as JSON. A value
            that reads as a number, true or false is compared as one, and with ``=`` as a word too; in double quotes it
            is a word only. A ``date`` is always compared as a word: ``date>=2024``.
        folder: only images whose files are in it or below it.

    Raises:
        InputError: one of them is neither.

    Examples:
        >>> parse_where(["brand=b3"])
        {'type': 'eq', 'key': 'brand', 'value': 'b3'}
        >>> parse_where(["price<20", "brand!=b3"])["type"]
        'and'
    """
    found = [_one(condition) for condition in conditions or ()]
    if folder is not None:
        from puma.search.ingest.fields import below

        found.append(below(folder))
    if not found:
        return None
    return found[0] if len(found) == 1 else {"type": "and", "filters": found}


def _one(condition: str) -> dict[str, Any]:
    if condition.lstrip().startswith("{"):
        try:
            filter_ = json.loads(condition)
        except ValueError as error:
            raise InputError(f"--where {condition!r:.200}: not JSON ({error})") from None
        return dict(filter_)
    match = _FORM.fullmatch(condition)
    if match is None:
        raise InputError(f"--where {condition!r:.200}: give KEY=VALUE, with =, !=, <, <=, > or >=, or a filter as JSON")
    key, kind, word = match["key"], _KINDS[match["sign"]], match["value"]
    fault = _fault(kind, word)
    if fault:
        raise InputError(f"--where {condition!r:.200}: {fault}")
    value = word if key == "date" and kind in ORDERED and not word.startswith('"') else _value(word)
    plain = {"type": kind, "key": key, "value": value}
    if isinstance(value, str) or kind not in ("eq", "ne"):
        return plain
    # Whether "2020" is a number is for the payload to say, and it may be either.
    as_word = {"type": kind, "key": key, "value": word}
    return {"type": "or" if kind == "eq" else "and", "filters": [plain, as_word]}


def _fault(kind: str, word: str) -> str | None:
    """What is wrong with a value that holds signs of comparison, or None. In double quotes it may hold anything."""
    if word.startswith('"'):
        return None
    if _SIGN.match(word):
        return f"two signs of comparison; give one of {', '.join(_KINDS)}, or the value in double quotes"
    if kind in ORDERED and not word:
        return "a value is missing after the sign"
    if (kind in ORDERED and re.search(r"[=<>]", word)) or _JOINED.search(word):
        return "several conditions in one; give --where for each, or the value in double quotes"
    return None


def _value(word: str) -> str | int | float | bool:
    try:
        value = json.loads(word)
    except (ValueError, RecursionError):
        return word
    if isinstance(value, float) and not abs(value) < float("inf"):  # JSON's reader takes NaN and Infinity
        return word
    return value if isinstance(value, (str, int, float, bool)) else word
