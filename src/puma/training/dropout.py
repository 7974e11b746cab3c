"""Modality dropout: now and then a query of image and text comes without the one or the other, so that a model learns
to answer when a part is missing.

Source: the literature on missing modalities trains with whole modalities withheld at random: ModDrop (Neverova et al.,
2016), SMIL (Ma et al., 2021), "Are Multimodal Transformers Robust to Missing Modality?" (Ma et al., 2022), whose test,
too, withholds a part of the input and never of what is to be found. So here: the query side only. A pool is what it is,
and a candidate with a part taken away may no longer be right for its query.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace

from puma.errors import InputError
from puma.items.item import Item
from puma.training.pairs import Pair


class ModalityDropout:
    """Takes the image or the text, with equal chance, from a query that has both. The instruction stays, and says
    what is wanted as before; candidates stay whole.

    What is drawn depends on seed, epoch and row alone: not on the order of rows, on the process, or on what was drawn
    before, so that a resumed run and one on more processes draw the same.

    Args:
        probability: how often a part is withheld, in [0, 1].
        seed: of the draw.

    Raises:
        InputError: the probability is none.

    Examples:
        >>> both = Item(text="the same in red", image="shoe.png")
        >>> pair = Pair(both, Item(image="red.png"), "Find it.", 7, "q", "c", frozenset({"c"}))
        >>> drop = ModalityDropout(1.0)
        >>> sorted({drop(pair, row).query.modality for row in range(9)})
        ['image', 'text']
        >>> drop(pair, 0).instruction
        'Find it.'
    """

    def __init__(self, probability: float, seed: int = 0) -> None:
        if not 0 <= probability <= 1:
            raise InputError(f"probability={probability}: give a number in [0, 1]")
        self.probability, self.seed = probability, seed
        self.epoch = 0
        """Whose draws are made; whoever hands over the rows sets it."""

    def __call__(self, pair: Pair, row: int) -> Pair:
        """The pair, or a copy whose query lacks its image or its text."""
        if self.probability == 0 or pair.query.image is None or pair.query.text is None:
            return pair
        digest = hashlib.sha256(f"{self.seed}:{self.epoch}:{row}".encode()).digest()
        if int.from_bytes(digest[:8], "big") / 2**64 >= self.probability:
            return pair
        kept = Item(text=pair.query.text) if digest[8] % 2 else Item(image=pair.query.image)
        return replace(pair, query=kept)
