"""Rows that ask for no modality: a share of the training queries gets the general instruction of a search in which any
modality is welcome, and everything known to show the same is right for it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import replace

from puma.errors import InputError
from puma.items.item import MODALITIES
from puma.search.queries import INSTRUCTIONS
from puma.training.pairs import Pair


class AnyModality:
    """Makes of a pair, now and then, one whose query asks for no modality: the instruction is that of
    :data:`puma.search.queries.INSTRUCTIONS` for any modality, the losses count candidates of every modality as of its
    own (:data:`puma.losses.batch_keys.ANY`), and what is alike its answer in another modality is no negative
    (``Pair.alike``).

    What is drawn depends on seed, epoch and row alone, as in :class:`puma.training.dropout.ModalityDropout`.

    Args:
        share: how often, in [0, 1).
        seed: of the draw.

    Raises:
        InputError: the share is none.

    Examples:
        >>> from puma import Item
        >>> own = frozenset({"c"})
        >>> pair = Pair(Item(text="fox"), Item(image="fox.png"), "Find a picture.", 0, "q", "c", own, alike={"d"})
        >>> rows = [AnyModality(0.5)(pair, row) for row in range(9)]
        >>> sorted({(made.instruction, made.any_modality, len(made.known)) for made in rows})
        [('Find a picture.', False, 1), ('Find what this describes.', True, 2)]
    """

    def __init__(self, share: float, seed: int = 0) -> None:
        if not 0 <= share < 1:
            raise InputError(f"share={share!r}: give a number in [0, 1)")
        self.share, self.seed = share, seed
        self.epoch = 0
        """Whose draws are made; whoever hands over the rows sets it."""

    def __call__(self, pair: Pair, row: int) -> Pair:
        """The pair, or a copy whose query asks for no modality."""
        digest = hashlib.sha256(f"any:{self.seed}:{self.epoch}:{row}".encode()).digest()
        if int.from_bytes(digest[:8], "big") / 2**64 >= self.share:
            return pair
        instruction = INSTRUCTIONS[pair.query.modality, None]
        return replace(pair, instruction=instruction, any_modality=True, known=pair.known | pair.alike)


def with_any_instructions(
    instructions: dict[tuple[str, str | None], str], shares: Iterable[float]
) -> dict[tuple[str, str | None], str]:
    """The instructions a model was trained with, and for each of their query modalities the one that asks for none, if
    a stage drew such rows.

    Args:
        instructions: by (query modality, wanted modality).
        shares: ``any_share`` of every stage.
    """
    if not any(share > 0 for share in shares):
        return instructions
    queries = {query for query, _ in instructions}
    return {**instructions, **{(name, None): INSTRUCTIONS[name, None] for name in MODALITIES if name in queries}}
