"""Late interaction: every token of the query meets its most similar token of the candidate.

Source: late interaction by the sum of maximal similarities is ColBERT's (Khattab and Zaharia, SIGIR 2020, equation 3).
This is the mean over the query's tokens, which ranks the same and stays in [-1, 1] like the cosine beside it.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
import torch
from torch.nn import functional

from puma.errors import InputError, ModelError
from puma.index.exact.small import rounded
from puma.items.item import IMAGE, IMAGE_TEXT, TEXT, Item
from puma.retriever.encoding.loop import encode_batches
from puma.retriever.encoding.states import token_states
from puma.retriever.inputs import Inputs
from puma.retriever.model import Retriever

CACHE_BYTES = 2**30
Key = tuple[str | None, str, str | None, bool]


class LateInteraction:
    """For every token of the query its most similar token of the candidate; the mean of these cosines.

    The tokens are those of an item's content, its text and its image's patches, as the retriever's decoder leaves
    them after the final norm; what the prompt adds around them is left out, and ``[RET]`` too, whose cosine is the
    first stage. States are kept for items whose image is named by a path (which is taken to stay as it is), so that a
    candidate of many queries is computed once.

    Args:
        retriever: the model.
        instruction_tokens: whether the instruction's tokens count among the query's. They stand before the text and are
            read either way; counted, they look for their likes in a candidate that has no instruction.
        mean: [dim], subtracted from every state before it is normalised: decoder states share a large common part that
            says nothing (:meth:`fit_mean`).
        batch_size: items a forward pass.
        cache_bytes: the most that kept states may take.
    """

    def __init__(
        self,
        retriever: Retriever,
        *,
        instruction_tokens: bool = False,
        mean: np.ndarray | None = None,
        batch_size: int = 64,
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        if batch_size < 1:
            raise InputError(f"batch_size={batch_size}: give a whole number of at least 1")
        if mean is not None and np.shape(mean) != (retriever.dim,):
            raise InputError(f"mean must be [{retriever.dim}], got {list(np.shape(mean))}")
        self.retriever, self.instruction_tokens, self.batch_size = retriever, instruction_tokens, batch_size
        self.mean = mean
        self.cache_bytes = cache_bytes
        self._kept: OrderedDict[Key, np.ndarray] = OrderedDict()
        self._size = 0

    def rerank(self, query: Item, instruction: str | None, candidates: Sequence[Item]) -> np.ndarray:
        """As :class:`puma.search.reranking.stages.Reranker` says, in [-1, 1]; ImageError where an image cannot be
        opened."""
        if not candidates:
            return np.zeros(0, dtype=np.float32)
        query_states = self._centred(self.token_states([query], instruction)[0])
        states = [self._centred(rows) for rows in self.token_states(candidates)]
        return maxsim(query_states, states).astype(np.float32)

    def fit_mean(self, items: Sequence[Item]) -> np.ndarray:
        """Take the mean over the items' tokens for :attr:`mean`, and return it."""
        states = self.token_states(items)
        if not states:
            raise InputError("fit_mean needs at least one item")
        self.mean = np.concatenate(states).mean(0)
        return self.mean

    def token_states(self, items: Sequence[Item], instruction: str | None = None) -> list[np.ndarray]:
        """States after the final norm of each item's content tokens, raw, float32 [tokens, dim] each."""
        keys = [_key(item, instruction, self.instruction_tokens) for item in items]
        found: dict[int, np.ndarray] = {}
        for place, key in enumerate(keys):
            if key is not None and key in self._kept:
                self._kept.move_to_end(key)
                found[place] = self._kept[key]
        missing = [place for place in range(len(items)) if place not in found]
        made = self._forward([items[place] for place in missing], instruction)
        for place, rows in zip(missing, made, strict=True):
            found[place] = rows
            self._keep(keys[place], rows)
        return [found[place] for place in range(len(items))]

    def _keep(self, key: Key | None, rows: np.ndarray) -> None:
        if key is None or key in self._kept:
            return
        self._kept[key] = rows
        self._size += rows.nbytes
        while self._size > self.cache_bytes:
            _, old = self._kept.popitem(last=False)
            self._size -= old.nbytes

    def _forward(self, items: Sequence[Item], instruction: str | None) -> list[np.ndarray]:
        inputs = self.retriever.inputs
        out: dict[int, np.ndarray] = {}
        batches = encode_batches(
            self.retriever.model,
            inputs,
            items,
            instruction,
            batch_size=self.batch_size,
            forward=token_states,
            vision=self.retriever.vision,
            autocast=self.retriever.autocast,
        )
        for rows, features, states in batches:
            hidden = states.float().cpu()
            for number, place in enumerate(rows):
                ids = features["input_ids"][number][features["attention_mask"][number].bool()]
                mask = content_mask(inputs, items[place], instruction, ids, with_instruction=self.instruction_tokens)
                out[place] = hidden[number, : len(ids)][torch.from_numpy(mask)].numpy()
        return [out[place] for place in range(len(items))]

    def _centred(self, rows: np.ndarray) -> np.ndarray:
        shifted = torch.from_numpy(rows if self.mean is None else rows - self.mean)
        return functional.normalize(shifted, dim=-1).numpy()


def maxsim(query: np.ndarray, candidates: Sequence[np.ndarray]) -> np.ndarray:
    """The mean over the query's tokens of the largest cosine with a candidate's token.

    Args:
        query: [t, dim], unit rows, t >= 1.
        candidates: each [tokens, dim], unit rows, tokens >= 1.

    Returns:
        float64 [n], in [-1, 1], rounded to six decimals, so that equal candidates score equally.
    """
    starts = np.cumsum([0] + [len(rows) for rows in candidates[:-1]])
    cosines = query @ np.concatenate(candidates).T  # [t, all tokens]
    return rounded(np.maximum.reduceat(cosines, starts, axis=1).mean(0))


def content_mask(
    inputs: Inputs, item: Item, instruction: str | None, ids: torch.Tensor, *, with_instruction: bool = False
) -> np.ndarray:
    """Which of a sequence's tokens are the item's own: its text's and its image's, not the prompt's.

    The prompt is written out once more and cut into tokens with their places in the text; an image's one placeholder
    became many tokens, so what stands before it is counted from the left, what stands behind it from the right.

    Args:
        ids: int64 [length], without padding, as :meth:`Inputs.features` made them of this item and instruction.
        with_instruction: whether the instruction's tokens count, too.

    Returns:
        bool [length]; at least one is True.

    Raises:
        ModelError: the tokens are not those of the prompt, as with a processor that rewrites the text.
    """
    prompt = inputs.prompt
    written = inputs.written([item], instruction)[0]
    modality = (IMAGE_TEXT if item.text else IMAGE) if item.image is not None else TEXT
    words = inputs.clean(instruction).strip() if instruction else ""
    head, tail = prompt.parts(modality, words)
    spans = [(len(head), len(written) - len(tail))]
    if with_instruction and words:
        start = head.index(words, len(prompt.before))
        spans.append((start, start + len(words)))
    tokenized = inputs.tokenizer(written, return_offsets_mapping=True)
    places, tokens = tokenized["offset_mapping"], np.array(tokenized["input_ids"])
    own = np.array([any(a < end and b > start for start, end in spans) for a, b in places], dtype=bool)
    row = ids.cpu().numpy()
    if item.image is None:
        left, right = len(tokens), 0
    else:
        begin = written.index(prompt.image, len(prompt.before))
        left = sum(b <= begin for _, b in places)
        right = sum(a >= begin + len(prompt.image) for a, _ in places)
    end = len(row) - right
    fits = len(row) >= left + right and (item.image is not None or len(row) == left)
    if not fits or (row[:left] != tokens[:left]).any() or (row[end:] != tokens[len(tokens) - right :]).any():
        raise ModelError(
            "the processor's tokens are not those of the prompt, so an item's own tokens cannot be located"
        )
    mask = np.zeros(len(row), dtype=bool)
    mask[:left] = own[:left]
    mask[end:] = own[len(tokens) - right :]
    if item.image is not None:
        region = row[left:end]
        patch = inputs.tokenizer.convert_tokens_to_ids(getattr(inputs.processor, "image_token", None) or "<image>")
        mask[left:end] = (region == patch) if (region == patch).any() else True
    if not mask.any():
        mask[-1] = True  # a text that leaves no token of its own: [RET] stands for it
    return mask


def _key(item: Item, instruction: str | None, with_instruction: bool) -> Key | None:
    if item.image is not None and not isinstance(item.image, (str, os.PathLike)):
        return None
    return (
        item.text,
        "" if item.image is None else os.fspath(item.image),
        instruction,
        with_instruction and bool(instruction),
    )
