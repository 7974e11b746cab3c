"""A pool of OpenPics' texts, images and captioned images in equal parts, for queries that ask for no modality.

It is derived from the built files of a split, whose bytes stay as they are. Every candidate is a text (a concept's
name or its keywords), an image, or an image with keywords beside it; no image is in two of the parts. A query is a
concept's name. Right are the items of that concept (grade 2) and those of other concepts of its family (grade 1:
"brown fish" for "fish"), whatever their modality.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from puma.data.mbeir import Benchmark
from puma.data.records import Candidate, Query
from puma.errors import DataError
from puma.items.item import IMAGE, IMAGE_TEXT, MODALITIES, TEXT
from puma.mini.openpics.library import order

OWN_CONCEPT, SAME_FAMILY = 2, 1
"""Grades."""


@dataclass(frozen=True)
class MixedPool:
    """Queries without a modality, what is searched, and what is right.

    Args:
        queries: texts, one a concept, in the order of their concepts.
        candidates: as many texts as images as captioned images.
        grades: ``{qid: {did: 1 or 2}}``, at least one of grade 2 for each query.
    """

    queries: list[Query]
    candidates: list[Candidate]
    grades: dict[str, dict[str, int]]


def mixed_pool(benchmark: Benchmark, split: str) -> MixedPool:
    """The mixed pool of a split; the same files give the same pool.

    Args:
        benchmark: OpenPics, as :func:`puma.mini.openpics.build` makes it.
        split: ``val`` or ``test``.

    Raises:
        DataError: a candidate does not say its concept, so this is no OpenPics; or a modality is missing.
    """
    known: dict[str, dict[str, Any]] = {}
    parts: dict[str, list[Candidate]] = {modality: [] for modality in MODALITIES}
    for candidate in benchmark.global_pool(split):
        known[candidate.did] = _source(candidate.src, candidate.did)
        parts[candidate.modality].append(candidate)
    captioned = {candidate.image_path for candidate in parts[IMAGE_TEXT]}
    plain = {one.image_path: one for one in parts[IMAGE] if one.image_path not in captioned}
    # The images asked with in other tasks are no candidates there; here no query has an image.
    for task in benchmark.tasks(split):
        for query in benchmark.queries(task, split):
            if query.image_path is not None and query.image_path not in captioned and query.image_path not in plain:
                did = f"image {query.image_path}"
                plain[query.image_path] = Candidate(did, None, query.image_path, IMAGE, query.src)
                known[did] = _source(query.src, did)
    parts[IMAGE] = list(plain.values())
    size = min(map(len, parts.values()))
    if not size:
        raise DataError(f"OpenPics, split {split}: no {min(parts, key=lambda name: len(parts[name]))} to mix")
    candidates = [one for modality in MODALITIES for one in _taking_turns(parts[modality], known, size)]
    queries, grades = _queries(candidates, known)
    return MixedPool(queries, candidates, grades)


def _taking_turns(rows: Sequence[Candidate], known: dict[str, dict[str, Any]], size: int) -> list[Candidate]:
    """``size`` of the rows in a fixed pseudo-random order, one of each concept before a second of any."""
    turns: dict[str, int] = defaultdict(int)
    ranked: list[tuple[int, int, Candidate]] = []
    for row in sorted(rows, key=lambda one: order(one.image_path or one.text or "")):
        concept = known[row.did]["concept"]
        turns[concept] += 1
        ranked.append((turns[concept], len(ranked), row))
    return [row for *_, row in sorted(ranked, key=lambda one: one[:2])[:size]]


def _queries(
    candidates: Sequence[Candidate], known: dict[str, dict[str, Any]]
) -> tuple[list[Query], dict[str, dict[str, int]]]:
    families: dict[str, list[Candidate]] = defaultdict(list)
    for candidate in candidates:
        families[known[candidate.did]["family"]].append(candidate)
    names: dict[str, tuple[str, str]] = {}
    for own in known.values():
        if "source" not in own:  # said of the concept as a whole: the name that most of its images have
            names[own["concept"]] = own["name"], own["family"]
    queries, grades = [], {}
    for concept, (name, family) in sorted(names.items()):
        right = {
            one.did: OWN_CONCEPT if known[one.did]["concept"] == concept else SAME_FAMILY for one in families[family]
        }
        if OWN_CONCEPT in right.values():
            queries.append(Query(f"mixed {concept}", name, None, TEXT, tuple(right)))
            grades[queries[-1].qid] = right
    return queries, grades


def _source(src: str | None, did: str) -> dict[str, Any]:
    known: dict[str, Any] = json.loads(src) if src else {}
    if not {"name", "concept", "family"} <= known.keys():
        raise DataError(f"candidate {did}: says no concept; mixed_pool reads OpenPics only")
    return known
