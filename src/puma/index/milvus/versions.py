"""Which Milvus servers are new enough. Loads no pymilvus."""

from __future__ import annotations

import re

OLDEST = (2, 3)
"""Of the server: the first with upserts, which every write is."""
LEAST = ".".join(map(str, OLDEST))


ITERATES = (2, 4)
"""The first that may know requests of iterators. pymilvus takes no consistency for such a request; a server that knows
them takes a time. An older one needs no more than the order that a request asks for."""


def knows_iterators(version: str) -> bool:
    """Whether requests for rows in their order are marked as an iterator's.

    Examples:
        >>> [knows_iterators(version) for version in ("v2.3.5-lite", "2.4.1", "lite")]
        [False, True, True]
    """
    return not _is_before(version, ITERATES)


def is_too_old(version: str) -> bool:
    """Whether a server calls itself by a version before :data:`OLDEST`; what is no version is taken for a new one.

    Examples:
        >>> [is_too_old(version) for version in ("2.2.16", "v2.3.5-lite", "v2.10.0", "lite")]
        [True, False, False, False]
    """
    return _is_before(version, OLDEST)


def _is_before(version: str, other: tuple[int, int]) -> bool:
    found = re.match(r"v?(\d+)\.(\d+)", version)
    return found is not None and (int(found[1]), int(found[2])) < other
