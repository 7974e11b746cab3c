"""A folder's tokenizer by the ``tokenizers`` library alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from puma.errors import ModelError, first_line
from puma.items.item import Item
from puma.retriever.onnx.layout import TOKENIZER, Export
from puma.retriever.prompts import PromptFormat
from puma.retriever.writing import PromptWriter


class Tokens:
    """A tokenizer that nobody sets up once it is loaded, so that any number of threads may use it. Called as
    transformers' tokenizers are.

    Args:
        file: the tokenizer's JSON file.
        special_ids: token numbers that stand for no text.

    Raises:
        ModelError: the file cannot be read.
    """

    def __init__(self, file: Path, special_ids: Sequence[int]) -> None:
        from tokenizers import Tokenizer

        try:
            self.plain = Tokenizer.from_file(str(file))
        except Exception as error:  # the library raises plain Exceptions
            raise ModelError(f"{file}: cannot be read as a tokenizer ({first_line(error)}); export it again") from None
        self.plain.no_truncation()
        self.plain.no_padding()
        self.all_special_ids = list(special_ids)

    def __call__(self, text: str, **_: Any) -> dict[str, Any]:
        found = self.plain.encode(text, add_special_tokens=False)
        return {"input_ids": found.ids, "offset_mapping": found.offsets}

    def __len__(self) -> int:
        return int(self.plain.get_vocab_size(with_added_tokens=True))

    def __deepcopy__(self, memo: dict[int, Any]) -> Tokens:
        return self

    def decode(self, ids: Sequence[int], **_: Any) -> str:
        """The text of token numbers, special ones included."""
        return str(self.plain.decode(list(ids), skip_special_tokens=False))


class TokenWriter(PromptWriter):
    """Writes items out in an exported model's prompt and tokenises them.

    Args:
        folder: the exported model's.
        export: what that says of itself.
        prompt: how items are written out.
    """

    def __init__(self, folder: Path, export: Export, prompt: PromptFormat) -> None:
        super().__init__(prompt, export.control)
        self.tokenizer = Tokens(folder / TOKENIZER, export.special_ids)
        self.ret_id = export.ret_id
        found = self.tokenizer.plain.token_to_id(export.image_token)
        self.image_id = -1 if found is None else int(found)
        """The number of an image's placeholder; -1 for a tokenizer without."""

    def offsets(self, text: str) -> list[tuple[int, int]]:
        """As :meth:`puma.retriever.writing.PromptWriter.offsets`."""
        return list(self.tokenizer(text)["offset_mapping"])

    def head(self, modality: str, instruction: str | None) -> list[int]:
        """The token numbers of what stands before an item's own text or image; the last may join with a text."""
        head = self.written_head(modality, instruction)
        return list(self.tokenizer(head)["input_ids"]) if head else []

    def token_lists(self, items: Sequence[Item], instructions: Sequence[str | None]) -> list[list[int]]:
        """The token numbers of each item in its prompt, with one placeholder for an image."""
        texts = self.written(items, instructions)
        return [list(found.ids) for found in self.tokenizer.plain.encode_batch_fast(texts, add_special_tokens=False)]

    def with_image(self, ids: Sequence[int], written: str) -> list[int]:
        """An item's tokens with those of ``written`` in the place of the image's placeholder."""
        place = list(ids).index(self.image_id)
        return [*ids[:place], *self.tokenizer(written)["input_ids"], *ids[place + 1 :]]
