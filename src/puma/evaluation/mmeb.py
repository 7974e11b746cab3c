"""Evaluation on MMEB (VLM2Vec's image tasks): hit@1 by subset, meta-task, and in or out of distribution.

The rules are MMEB's: every query is ranked against its own candidates, of which the first is right; a group's figure is
the plain mean over its subsets. Three differ from VLM2Vec's script, on purpose. Ties count against us, where it takes
the first of the best, which is the right one. Candidates of one row that are alike in text and image are one
candidate. And an image that cannot be read costs its query or candidate, not the run: such a query is a miss, such a
candidate is never found.

Instructions: MMEB writes them into the query's text, and there they stay, without the image token. Rows of V2's
instruction edition keep them apart: there ``qry_inst`` is the encoder's instruction, and ``tgt_inst`` stands before the
candidate's text, as VLM2Vec has it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from puma.data.mmeb import META_TASKS, OUT_OF_DISTRIBUTION, SUBSETS, Row, Side, find_subsets, image_folder, read_subset
from puma.errors import InputError
from puma.evaluation.metrics import ranks_of_positives
from puma.evaluation.processes import is_first
from puma.evaluation.stored.resumable import Resumable, Wanted, safe_name
from puma.index.exact.small import rounded
from puma.items.encoder import BATCH, Encoder, embed_readable
from puma.items.item import Item
from puma.storage.vectors import VectorStore

SKIPS_LISTED = 50
METRIC = "hit@1"


def evaluate(
    encoder: Encoder,
    root: str | os.PathLike[str],
    subsets: Iterable[str] | None = None,
    *,
    images: str | os.PathLike[str] | None = None,
    batch_size: int = BATCH,
    progress: bool = True,
    work: VectorStore | None = None,
) -> dict[str, Any]:
    """Score an encoder on MMEB's image tasks.

    Args:
        encoder: embeds queries and candidates; each distinct one once a subset.
        root: the folder of the subsets, see :mod:`puma.data.mmeb`.
        subsets: names of subsets; all that are there if None. One beside the published 36 counts in no group.
        images: the folder that image paths are relative to; found under the root if None.
        batch_size: items handed to the encoder at once.
        progress: whether bars go to stderr.
        work: an open store that keeps the vectors, so that a killed run goes on, and several processes, as
            ``torchrun`` starts them, share the embedding; the first then scores, the others return {}.

    Returns:
        ``subsets``: by name ``hit@1`` in [0, 1], ``chance@1`` (a random ranking's expectation), ``queries``,
        ``candidates`` (distinct ones over all rows), ``skipped`` and ``skipped_items`` (images that cannot be read),
        ``group``. ``groups``: by meta-task, and ``in_distribution``, ``out_of_distribution``, ``all``: ``hit@1``, the
        mean over the group's subsets that were run (None if none was), ``subsets``, how many those are, and ``of``, how
        many it has; compare with published means only where the two are equal.

    Raises:
        InputError: ``subsets`` or ``images`` is no such thing. DataError: files are missing or have faults; all are
            read before anything is embedded.
    """
    names = find_subsets(root) if subsets is None else _names(subsets)
    rows = {name: read_subset(root, name) for name in names}
    folder = image_folder(root) if images is None else Path(images)
    if not folder.is_dir():
        raise InputError(f"images: {folder} is no folder")
    embedding = None if work is None else Resumable(encoder, work, batch_size=batch_size, progress=progress)
    if embedding is not None:
        sides = {name: _sides(rows[name]) for name in names}
        lists = {what: chosen for name, pair in sides.items() for what, chosen in zip(_labels(name), pair, strict=True)}
        embedding.share([wanted for what, own in lists.items() for _, wanted in _wanted(what, own, folder)])
        if not is_first():
            return {}

    def embed(what: str, chosen: Sequence[Side]) -> tuple[np.ndarray, np.ndarray, list[str]]:
        if embedding is not None:
            return _embedded(embedding, what, chosen, folder)
        return _embed(encoder, chosen, folder, batch_size, what if progress else None)

    tables = {name: _score(name, rows[name], embed) for name in names}
    groups = {
        **META_TASKS,
        "in_distribution": [name for name in SUBSETS if name not in OUT_OF_DISTRIBUTION],
        "out_of_distribution": OUT_OF_DISTRIBUTION,
        "all": SUBSETS,
    }
    return {"subsets": tables, "groups": {name: _mean(tables, members) for name, members in groups.items()}}


def _names(subsets: Iterable[str]) -> list[str]:
    if isinstance(subsets, str):
        raise InputError(f"subsets must be a list of names, got the string {subsets!r}")
    names = list(dict.fromkeys(subsets))
    if not names:
        raise InputError("subsets is empty: name at least one, or None for all that are there")
    return names


def _sides(rows: Sequence[Row]) -> tuple[list[Side], list[Side]]:
    """The distinct queries and the distinct candidates of a subset."""
    queries = list(dict.fromkeys(row.query for row in rows))
    return queries, list(dict.fromkeys(side for row in rows for side in row.candidates))


def _labels(name: str) -> tuple[str, str]:
    return f"{name}, queries", f"{name}, candidates"


def _score(
    name: str,
    rows: Sequence[Row],
    embed: Callable[[str, Sequence[Side]], tuple[np.ndarray, np.ndarray, list[str]]],
) -> dict[str, Any]:
    queries, candidates = _sides(rows)
    query_vectors, query_ok, query_faults = embed(_labels(name)[0], queries)
    found, readable, lost = embed(_labels(name)[1], candidates)
    query_place = {side: place for place, side in enumerate(queries)}
    candidate_place = {side: place for place, side in enumerate(candidates)}
    hits = 0
    for row in rows:
        query = query_place[row.query]
        if not query_ok[query]:
            continue
        places = np.array([candidate_place[side] for side in row.candidates])
        scores = rounded(
            found[places].astype(np.float64) @ query_vectors[query].astype(np.float64)
        )  # [candidates of this row]
        scores[~readable[places]] = np.nan
        (ranks,) = ranks_of_positives(scores[None, :], [[0]])
        hits += bool(len(ranks)) and int(ranks[0]) == 1
    skips = dict.fromkeys(query_faults + lost)
    return {
        METRIC: hits / len(rows),
        "chance@1": float(np.mean([1 / len(row.candidates) for row in rows])),
        "queries": len(rows),
        "candidates": len(candidates),
        "skipped": len(skips),
        "skipped_items": list(skips)[:SKIPS_LISTED],
        "group": next((group for group, members in META_TASKS.items() if name in members), None),
    }


def _embed(
    encoder: Encoder, sides: Sequence[Side], images: Path, batch_size: int, label: str | None
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Vectors [n, dim], which of them could be read [n], and what could not, by image. Each side takes its own
    instruction."""
    vectors = np.zeros((len(sides), encoder.dim), dtype=np.float32)
    readable = np.ones(len(sides), dtype=bool)
    faults: list[str] = []
    for instruction in dict.fromkeys(side.instruction for side in sides):
        places = np.array([place for place, side in enumerate(sides) if side.instruction == instruction])
        items = [sides[place].item(images) for place in places]
        vectors[places], readable[places], bad = embed_readable(
            encoder, items, instruction=instruction, batch_size=batch_size, progress=label
        )
        faults += [f"{sides[places[place]].image_path}: {reason}" for place, reason in bad]
    return vectors, readable, faults


def _wanted(what: str, sides: Sequence[Side], images: Path) -> list[tuple[np.ndarray, Wanted]]:
    """The lists of one instruction each that the sides fall into, with their places."""
    found = []
    for number, instruction in enumerate(dict.fromkeys(side.instruction for side in sides)):
        places = np.array([place for place, side in enumerate(sides) if side.instruction == instruction])

        def items(own: np.ndarray = places) -> list[Item]:
            return [sides[place].item(images) for place in own]

        name = safe_name(f"{what}-{number}".replace(", ", "-"))
        found.append((places, Wanted(name, items, len(places), instruction, what)))
    return found


def _embedded(
    embedding: Resumable, what: str, sides: Sequence[Side], images: Path
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """As :func:`_embed`, from a store."""
    vectors = np.zeros((len(sides), embedding.encoder.dim), dtype=np.float32)
    readable = np.ones(len(sides), dtype=bool)
    faults: list[str] = []
    for places, wanted in _wanted(what, sides, images):
        vectors[places], readable[places], bad = embedding.embedded(wanted)
        faults += [f"{sides[places[place]].image_path}: {reason}" for place, reason in bad]
    return vectors, readable, faults


def _mean(tables: dict[str, dict[str, Any]], members: Iterable[str]) -> dict[str, Any]:
    members = list(members)
    rates = [tables[name][METRIC] for name in members if name in tables]
    return {METRIC: float(np.mean(rates)) if rates else None, "subsets": len(rates), "of": len(members)}
