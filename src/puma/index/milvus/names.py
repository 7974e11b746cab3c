"""What the collections and aliases of an index on Milvus are called."""

from __future__ import annotations

import re

_OWN = re.compile(r"__(gen[0-9]+|current|sealed)$")


def companions_of(name: str) -> str:
    """The collection with an index's images, sources, places and stamps."""
    return f"{name}_companions"


def rows_of_generation(index: str, number: int) -> str:
    """The collection with the rows of an index's model, the first, the second, and so on."""
    return index if number == 1 else f"{index}__gen{number}"


def number_of(rows: str) -> int:
    """Which generation's rows a collection holds."""
    match = re.search(r"__gen([0-9]+)$", rows)
    return int(match[1]) if match else 1


def current_alias(index: str) -> str:
    """The alias of the rows that count; an index that never had another model has none."""
    return f"{index}__current"


def sealed_alias(rows: str) -> str:
    """The alias of rows that nobody may write to any more."""
    return f"{rows}__sealed"


def is_reserved(index: str) -> bool:
    """Whether an index may not have this name, since it could be one of these."""
    return _OWN.search(index) is not None
