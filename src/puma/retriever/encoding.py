"""From items to batches of tensors and from hidden states to unit vectors: everything around the forward pass.

:class:`Inputs` writes items out and cuts their texts, :func:`prefetched` prepares batches of like length ahead of the
model, :func:`stored_vision` spares a frozen tower the work whose outputs are stored.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import itertools
import re
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch.nn import functional

from puma.errors import ImageError, InputError, ModelError
from puma.items.item import TEXT, Item
from puma.retriever.cores import usable_cores
from puma.retriever.decoding import decode_side, why_refused
from puma.retriever.pooling import last_token_state
from puma.retriever.prompts import RET, PromptFormat, control_tokens

CPU_PASS_CHARACTERS = 400
"""What a forward pass costs on a CPU beside its texts, in characters of text. There padding costs as much as text, so
texts of unlike lengths are better divided (docs/log.md, 2026-11-23: three times as many a second)."""
PROMPT_CHARACTERS = 48
"""About what the prompt adds to a text."""


class VisionFeatures(Protocol):
    """A source of a frozen vision tower's outputs, by image."""

    def lookup(self, item: Item) -> np.ndarray | None:
        """The tower's output for the item's image, [channels, height, width], or None where it has none."""


class Inputs:
    """Turns items into a model's input tensors.

    Args:
        processor: the model's processor; its tokenizer knows ``[RET]``.
        prompt: how items are written out.

    Raises:
        ModelError: the tokenizer has no ``[RET]`` token.
    """

    def __init__(self, processor: Any, prompt: PromptFormat) -> None:
        self.processor, self.prompt = processor, prompt
        self.draft = False
        """Whether JPEGs are decoded small where the processor makes them small anyway: faster, and not the very same
        pixels (:mod:`puma.retriever.decoding`). Training does; vectors that are kept come of the full image."""
        self.tokenizer = processor.tokenizer
        self.ret_id = self.tokenizer.convert_tokens_to_ids(RET)
        if self.ret_id is None or self.ret_id == self.tokenizer.unk_token_id:
            raise ModelError(f"the tokenizer has no {RET} token: make a retriever of the base (puma train, from_base)")
        self._special = re.compile("|".join(re.escape(token) for token in control_tokens(processor)))

    @property
    def _image_token(self) -> str:
        return getattr(self.processor, "image_token", None) or "<image>"

    def clean(self, text: str) -> str:
        """A text without the power to be taken for control tokens, cut to the format's limit in tokens.

        A ``[RET]`` or ``<image>`` typed by a user gets a space inside, so that it is read as plain letters.
        """
        text = self._special.sub(lambda match: f"{match.group()[0]} {match.group()[1:]}", text)
        limit = self.prompt.max_text_tokens
        if len(text) <= limit:  # a token is at least one character
            return text
        offsets = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, truncation=False)[
            "offset_mapping"
        ]
        return text if len(offsets) <= limit else text[: offsets[limit - 1][1]]

    def written(self, items: Sequence[Item], instruction: str | None = None) -> list[str]:
        """The items written out, texts cut, each ending in ``[RET]``."""
        asked = self.clean(instruction) if instruction else None
        return [
            self.prompt.render(self.clean(item.text) if item.text else None, item.image is not None, asked)
            for item in items
        ]

    def features(
        self,
        items: Sequence[Item],
        instructions: Sequence[str | None] | str | None = None,
        vision: VisionFeatures | None = None,
    ) -> dict[str, torch.Tensor]:
        """One padded batch. Items with and without images may mix where the processor allows it.

        Args:
            items: n items.
            instructions: one for all, or one an item.
            vision: where the tower's outputs may be found; they are used only if every image of the batch is there.

        Returns:
            ``input_ids`` and ``attention_mask`` [n, length] and the processor's image tensors; with stored features
            ``pixel_values`` holds those, [images, channels, height, width].

        Raises:
            ImageError: an image cannot be opened.
        """
        if isinstance(instructions, str) or instructions is None:
            instructions = [instructions] * len(items)
        texts = [self.written([item], asked)[0] for item, asked in zip(items, instructions, strict=True)]
        with_image = [item for item in items if item.image is not None]
        stored = [vision.lookup(item) for item in with_image] if vision is not None else []
        if with_image and stored and all(row is not None for row in stored):
            pixels = torch.from_numpy(np.stack(stored)).float()  # type: ignore[arg-type]
            # The projector reads positions as rows: in this layout that view costs no copy in the step.
            pixels = pixels.contiguous(memory_format=torch.channels_last)
            texts = [text.replace(self._image_token, self._image_token * pixels[0, 0].numel()) for text in texts]
            batch = dict(self.tokenizer(texts, **_PADDED))
            batch["pixel_values"] = pixels
        elif with_image:
            side = functools.partial(decode_side, self.processor) if self.draft else None
            opened = (None if item.image is None else item.open_image(least_side=side) for item in items)
            images = [[] if image is None else [within_limits(image)] for image in opened]
            try:
                batch = dict(self.processor(text=texts, images=images, **_PADDED))
            except Exception:  # a processor raises almost anything on an image that it does not expect
                self._name_refused(items, images)
                raise
        else:
            batch = dict(self.tokenizer(texts, **_PADDED))
        batch.pop("token_type_ids", None) if not with_image else None
        self._check(batch["input_ids"], batch["attention_mask"])
        return batch

    def _name_refused(self, items: Sequence[Item], images: Sequence[Sequence[Any]]) -> None:
        """Raise an ImageError for the first image that the image processor refuses by itself."""
        for item, held in zip(items, images, strict=True):
            for image in held:
                reason = why_refused(self.processor, image)
                if reason is not None:
                    raise ImageError(f"{item.image_name}: {reason}") from None

    def _check(self, ids: torch.Tensor, mask: torch.Tensor) -> None:
        counts = (ids == self.ret_id).sum(1)
        if not bool((counts == 1).all()):
            raise ModelError(
                f"every sequence must hold {RET} exactly once, got {counts.tolist()}: the processor cut or doubled it"
            )
        last = last_token_state(ids, mask)
        if not bool((last == self.ret_id).all()):
            wrong = self.tokenizer.convert_ids_to_tokens(int(last[last != self.ret_id][0]))
            raise ModelError(
                f"{RET} must be the last token of every sequence, and {wrong!r} is: the tokenizer appends it; make the "
                "retriever anew of its base (Retriever.from_base keeps tokenizers from that)"
            )


_PADDED = {"padding": True, "return_tensors": "pt", "padding_side": "right", "add_special_tokens": False}
"""The prompt holds every special token there is (:func:`puma.retriever.prompts.with_special_tokens`)."""

LARGEST_RATIO = 200
"""Of an image's sides: Qwen-VL's processors refuse more."""
SHORTEST_SIDE = 4
"""In pixels: below it image processors take a side for the number of channels."""


def within_limits(image: Any) -> Any:
    """An image that every processor takes: one of extreme shape has its short side stretched to a 200th of the long
    one, and to four pixels at least. Others are returned as they are."""
    width, height = image.size
    least = max(SHORTEST_SIDE, -(-max(width, height) // LARGEST_RATIO))
    if min(width, height) >= least:
        return image
    return image.resize((max(width, least), max(height, least)))


def why_unusable(inputs: Inputs | None, item: Item) -> str | None:
    """Why the item's image cannot be opened or, where ``inputs`` are given, is refused by the processor; else None."""
    try:
        if inputs is None:
            item.open_image()
        elif item.image is not None:
            inputs.features([item])
    except ImageError as error:
        return str(error)
    return None


def forward_states(model: Any, features: dict[str, torch.Tensor]) -> torch.Tensor:
    """The raw (not normalised) states at ``[RET]`` after the final norm, [n, dim], in fp32."""
    kind = model.dtype
    if kind in (torch.bfloat16, torch.float16):  # not every family casts its pixels to its weights' type
        features = {key: value.to(kind) if value.is_floating_point() else value for key, value in features.items()}
    hidden = model(**features, use_cache=False).last_hidden_state
    return last_token_state(hidden, features["attention_mask"]).float()


def encode_items(
    model: Any,
    inputs: Inputs,
    items: Sequence[Item],
    *,
    instruction: str | Sequence[str | None] | None = None,
    batch_size: int = 64,
    show_progress: bool = False,
    vision: VisionFeatures | None = None,
    autocast: torch.dtype | None = None,
) -> np.ndarray:
    """Embed items: float32 [n, dim], unit rows, in the order given. The loop under ``Retriever.encode``."""
    from tqdm import tqdm

    if batch_size < 1:
        raise InputError(f"batch_size={batch_size}: give a whole number of at least 1")
    asked = [instruction] * len(items) if instruction is None or isinstance(instruction, str) else list(instruction)
    if len(asked) != len(items):
        raise InputError(f"instruction: {len(asked)} of them for {len(items)} items; give one for all, or one an item")
    device = next(model.parameters()).device
    out: np.ndarray | None = None
    groups = length_sorted_groups(items, batch_size, asked, CPU_PASS_CHARACTERS if device.type == "cpu" else None)
    threads = preparing_threads(device) if any(item.image is not None for item in items) else 1
    if threads > 1:
        inputs = for_threads(inputs)

    def prepare(rows: list[int]) -> dict[str, torch.Tensor]:
        features = inputs.features([items[i] for i in rows], [asked[i] for i in rows], vision)
        # Out of pinned memory a copy to the device does not hold up what feeds it.
        return {key: value.pin_memory() for key, value in features.items()} if device.type == "cuda" else features

    gate = stored_vision(model) if vision is not None else contextlib.nullcontext()
    with (
        tqdm(total=len(items), unit="item", desc="embedding", disable=not show_progress) as bar,
        torch.inference_mode(),
        gate,
    ):
        for rows, features in prefetched(groups, prepare, threads):
            moved = {key: value.to(device, non_blocking=True) for key, value in features.items()}
            with torch.autocast(device.type, dtype=autocast, enabled=autocast is not None):
                states = forward_states(model, moved)
            vectors = functional.normalize(states, dim=-1).cpu().numpy()
            if out is None:
                out = np.empty((len(items), vectors.shape[1]), dtype=np.float32)
            out[rows] = vectors
            bar.update(len(rows))
    if out is None:
        out = np.empty((0, model.get_input_embeddings().weight.shape[1]), dtype=np.float32)
    return out


def length_sorted_groups(
    items: Sequence[Item],
    batch_size: int,
    instructions: Sequence[str | None] | None = None,
    pass_characters: int | None = None,
) -> list[list[int]]:
    """Row numbers in batches of like kind and length: images apart from texts, longest first, so that padding is
    small and a shortage of memory shows at once.

    Args:
        instructions: one an item, which lengthen it.
        pass_characters: what a forward pass costs beside its texts, in characters of text. If given, texts are divided
            into the batches that cost least, padding counted; else every batch but the last is full.
    """
    lengths = [len(item.text or "") for item in items]
    if instructions is not None:
        lengths = [length + len(asked or "") for length, asked in zip(lengths, instructions, strict=True)]
    order = sorted(range(len(items)), key=lambda i: (items[i].modality != TEXT, lengths[i]), reverse=True)
    groups: list[list[int]] = []
    for with_image in (True, False):
        rows = [i for i in order if (items[i].image is not None) == with_image]
        ends = list(range(batch_size, len(rows), batch_size)) + [len(rows)] * bool(rows)
        if not with_image and pass_characters is not None:
            ends = _cheapest_ends([lengths[i] + PROMPT_CHARACTERS for i in rows], batch_size, pass_characters)
        groups += [rows[start:end] for start, end in itertools.pairwise([0, *ends])]
    return groups


def _cheapest_ends(lengths: Sequence[int], most: int, fixed: int) -> list[int]:
    """Where to end the batches of rows sorted by falling length, so that the sum of ``fixed + rows * longest`` over the
    batches, of at most ``most`` rows each, is smallest."""
    best, before = [0.0], [0]
    for end in range(1, len(lengths) + 1):
        costs = [
            (best[start] + fixed + (end - start) * lengths[start], start) for start in range(max(0, end - most), end)
        ]
        cost, start = min(costs)
        best.append(cost)
        before.append(start)
    ends, end = [], len(lengths)
    while end:
        ends.append(end)
        end = before[end]
    return ends[::-1]


Prepared = TypeVar("Prepared")


def prefetched(
    groups: Sequence[list[int]], prepare: Callable[[list[int]], Prepared], threads: int = 1
) -> Iterator[tuple[list[int], Prepared]]:
    """Prepare the next batches on other threads while the model works on this one.

    Args:
        groups: what ``prepare`` is called with, one a batch.
        prepare: called on one of the threads; it must be safe on several where there are several.
        threads: how many; as many batches, and one more, are in memory at most.

    Yields:
        (group, what was made of it), in the order of the groups. What ``prepare`` raises is raised here, at its group.
    """
    if threads < 1:
        raise InputError(f"threads={threads}: give a number of at least 1")
    left = iter(groups)
    coming: deque[tuple[list[int], Future[Prepared]]] = deque()
    with ThreadPoolExecutor(max_workers=threads, thread_name_prefix="puma-prepare") as pool:
        try:
            coming.extend((rows, pool.submit(prepare, rows)) for rows in itertools.islice(left, threads))
            while coming:
                rows, future = coming.popleft()
                made = future.result()
                coming.extend((rows, pool.submit(prepare, rows)) for rows in itertools.islice(left, 1))
                yield rows, made
        finally:
            pool.shutdown(wait=False, cancel_futures=True)  # on an early end: what has not begun need not


def preparing_threads(device: torch.device) -> int:
    """How many threads prepare batches of images for a model on this device: one where the model itself works on the
    cores, up to four where they are free (decoders and arrays leave Python's lock, the rest of the work holds it)."""
    return 1 if device.type == "cpu" else max(1, min(4, usable_cores() - 1))


class _OneAtATime:
    """A tokenizer that several threads may call: a fast one must not be set up by one while another uses it."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer, self._lock = tokenizer, threading.Lock()

    def __call__(self, *args: Any, **options: Any) -> Any:
        with self._lock:
            return self._tokenizer(*args, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)


def for_threads(inputs: Inputs) -> Inputs:
    """The same inputs, safe to be used by several threads at once."""
    shared = copy.copy(inputs)
    shared.tokenizer = _OneAtATime(inputs.tokenizer)
    shared.processor = copy.copy(inputs.processor)
    shared.processor.tokenizer = shared.tokenizer
    return shared


def has_fast_bf16() -> bool:
    """Whether bf16 is faster than fp32 here: on CUDA, and on CPUs with bf16 instructions. On others it is emulated, and
    slower."""
    if torch.cuda.is_available():
        return True
    tell = getattr(torch.cpu, "get_capabilities", None)  # an older torch cannot tell
    capabilities: dict[str, Any] = dict(tell()) if tell else {}
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))


@contextlib.contextmanager
def stored_vision(model: Any) -> Iterator[None]:
    """Within the block, the vision tower passes stored outputs through: ``pixel_values`` [n, channels, height, width]
    with other than 3 channels are taken for its own last hidden state. Images still go through it as ever.

    Only for towers whose output is such a map (FastVLM). The tower's class is exchanged, not wrapped, so that the names
    of its weights stay what they are in checkpoints.
    """
    tower = model.get_encoder("image")
    original = type(tower)
    if issubclass(original, _StoredVision):
        yield
        return
    tower.__class__ = type(f"Stored{original.__name__}", (_StoredVision, original), {})
    try:
        yield
    finally:
        tower.__class__ = original


class _StoredVision:
    def forward(self, pixel_values: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        if pixel_values.ndim == 4 and pixel_values.shape[1] != 3:
            from transformers.modeling_outputs import BaseModelOutputWithPooling

            return BaseModelOutputWithPooling(last_hidden_state=pixel_values)
        return super().forward(pixel_values, *args, **kwargs)  # type: ignore[misc]
