"""Evaluation on MMEB (VLM2Vec's image tasks): hit@1 by subset, meta-task, and in or out of distribution.

Here: :func:`evaluate`. Not here: the files' format and the lists of subsets (:mod:`puma.data.mmeb`).

The rules are MMEB's: every query is ranked against its own candidates, of which the first is right; a group's figure is
the plain mean over its subsets. Three differ from VLM2Vec's script, on purpose. Ties count against us, where it takes
the first of the best, which is the right one. Candidates of one row that are alike in text and picture are one
candidate. And a picture that cannot be read costs its query or candidate, not the run: such a query is a miss, such a
candidate is never found.

Instructions: MMEB writes them into the query's text, and there they stay, without the image token. Rows of V2's
instruction edition keep them apart: there ``qry_inst`` is the encoder's instruction, and ``tgt_inst`` stands before the
candidate's text, as VLM2Vec has it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from puma.data.mmeb import META_TASKS, OUT_OF_DISTRIBUTION, SUBSETS, Row, Side, find_subsets, image_folder, read_subset
from puma.embedding import BATCH, embed_readable
from puma.errors import InputError
from puma.evaluation.metrics import ranks_of_positives
from puma.index.exact import rounded
from puma.items import Encoder

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
) -> dict[str, Any]:
    """Score an encoder on MMEB's image tasks.

    Args:
        encoder: embeds queries and candidates; each distinct one once a subset.
        root: the folder of the subsets, see :mod:`puma.data.mmeb`.
        subsets: names of subsets; all that are there if None. One beside the published 36 counts in no group.
        images: the folder that image paths are relative to; found under the root if None.
        batch_size: items handed to the encoder at once.
        progress: whether bars go to stderr.

    Returns:
        ``subsets``: by name ``hit@1`` in [0, 1], ``chance@1`` (a random ranking's expectation), ``queries``,
        ``candidates`` (distinct ones over all rows), ``skipped`` and ``skipped_items`` (pictures that cannot be read),
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
    tables = {name: _score(encoder, name, rows[name], folder, batch_size, progress) for name in names}
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


def _score(
    encoder: Encoder, name: str, rows: Sequence[Row], images: Path, batch_size: int, progress: bool
) -> dict[str, Any]:
    label = f"{name}, %s" if progress else None
    queries = list(dict.fromkeys(row.query for row in rows))
    candidates = list(dict.fromkeys(side for row in rows for side in row.candidates))
    asked, heard, unheard = _embed(encoder, queries, images, batch_size, label and label % "queries")
    found, readable, lost = _embed(encoder, candidates, images, batch_size, label and label % "candidates")
    query_place = {side: place for place, side in enumerate(queries)}
    candidate_place = {side: place for place, side in enumerate(candidates)}
    hits = 0
    for row in rows:
        query = query_place[row.query]
        if not heard[query]:
            continue
        places = np.array([candidate_place[side] for side in row.candidates])
        scores = rounded(found[places].astype(np.float64) @ asked[query].astype(np.float64))  # [candidates of this row]
        scores[~readable[places]] = np.nan
        (ranks,) = ranks_of_positives(scores[None, :], [[0]])
        hits += bool(len(ranks)) and int(ranks[0]) == 1
    skips = dict.fromkeys(unheard + lost)
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
    """Vectors [n, dim], which of them could be read [n], and what could not, by picture. Each side takes its own
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


def _mean(tables: dict[str, dict[str, Any]], members: Iterable[str]) -> dict[str, Any]:
    members = list(members)
    rates = [tables[name][METRIC] for name in members if name in tables]
    return {METRIC: float(np.mean(rates)) if rates else None, "subsets": len(rates), "of": len(members)}
