"""A retriever's tokenizer by itself: how long texts are, whether their end is cut off, and texts from token numbers."""

from __future__ import annotations

import copy
import functools
import threading
from collections.abc import Sequence
from typing import Any

from puma.errors import InputError
from puma.retriever.writing import PromptWriter


class TextTokens:
    """Counts and decodes tokens. Several threads may use it, also while the retriever embeds: it has a tokenizer of its
    own, copied when it is first needed.

    Args:
        inputs: of the retriever: its tokenizer and how it writes texts.
    """

    def __init__(self, inputs: PromptWriter) -> None:
        self.limit = inputs.prompt.max_text_tokens
        """Tokens of a text that the model reads; what comes after them is cut off."""
        self._inputs, self._lock = inputs, threading.Lock()

    @functools.cached_property
    def _tokenizer(self) -> Any:
        return copy.deepcopy(self._inputs.tokenizer)

    def count(self, text: str) -> int:
        """Tokens of a whole text, as the model would read it without a limit."""
        with self._lock:
            return len(
                self._tokenizer(self._inputs.harmless(text), add_special_tokens=False, truncation=False)["input_ids"]
            )

    def is_cut(self, text: str | None) -> bool:
        """Whether the model does not read all of a text."""
        # A token is at least one character.
        return text is not None and len(self._inputs.harmless(text)) > self.limit and self.count(text) > self.limit

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token numbers.

        Raises:
            InputError: they are not what this tokenizer makes of a text, so they are another tokenizer's.
        """
        size, special = len(self._tokenizer), {*self._tokenizer.all_special_ids, self._inputs.ret_id}
        unknown = next((number for number in ids if not 0 <= number < size or number in special), None)
        if unknown is not None:
            raise InputError(f"token {unknown} is none of the {size:,} that stand for text here; {_FOREIGN}")
        with self._lock:
            text: str = self._tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
            again = self._tokenizer(text, add_special_tokens=False, truncation=False)["input_ids"]
        if list(again) != list(ids):
            raise InputError(f"these tokens are not how this model writes {text!r:.80}; {_FOREIGN}")
        return text


_FOREIGN = "they seem to be of another model's tokenizer (OpenAI's, as LangChain sends them); send the text itself"
