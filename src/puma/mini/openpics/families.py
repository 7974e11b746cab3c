"""Concepts and families: which images show the same thing, and which must not be parted by the split.

A *concept* is one name (word forms aside), whoever drew it. A *family* is what one would know from having seen a
member: skin tones, genders, drawing series, near-duplicates, and kinds of a thing that is itself among the names
("dog", "brown dog"). A family is wholly in train, val or test.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from puma.data.groups import Groups
from puma.mini.openpics.captions import concept_key, family_key, head
from puma.mini.openpics.records import ImageRecord

MAX_KIND = 30
"""A head noun with more concepts than this is a category ("flag", "face", "sign"), not a family."""
NEAR = 0.985
"""Correlation of grey thumbnails from which two clip-art drawings count as near-duplicates."""


def concept_of(image: ImageRecord) -> str:
    """The key of what an image shows."""
    return concept_key(image.name)


def families(images: Sequence[ImageRecord], near: Iterable[tuple[int, int]] = ()) -> list[str]:
    """The family of each image, named by one of its concepts.

    Args:
        images: all images that are kept.
        near: pairs of positions that are near-duplicates.
    """
    groups = Groups()
    concepts = [concept_of(image) for image in images]
    known = set(concepts)
    heads: dict[str, set[str]] = defaultdict(set)
    for image, concept in zip(images, concepts, strict=True):
        heads[head(image.name)].add(concept)
    kinds = {noun for noun, members in heads.items() if len(members) <= MAX_KIND and noun in known}
    for image, concept in zip(images, concepts, strict=True):
        node = f"c:{concept}"
        groups.join(node, f"f:{family_key(image.name)}")
        groups.join(node, f"f:{concept}")
        for alias in image.aliases:
            groups.join(node, f"f:{concept_key(alias)}")
        if image.series:
            groups.join(node, f"s:{image.series}")
        if head(image.name) in kinds:
            groups.join(node, f"c:{head(image.name)}")
    for one, other in near:
        groups.join(f"c:{concepts[one]}", f"c:{concepts[other]}")
    return [groups.find(f"c:{concept}")[2:] for concept in concepts]


def near_duplicates(thumbs: np.ndarray, positions: Sequence[int], threshold: float = NEAR) -> list[tuple[int, int]]:
    """Pairs of ``positions`` whose thumbnails correlate above ``threshold``; ``thumbs`` is uint8 [n, pixels]."""
    if len(positions) < 2:
        return []
    rows = 255.0 - thumbs[np.asarray(positions)].astype(np.float32)  # ink, so that empty paper weighs nothing
    rows -= rows.mean(axis=1, keepdims=True)
    rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6)
    pairs = []
    for start in range(0, len(rows), 1024):
        scores = rows[start : start + 1024] @ rows.T
        for i, j in zip(*np.nonzero(scores > threshold), strict=True):
            if start + i < j:
                pairs.append((positions[start + i], positions[j]))
    return pairs


def split(
    names: Sequence[str],
    strata: Mapping[str, str],
    shares: Mapping[str, Mapping[str, float]],
    fit: Mapping[str, bool],
) -> dict[str, str]:
    """Assign every family to train, val or test.

    Args:
        names: the family of each image (as often as it has images).
        strata: each family's stratum; every stratum is shared out by itself.
        shares: by stratum, the share of *families* that goes to "test" and "val".
        fit: families that may be tested on (clean names, not too large); the others are all train.

    Returns:
        {family: "train" | "val" | "test"}. Which one a family falls to depends on a hash of its name and on how many
        there are, not on their order.
    """
    sizes = Counter(names)
    by_stratum: dict[str, list[str]] = defaultdict(list)
    for name in sizes:
        by_stratum[strata[name]].append(name)
    chosen: dict[str, str] = {}
    for stratum, members in by_stratum.items():
        able = sorted((m for m in members if fit[m]), key=lambda m: hashlib.sha256(f"openpics {m}".encode()).digest())
        test = round(shares[stratum]["test"] * len(members))
        val = round(shares[stratum]["val"] * len(members))
        for position, member in enumerate(able):
            chosen[member] = "test" if position < test else "val" if position < test + val else "train"
    return {name: chosen.get(name, "train") for name in sizes}
