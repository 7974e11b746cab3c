"""Items written out as a model reads them: control tokens made harmless, texts cut to the limit. Loads no torch."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from puma.errors import InputError
from puma.items.item import TEXT, Item
from puma.retriever.prompts import PromptFormat


class PromptWriter:
    """Writes items out in a model's prompt; what tokenises them inherits it.

    Args:
        prompt: how items are written out.
        control: strings that the model reads as control tokens, longest first
            (:func:`puma.retriever.prompts.control_tokens`).
    """

    tokenizer: Any
    """Called as transformers' tokenizers are, on one text."""
    ret_id: int
    """The number of ``[RET]``."""

    def __init__(self, prompt: PromptFormat, control: Sequence[str]) -> None:
        self.prompt = prompt
        self._special = re.compile("|".join(re.escape(token) for token in control))

    def offsets(self, text: str) -> Sequence[tuple[int, int]]:
        """Where each token of a text begins and ends, in characters; no token is added, and nothing is cut."""
        raise NotImplementedError

    def harmless(self, text: str) -> str:
        """A text without the power to be taken for control tokens: a ``[RET]`` or ``<image>`` typed by a user gets a
        space inside, so that it is read as plain letters."""
        return self._special.sub(lambda match: f"{match.group()[0]} {match.group()[1:]}", text)

    def clean(self, text: str) -> str:
        """A :meth:`harmless` text, cut to the format's limit in tokens."""
        text = self.harmless(text)
        limit = self.prompt.max_text_tokens
        if len(text) <= limit:  # a token is at least one character
            return text
        offsets = self.offsets(text)
        return text if len(offsets) <= limit else text[: offsets[limit - 1][1]]

    def written(self, items: Sequence[Item], instructions: Sequence[str | None] | str | None = None) -> list[str]:
        """The items written out, texts cut, each ending in ``[RET]``.

        Args:
            items: n items.
            instructions: one for all, or one an item.
        """
        instructions = one_an_item(instructions, items)
        cleaned = {one: self.clean(one) if one else None for one in set(instructions)}
        return [self._written(item, cleaned[one]) for item, one in zip(items, instructions, strict=True)]

    def _written(self, item: Item, instruction: str | None) -> str:
        return self.prompt.render(self.clean(item.text) if item.text else None, item.image is not None, instruction)

    def written_head(self, modality: str, instruction: str | None) -> str:
        """What stands before an item's own text or image."""
        head, _ = self.prompt.parts(modality, self.clean(instruction) if instruction else None)
        return head.split(self.prompt.image, 1)[0] if modality != TEXT else head


def one_an_item(instructions: Sequence[str | None] | str | None, items: Sequence[Item]) -> Sequence[str | None]:
    """The instructions of n items, [n].

    Args:
        instructions: one for all, or one an item.

    Raises:
        InputError: there are more or fewer than items.
    """
    if instructions is None or isinstance(instructions, str):
        return [instructions] * len(items)
    if len(instructions) != len(items):
        raise InputError(
            f"instruction: {len(instructions)} of them for {len(items)} items; give one for all, or one an item"
        )
    return instructions
