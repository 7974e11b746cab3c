"""``--where`` on the command line: a short form of the index's filters (:mod:`puma.index.filters`)."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from puma.errors import InputError

_FORM = re.compile(r"\s*(?P<key>[^=<>!]+?)\s*(?P<sign>!=|<=|>=|=|<|>)\s*(?P<value>.*?)\s*", re.DOTALL)
_KINDS = {"=": "eq", "!=": "ne", "<": "lt", "<=": "lte", ">": "gt", ">=": "gte"}


def parse_where(conditions: Sequence[str] | None) -> dict[str, Any] | None:
    """Conditions, all of which must hold, as a filter; None for none.

    Args:
        conditions: each ``KEY=VALUE``, with ``=``, ``!=``, ``<``, ``<=``, ``>`` or ``>=``; or a filter as JSON. A value
            that reads as a number, true or false is compared as one, and with ``=`` as a word too; in double quotes it
            is a word only.

    Raises:
        InputError: one of them is neither.

    Examples:
        >>> parse_where(["brand=b3"])
        {'type': 'eq', 'key': 'brand', 'value': 'b3'}
        >>> parse_where(["price<20", "brand!=b3"])["type"]
        'and'
    """
    found = [_one(condition) for condition in conditions or ()]
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
    value = _value(word)
    plain = {"type": kind, "key": key, "value": value}
    if isinstance(value, str) or kind not in ("eq", "ne"):
        return plain
    # Whether "2020" is a number is for the payload to say, and it may be either.
    as_word = {"type": kind, "key": key, "value": word}
    return {"type": "or" if kind == "eq" else "and", "filters": [plain, as_word]}


def _value(word: str) -> str | int | float | bool:
    try:
        value = json.loads(word)
    except (ValueError, RecursionError):
        return word
    if isinstance(value, float) and not abs(value) < float("inf"):  # JSON's reader takes NaN and Infinity
        return word
    return value if isinstance(value, (str, int, float, bool)) else word
