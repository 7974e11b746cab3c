"""Records of what was left out of a run, and why: listed, counted, summed up in a few lines. Loads no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

LISTED = 5
"""Skips that a summary names one by one."""


@dataclass(frozen=True)
class Skip:
    """Something that was left out, and why.

    Args:
        where: names a file, a line or an id.
        reason: why.
        source: the file or folder that could not be read in full now, where what was read of it before is to be kept;
            None where nothing is.
        id, image: of the entry in that source that this is about, as far as they are known.
        position: of the item among those that were given, where they were given in order.
    """

    where: str
    reason: str
    source: str | None = field(default=None, compare=False)
    id: str | None = field(default=None, compare=False)
    image: str | None = field(default=None, compare=False)
    position: int | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        for name in ("where", "reason"):  # a file's name may hold what no terminal and no JSON can
            object.__setattr__(self, name, getattr(self, name).encode("utf-8", "backslashreplace").decode())

    def __str__(self) -> str:
        return f"{self.where}: {self.reason}"


def summary(skips: Sequence[Skip], what: str, listed: int = LISTED) -> str:
    """A few lines that say how many ``what`` were left out, and name the first.

    Examples:
        >>> print(summary([Skip("a.jsonl, line 3", "is not JSON"), Skip("a.jsonl, line 9", "is not JSON")], "rows", 1))
        2 rows were left out:
          a.jsonl, line 3: is not JSON
          ... and 1 more
    """
    more = f"\n  ... and {len(skips) - listed:,} more" if len(skips) > listed else ""
    shown = "".join(f"\n  {skip}" for skip in skips[:listed])
    return f"{len(skips):,} {what} were left out:{shown}{more}"
