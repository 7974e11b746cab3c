"""Holding training pairs out to make a choice on, without a leak."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from puma.errors import InputError, require


def held_out_split(
    captions: Sequence[str], images: Sequence[int], share: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Positions to fit on and positions held out, such that neither a caption nor an image is on both sides.

    Pairs that share a caption or an image, directly or through others, stay together. (Splitting by caption alone
    would hold out an image whose other captions are fitted on, and choose a strength far too low.) Of the held-out
    pairs, those with a caption and an image not yet seen among them are kept, so that ranks are not blurred by equals.

    Args:
        captions: of n pairs.
        images: of the n pairs, equal numbers for equal images.
        share: of the pairs, at most (but never fewer than two groups) held out.
        seed: draws the groups.

    Raises:
        InputError: fewer than four groups.
        DependencyError: scipy is not installed.
    """
    require("choosing the ridge strength", "mini", "scipy")
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    _, words = np.unique(np.asarray(captions, dtype=object).astype(str), return_inverse=True)
    _, shown = np.unique(np.asarray(images), return_inverse=True)
    nodes = int(words.max(initial=-1)) + 1
    edges = coo_matrix((np.ones(len(words)), (words, nodes + shown)), shape=(nodes + len(shown),) * 2)
    group = np.unique(connected_components(edges, directed=False)[1][words], return_inverse=True)[1]
    sizes = np.bincount(group)
    if len(sizes) < 4:
        raise InputError(f"choosing the ridge strength needs four or more unrelated pairs, got {len(sizes)}")
    chosen, held = np.zeros(len(sizes), bool), 0
    # a group too large for the share is passed over: half of all pairs in one must not be what is held out
    for number in np.random.default_rng(seed).permutation(len(sizes)):
        if held + sizes[number] <= share * len(words):
            chosen[number], held = True, held + sizes[number]
    if chosen.sum() < 2:
        chosen[np.argsort(sizes, kind="stable")[:2]] = True
    fit, seen_words, seen_images, outside = np.flatnonzero(~chosen[group]), set(), set(), []
    for i in np.flatnonzero(chosen[group]).tolist():
        if words[i] not in seen_words and images[i] not in seen_images:
            seen_words.add(words[i])
            seen_images.add(images[i])
            outside.append(i)
    return fit, np.array(outside)
