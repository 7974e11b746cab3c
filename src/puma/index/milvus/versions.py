"""Which Milvus servers are new enough. Loads no pymilvus."""

from __future__ import annotations

import re

OLDEST = (2, 3)
"""Of the server: the first with upserts, which every write is."""
LEAST = ".".join(map(str, OLDEST))


def is_too_old(version: str) -> bool:
    """Whether a server calls itself by a version before :data:`OLDEST`; what is no version is taken for a new one.

    Examples:
        >>> [is_too_old(version) for version in ("2.2.16", "v2.3.5-lite", "v2.10.0", "lite")]
        [True, False, False, False]
    """
    found = re.match(r"v?(\d+)\.(\d+)", version)
    return found is not None and (int(found[1]), int(found[2])) < OLDEST
