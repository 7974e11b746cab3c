"""How a search of many candidates fits in its memory: queries a pass, candidates a block, threads. Loads no torch."""

from __future__ import annotations

from dataclasses import dataclass

from puma.errors import InputError
from puma.index.exact.matrices import Rows
from puma.index.exact.memory import resident_bytes, shown_memory
from puma.index.exact.scanning import AHEAD, TILE
from puma.index.exact.selection import CROWDED, EXACT_TILE, capacity

BLOCKS = (8192, 4096, 2048, 1024, 512)
"""Candidates of a block: the first size that leaves room for enough queries."""
ENOUGH = 1024
"""Queries of one pass that are worth smaller blocks or fewer threads."""
PAIRS_AT_ONCE = 2**20
"""Pairs that get their exact scores at once."""
RESERVE = 48 * 10**6
"""Bytes left for the matrix library's buffers and the interpreter."""


@dataclass(frozen=True)
class Plan:
    """How a search fits in its memory: ``queries`` a pass, ``block`` candidates a block, ``threads``."""

    queries: int
    block: int
    threads: int


def plan_for(budget: int, threads: int, queries: int, rows: Rows, k: int | None, result: int) -> Plan:
    """The fastest division that fits: blocks get smaller and threads fewer before passes become very small.

    Args:
        budget: bytes that this process may hold in all.
        threads: at most so many.
        queries: how many there are.
        k: candidates wanted for each; None if they are only counted, for all queries in one pass.
        result: bytes that the caller holds beside the search.

    Raises:
        InputError: it does not fit; the message says what would.
    """
    free = budget - resident_bytes() - RESERVE - result
    smallest = 0
    count = threads
    while count:
        for block in BLOCKS:
            tile = min(TILE, queries)
            # rows as stored and as float32, exact scores of a tile; scores, mask, places and a copy for partitioning
            each = block * rows.dim * (rows.itemsize + 4 + 8) + block * (17 * tile + 40 * min(EXACT_TILE, tile))
            fixed = count * each + (0 if k is None else 64 * min(2 * PAIRS_AT_ONCE, queries * capacity(k)))
            query = 16
            if k is not None:
                waiting = (AHEAD * count + 1) * 8 * int(min(block, k + CROWDED * block))
                query = 13 * capacity(k) + 32 + waiting
            room = (free - fixed) // query if free > fixed else 0
            least = min(queries, ENOUGH if (block, count) != (BLOCKS[-1], 1) else 16)
            if k is None:  # all queries in one pass: nothing but the products grows with them
                least = queries
            if room >= least:
                return Plan(int(min(room, queries)), block, count)
            smallest = fixed + query * (least if k is None else min(queries, 16)) - free + budget
        count //= 2
    raise InputError(
        f"memory={shown_memory(budget)} is too small for {queries} queries of dim {rows.dim}"
        f"{'' if k is None else f' and k={k}'}; this process holds {shown_memory(resident_bytes())} already: give at "
        f"least {shown_memory(smallest)}"
    )
