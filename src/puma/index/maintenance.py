"""Keeping an index fast and small by itself: search indexes built and refreshed, small files joined. Loads no
torch.

One process at a time does this, under the upkeep lock; writers go on meanwhile, and where they touch the same files the
upkeep gives way and comes again with a later write.
"""

from __future__ import annotations

import os
from datetime import timedelta
from functools import partial
from typing import Any

from puma.index.companions import Sources, Thumbnails
from puma.index.places import Places
from puma.index.remote import RemoteFolder
from puma.index.tables import (
    ITEMS,
    PLACES,
    SOURCES,
    STAMPS,
    THUMBNAILS,
    Folder,
    connect,
    exists,
    is_conflict,
    locked,
    writing,
)

KEEP_VERSIONS = timedelta(minutes=10)
"""How long a version that is no longer the newest stays, for those who are reading it."""
AT_ONCE = timedelta(milliseconds=1)
FRAGMENTS, ROWS_A_FRAGMENT = 64, 10_000
"""Small files are joined when there are more than this, plus one for so many rows: joining rewrites the rows."""
UNINDEXED = 0.02
"""Share of rows outside the search index that makes a refresh due: they are compared one by one."""
SEGMENTS = 6
"""Each refresh adds a part to the search index, and every search visits all parts. With more than this the index is
built anew, with partitions for the rows of now (2.5 s for 200,000 rows of 576, on one core)."""
DISTINCT_TOKENS = 50_000
"""With more distinct tokens than this an index of them costs more memory than the scan it saves."""
COMPANIONS = {THUMBNAILS: ("content",), SOURCES: ("id", "source"), PLACES: ("id", "source"), STAMPS: ("source",)}
"""The tables beside the items, and the columns that are looked up in them."""
WAIT = 600.0
"""Seconds that a caller who requests upkeep waits for another process that is at it."""


def state_of(table: Any) -> dict[str, Any]:
    """What searching needs to know of a table's indexes: ``rows``, ``fragments``, ``indexed`` rows and
    ``segments`` of the vector index, and the ``columns`` that have an index."""
    stats = table.stats()
    found = {"rows": int(stats["num_rows"]), "fragments": int(stats["fragment_stats"]["num_fragments"])}
    found |= {"indexed": 0, "segments": 0}
    columns = {}
    for index in table.list_indices():
        columns[index.columns[0]] = index.name
        if index.columns[0] == "vector":
            found |= {"indexed": int(index.num_indexed_rows or 0), "segments": int(index.num_segments or 0)}
    return found | {"columns": columns}


def due(table: Any, dim: int, flat_rows: int) -> bool:
    """Whether upkeep would pay off now; costs a fraction of a millisecond."""
    state = state_of(table)
    if state["fragments"] > FRAGMENTS + state["rows"] / ROWS_A_FRAGMENT:
        return True
    if state["rows"] <= flat_rows:
        return False
    if "id" not in state["columns"]:
        return True
    outside = state["rows"] - state["indexed"]
    return dim % 8 == 0 and outside > max(flat_rows / 2, UNINDEXED * state["rows"])


def maintain(folder: Folder, table: Any, dim: int, flat_rows: int, *, wait: float, thorough: bool = False) -> bool:
    """Build or refresh the search indexes, join small files, drop versions older than :data:`KEEP_VERSIONS`.

    Args:
        thorough: leave the search index in one part with every row in it, whatever that costs.
        wait: seconds for the upkeep lock; with 0, nothing is done (False) where another process is at it, or where
            writers were faster.

    Raises:
        StorageError: the disk is full or cannot be written.
    """
    with locked(folder, "upkeep", wait) as mine:
        if not mine:
            return False

        def work() -> None:
            _build(table, dim, flat_rows, thorough)
            table.optimize(cleanup_older_than=KEEP_VERSIONS)
            for name in COMPANIONS:
                _optimize_companion(folder, name, always=bool(wait))

        try:
            if wait:
                writing(folder, work)
            else:
                work()
        except (OSError, RuntimeError) as error:
            if not wait and is_conflict(error):
                return False
            raise
        return True


def _build(table: Any, dim: int, flat_rows: int, thorough: bool) -> None:
    from lancedb.index import Bitmap, BTree, IvfRq, LabelList

    state = state_of(table)
    rows, present = state["rows"], state["columns"]
    if rows <= flat_rows:
        return
    if "id" not in present:
        table.create_index("id", config=BTree())
    if "modality" not in present:
        table.create_index("modality", config=Bitmap())
    if "tokens" in table.schema.names:
        few = _few_tokens(table)
        if few and "tokens" not in present:
            table.create_index("tokens", config=LabelList())
        elif not few and "tokens" in present:
            table.drop_index(present["tokens"])
    scattered = state["segments"] > (1 if thorough else SEGMENTS) or (thorough and state["indexed"] < rows)
    if dim % 8 == 0 and ("vector" not in present or scattered):
        table.create_index("vector", config=IvfRq(distance_type="cosine"), replace=True)


def _few_tokens(table: Any) -> bool:
    seen: set[str] = set()
    for batch in table.search().select(["tokens"]).to_batches(8192):
        seen.update(batch["tokens"].flatten().unique().to_pylist())
        if len(seen) > DISTINCT_TOKENS:
            return False
    return True


def _optimize_companion(folder: Folder, name: str, always: bool) -> None:
    from lancedb.index import BTree

    if not exists(folder, name):
        return
    table = connect(folder).open_table(name)
    state = state_of(table)
    if not always and state["fragments"] <= FRAGMENTS + state["rows"] / ROWS_A_FRAGMENT:
        return
    for column in COMPANIONS[name]:
        if state["rows"] > ROWS_A_FRAGMENT and column not in state["columns"]:
            table.create_index(column, config=BTree())
    table.optimize(cleanup_older_than=KEEP_VERSIONS)


def drop_indexes(folder: Folder, table: Any) -> None:
    """Drop what makes search fast; no row is lost by it."""
    for name in state_of(table)["columns"].values():
        writing(folder, partial(table.drop_index, name))


def drop_orphans(table: Any, thumbnails: Thumbnails, sources: Sources, places: Places) -> dict[str, int]:
    """Drop images, sources and places that belong to no row; how many. The caller holds the write lock."""
    ids: set[str] = set()
    contents: set[str] = set()
    for batch in table.search().select(["id", "content"]).to_batches(8192):
        ids.update(batch["id"].to_pylist())
        contents.update(batch["content"].to_pylist())
    places.drop_ids(places.values("id") - ids)
    return {
        "thumbnails_dropped": thumbnails.drop(thumbnails.values("content") - contents),
        "sources_dropped": sources.drop_ids(sources.values("id") - ids),
    }


def drop_old(folder: Folder) -> None:
    """Drop every version but the newest, and what killed writers left. The caller holds both locks: nobody else's
    unfinished files can be among them."""
    for name in (ITEMS, *COMPANIONS):
        if exists(folder, name):
            table = connect(folder).open_table(name)
            writing(folder, partial(table.optimize, cleanup_older_than=AT_ONCE, delete_unverified=True))


def folder_bytes(folder: Folder) -> int:
    """Size of everything in a folder; files that vanish meanwhile do not count."""
    if isinstance(folder, RemoteFolder):
        return folder.size()
    total = 0
    for where, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(where, name)).st_size
            except FileNotFoundError:
                continue
    return total
