"""Filters over modality and payload fields: what may be written, what it means, and the SQL that is run. Loads no
torch.

A filter has OpenAI's shape: ``{"type": "eq", "key": "brand", "value": "b3"}`` with ``eq ne gt gte lt lte in nin``,
joined by ``{"type": "and", "filters": [...]}`` or ``or``. The key ``modality`` is the row's own; any other key is a
field of the payload. Strings, numbers and booleans can be compared, each with its own kind only; what is missing or of
another kind fits ``ne`` and ``nin`` and nothing else. Numbers are compared as double-precision floats, strings by code
points.

Lance's JSON functions convert between kinds and fail on the first row that cannot be converted, so a field is stored
under a name that says its kind. And they parse every row: what filters mostly ask for (a short text, a small whole
number, yes or no) is stored as a token too, which has an index.
"""

from __future__ import annotations

import json
import math
import operator
from collections.abc import Mapping, Sequence
from typing import Any

from puma.errors import InputError
from puma.items.item import MODALITIES

ORDERED = ("gt", "gte", "lt", "lte")
COMPARISONS = ("eq", "ne", *ORDERED, "in", "nin")
JOINS = ("and", "or")
MODALITY = "modality"
CONTENT_KEYS = ("text", "image")
"""Payload fields that are the item's content: they are searched for, not filtered by."""
MAX_DEPTH, MAX_COMPARISONS, MAX_VALUES = 8, 100, 1000
MAX_KEY, MAX_TEXT = 200, 1000
"""Longer keys and texts of a payload are stored and returned, but no filter sees them."""
TOKEN_TEXT, TOKEN_NUMBER = 40, 100_000
_ORDERS = {"gt": operator.gt, "gte": operator.ge, "lt": operator.lt, "lte": operator.le}
_SIGNS = {"gt": ">", "gte": ">=", "lt": "<", "lte": "<="}

Filter = Mapping[str, Any]
Scalar = str | float | bool


def checked_filter(where: Any) -> dict[str, Any] | None:
    """A filter in its plain form (numbers as floats, only the keys that count), or None for none.

    Raises:
        InputError: it is not of the shape above; the message names the place.
    """
    if where is None:
        return None
    left = [MAX_COMPARISONS]
    return _checked(where, "where", 1, left)


def _checked(where: Any, place: str, depth: int, left: list[int]) -> dict[str, Any]:
    if not isinstance(where, Mapping):
        raise InputError(
            f"{place} must be a filter like {{'type': 'eq', 'key': 'brand', 'value': 'b3'}}, got {where!r:.80}"
        )
    if depth > MAX_DEPTH:
        raise InputError(f"{place[:80]}: filters may be nested {MAX_DEPTH} deep, no deeper")
    kind = where.get("type")
    if isinstance(kind, str) and kind in JOINS:
        parts = where.get("filters")
        if not isinstance(parts, Sequence) or isinstance(parts, (str, bytes)) or not parts:
            raise InputError(f"{place}.filters must be a list of one or more filters, got {parts!r:.80}")
        return {
            "type": kind,
            "filters": [_checked(part, f"{place}.filters[{n}]", depth + 1, left) for n, part in enumerate(parts)],
        }
    if not isinstance(kind, str) or kind not in COMPARISONS:
        raise InputError(f"{place}.type must be one of {', '.join((*COMPARISONS, *JOINS))}, got {kind!r:.80}")
    left[0] -= 1
    if left[0] < 0:
        raise InputError(f"where: more than {MAX_COMPARISONS} comparisons; list several values with 'in' instead")
    key = _checked_key(where.get("key"), place)
    if "value" not in where:
        raise InputError(f"{place}.value is missing")
    value = where["value"]
    if kind in ("in", "nin"):
        if not isinstance(value, Sequence) or isinstance(value, (str, bytes)) or len(value) > MAX_VALUES:
            raise InputError(
                f"{place}.value must be a list of at most {MAX_VALUES} values for {kind!r}, got {value!r:.80}"
            )
        plain: Any = [_checked_value(entry, f"{place}.value[{n}]") for n, entry in enumerate(value)]
    else:
        plain = _checked_value(value, f"{place}.value")
        if kind in ORDERED and isinstance(plain, bool):
            raise InputError(f"{place}.value: {kind!r} compares numbers or texts, got {value!r}")
    if key == MODALITY:
        if kind in ORDERED:
            raise InputError(f"{place}: the modality has no order; use eq, ne, in or nin, got {kind!r}")
        for entry in plain if isinstance(plain, list) else [plain]:
            if entry not in MODALITIES:
                raise InputError(f"{place}.value must be of {', '.join(map(repr, MODALITIES))}, got {entry!r:.80}")
    return {"type": kind, "key": key, "value": plain}


def _checked_key(key: Any, place: str) -> str:
    if not isinstance(key, str) or len(key) > MAX_KEY or not _encodable(key):
        raise InputError(f"{place}.key must be a string of at most {MAX_KEY} characters, got {key!r:.80}")
    if key in CONTENT_KEYS:
        raise InputError(f"{place}.key: {key!r} is the item's content, which is searched for, not filtered by")
    return key


def _checked_value(value: Any, place: str) -> Scalar:
    plain = _scalar(value)
    if plain is None:
        raise InputError(
            f"{place} must be a string of at most {MAX_TEXT} characters, a finite number or a boolean, "
            f"got {value!r:.80}"
        )
    return plain


def _scalar(value: Any) -> Scalar | None:
    """What can be compared, or None: a text, a boolean, or a number as a float without the sign of zero."""
    if isinstance(value, bool):
        return value
    if isinstance(value, str):
        return value if len(value) <= MAX_TEXT and _encodable(value) else None
    if isinstance(value, (int, float)):
        try:
            number = float(value) + 0.0
        except OverflowError:
            return None
        return number if math.isfinite(number) else None
    return None


def _encodable(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _kind(value: Scalar) -> str:
    return "b" if isinstance(value, bool) else "s" if isinstance(value, str) else "n"


def matches(modality: str, payload: Mapping[str, Any], where: Filter | None) -> bool:
    """Whether a row fits a checked filter: the meaning, said slowly. The store does the same by :func:`as_sql`."""
    if where is None:
        return True
    kind = where["type"]
    if kind in JOINS:
        found = (matches(modality, payload, part) for part in where["filters"])
        return all(found) if kind == "and" else any(found)
    key, value = where["key"], where["value"]
    field = modality if key == MODALITY else _scalar(payload.get(key))
    if kind in ("eq", "ne"):
        return _same(field, value) is (kind == "eq")
    if kind in ("in", "nin"):
        return any(_same(field, entry) for entry in value) is (kind == "in")
    if field is None or _kind(field) != _kind(value):
        return False
    return bool(_ORDERS[kind](field, value))


def _same(field: Scalar | None, value: Scalar) -> bool:
    return field is not None and _kind(field) == _kind(value) and field == value


def filter_fields(payload: Mapping[str, Any]) -> tuple[str, list[str]]:
    """The two columns that :func:`as_sql` reads: the fields as JSON by kind and name, and the tokens."""
    fields: dict[str, Scalar] = {}
    tokens: list[str] = []
    for key, given in payload.items():
        value = _scalar(given)
        if value is None or key in CONTENT_KEYS or len(key) > MAX_KEY:
            continue
        fields[f"{_kind(value)}:{key}"] = value
        token = _token(key, value)
        if token is not None:
            tokens.append(token)
    return json.dumps(fields, ensure_ascii=False), tokens


def _token(key: str, value: Scalar) -> str | None:
    """One text for a key and a value that are worth an index entry; None for long texts and fine numbers."""
    if isinstance(value, float):
        if not value.is_integer() or abs(value) >= TOKEN_NUMBER:
            return None
        return json.dumps([key, int(value)], ensure_ascii=False)
    if isinstance(value, str) and len(value) > TOKEN_TEXT:
        return None
    return json.dumps([key, value], ensure_ascii=False)


def as_sql(where: Filter | None, modalities: Sequence[str] | None = None) -> str | None:
    """A checked filter and checked modalities as one condition on the table; None for none."""
    parts = []
    if modalities is not None:
        parts.append(_modality_in(modalities))
    if where is not None:
        parts.append(_sql(where))
    return " AND ".join(f"({part})" for part in parts) if parts else None


def quoted(text: str) -> str:
    """A text as an SQL string: a quote inside is doubled, which is all the escaping that SQL strings have."""
    return "'" + text.replace("'", "''") + "'"


def _sql(where: Filter) -> str:
    kind = where["type"]
    if kind in JOINS:
        return f" {kind.upper()} ".join(f"({_sql(part)})" for part in where["filters"])
    key, value = where["key"], where["value"]
    if kind in ORDERED:
        return f"{_column(key, value)} {_SIGNS[kind]} {_literal(value)}"
    values = value if isinstance(value, list) else [value]
    negated = kind in ("ne", "nin")
    some = _modality_in(values) if key == MODALITY else _any_of(key, values, negated)
    return f"NOT ({some})" if negated else some


def _any_of(key: str, values: Sequence[Scalar], negated: bool) -> str:
    """One condition: the field is one of the values. Those with a token are looked up together, the others by kind."""
    tokens: list[str] = []
    rest: dict[str, list[Scalar]] = {}
    for value in values:
        token = _token(key, value)
        if token is None:
            rest.setdefault(_kind(value), []).append(value)
        else:
            tokens.append(token)
    parts = [f"array_has_any(tokens, [{', '.join(map(quoted, tokens))}])"] if tokens else []
    for entries in rest.values():
        part = f"{_column(key, entries[0])} IN ({', '.join(map(_literal, entries))})"
        # A missing field is NULL, and NOT NULL is NULL: the row would fit neither eq nor ne.
        parts.append(f"coalesce({part}, false)" if negated else part)
    return " OR ".join(parts) or "false"


def _column(key: str, value: Scalar) -> str:
    kind = _kind(value)
    function = {"s": "json_get_string", "n": "json_get_float", "b": "json_get_bool"}[kind]
    return f"{function}(fields, {quoted(f'{kind}:{key}')})"


def _literal(value: Scalar) -> str:
    return quoted(value) if isinstance(value, str) else repr(value).lower() if isinstance(value, bool) else repr(value)


def _modality_in(modalities: Sequence[Any]) -> str:
    return f"modality IN ({', '.join(map(quoted, modalities))})" if modalities else "false"
