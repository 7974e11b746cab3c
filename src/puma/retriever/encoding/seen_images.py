"""What the model saw in an image, kept for the next item that shows it, which then needs neither decoder nor tower.

transformers' models take the outputs of their vision tower as ``mm_encoder_outputs``. What else of a batch depends on
an image (its tokens, its grid) is cut out of what the processor made of it, and used only where that is surely the same
beside another text.
"""

from __future__ import annotations

import hashlib
import inspect
from collections import Counter
from collections.abc import Hashable, Sequence
from types import SimpleNamespace
from typing import Any
from weakref import WeakKeyDictionary

import torch

from puma.items.item import Item
from puma.retriever.encoding.bounded import IMAGE_BYTES, BoundedMemory
from puma.retriever.encoding.image_cache import ImageCache
from puma.retriever.encoding.repeats import CONTENT, Key, are_few, content_keys
from puma.retriever.encoding.seen import Seen, from_bytes, to_bytes
from puma.retriever.encoding.states import Features, cast_features, weights_stamp
from puma.retriever.encoding.vision_identity import processing, vision_identity
from puma.retriever.inputs import Inputs

MEMORIES: WeakKeyDictionary[torch.nn.Module, BoundedMemory[Seen]] = WeakKeyDictionary()
"""Of each model the images that later calls may use."""


def takes_seen_images(model: Any) -> bool:
    """Whether a model can be given the outputs of its tower in place of images."""
    return (
        hasattr(model, "get_image_features")
        and "mm_encoder_outputs" in inspect.signature(model.forward).parameters
        and hasattr(model.config, "image_token_id")
    )


class SeenImages:
    """The images of one call that come again, in it or in another.

    Args:
        model: one that :func:`takes_seen_images`.
        inputs: its input maker.
        items: the call's items.
        instructions: one an item.
        keys: of their images, as :func:`puma.retriever.encoding.repeats.image_keys` gives them.
        autocast: the type to compute in; None for the weights' own.
        disk: where all images are looked up and kept, beside the memory; None for nowhere.
    """

    def __init__(
        self,
        model: Any,
        inputs: Inputs,
        items: Sequence[Item],
        instructions: Sequence[str | None],
        keys: Sequence[Key | None],
        autocast: torch.dtype | None = None,
        disk: ImageCache | None = None,
    ) -> None:
        self._inputs, self._items, self._instructions = inputs, items, instructions
        images = [item.image for item in items]
        few = are_few(images)
        weights = weights_stamp(model) if few or disk is not None else None
        identity = None if disk is None else vision_identity(model, inputs, autocast, weights)
        self._disk = None if identity is None else disk
        lasting = few or self._disk is not None
        keys = content_keys(images, keys) if lasting else keys
        counts = Counter(key for key in keys if key is not None)
        comes_again = {key for key, count in counts.items() if (key[0] == CONTENT if lasting else count > 1)}
        # What is kept for other calls is worth nothing once the weights or the processor are others.
        stamp = (weights, processing(inputs), autocast) if few else None
        self._keys: list[Hashable] = [(stamp, key) if key in comes_again else None for key in keys]
        self._on_disk: dict[Hashable, bytes] = {}
        """The keys of the same entries on the disk."""
        if identity is not None:
            self._on_disk = {own: _disk_key(identity, own[1]) for own in self._keys if isinstance(own, tuple)}
        self._memory = MEMORIES.setdefault(model, BoundedMemory(IMAGE_BYTES)) if few else BoundedMemory(IMAGE_BYTES)
        self.again: list[bool] = []
        """Of each item whether its image will have been seen when the others before it have."""
        stored = self._stored = self._disk.present(self._on_disk.values()) if self._disk is not None else set()
        known = {
            key for key in self._keys if key is not None and (key in self._memory or self._on_disk.get(key) in stored)
        }
        for key in self._keys:
            self.again.append(key in known)
            known.add(key) if key is not None else None
        self._takes = set(inspect.signature(model.get_image_features).parameters)
        self._image_token: int = model.config.image_token_id
        self._placeholder: list[int] = inputs.tokenizer(inputs.prompt.image, add_special_tokens=False)["input_ids"]
        added = set(inputs.tokenizer.get_added_vocab().values())
        # Tokens that may join with a neighbour could be others beside another text.
        self._apart = added if added.issuperset(self._placeholder) else set()

    def features(self, rows: Sequence[int], ids: Sequence[list[int]], device: torch.device) -> Features | None:
        """The model's inputs for items whose images it has all seen; None where one is not, or no longer, there.
        They are on the CPU, but for what the tower has made.

        Args:
            rows: positions of the items.
            ids: their tokens, as :meth:`puma.retriever.inputs.Inputs.token_ids` gives them.
            device: of the model.
        """
        seen: list[Seen] = []
        parts: list[tuple[list[int], list[int]]] = []
        recalled = self._recalled([self._keys[row] for row in rows], device)
        for row, own in zip(rows, ids, strict=True):
            one, around = recalled.get(self._keys[row]), self._around(own)
            if one is None or around is None:
                return None
            seen.append(one)
            parts.append(around)
        pairs = list(zip(parts, seen, strict=True))
        batch: dict[str, Any] = self._inputs.padded([[*before, *one.ids, *after] for (before, after), one in pairs])
        for name in seen[0].per_token:
            batch[name] = torch.zeros_like(batch["input_ids"])
            for n, ((before, _), one) in enumerate(pairs):
                batch[name][n, len(before) : len(before) + len(one.ids)] = one.per_token[name]
        for name in seen[0].per_image:
            batch[name] = torch.cat([one.per_image[name] for one in seen])
        states = [one.states for one in seen]
        deeper = [list(layer) for layer in zip(*(one.deeper for one in seen), strict=True)]
        outputs = SimpleNamespace(pooler_output=torch.stack(states) if seen[0].stacked else states)
        outputs.deepstack_features = deeper
        batch["mm_encoder_outputs"] = {"image": outputs}
        return batch

    def look(self, model: Any, features: Features, rows: Sequence[int]) -> Features:
        """Send a batch's images through the tower, and keep of them what comes again; returns inputs that hold the
        outcome. A batch in which nothing comes again is returned as it is.

        Args:
            model: the model.
            features: the batch's inputs, on the model's device.
            rows: positions of its items.
        """
        if "pixel_values" not in features or all(self._keys[row] is None for row in rows):
            return features
        features = cast_features(model, features)
        given = {name: value for name, value in features.items() if name in self._takes}
        outputs = model.get_image_features(**given, return_dict=True)
        new: dict[bytes, bytes] = {}
        for row, one in zip(rows, self._cut(features, outputs, rows), strict=True):
            key = self._keys[row]
            if one is not None and key is not None:
                self._memory.put(key, one)
                if key in self._on_disk:
                    new[self._on_disk[key]] = to_bytes(one)
        self._store(new)
        left: dict[str, Any] = {name: value for name, value in features.items() if not name.startswith("pixel_")}
        left["mm_encoder_outputs"] = {"image": outputs}
        return left

    def _store(self, values: dict[bytes, bytes]) -> None:
        if self._disk is not None and values:
            self._disk.put(values)
            self._stored |= values.keys()

    def _recalled(self, keys: Sequence[Hashable], device: torch.device) -> dict[Hashable, Seen]:
        """What is known of images, from the memory, else from the disk."""
        found = {key: one for key in keys if (one := self._memory.get(key)) is not None}
        if self._disk is None:
            return found
        # What was kept before there was this disk goes onto it, too.
        kept = {self._on_disk[key]: one for key, one in found.items() if key in self._on_disk}
        self._store({own: to_bytes(one) for own, one in kept.items() if own not in self._stored})
        left = {self._on_disk[key]: key for key in keys if key not in found and key in self._on_disk}
        for own, data in self._disk.get(left).items():
            one = from_bytes(data, device)
            if one is not None:
                self._memory.put(left[own], one)
                found[left[own]] = one
        return found

    def _cut(self, features: Features, outputs: Any, rows: Sequence[int]) -> list[Seen | None]:
        """What was seen in each row's image; None where it cannot be told apart from what is around it."""
        nothing: list[Seen | None] = [None] * len(rows)
        values = {name: value.cpu() for name, value in features.items() if not name.startswith("pixel_")}
        ids, lengths = values.pop("input_ids"), values.pop("attention_mask").sum(1).tolist()
        counts = (ids == self._image_token).sum(1).tolist()
        pooled = outputs.pooler_output
        stacked = isinstance(pooled, torch.Tensor)
        if (stacked and pooled.ndim != 3) or [len(one) for one in pooled] != counts:
            return nothing
        deeper = getattr(outputs, "deepstack_features", None) or ()  # of each layer a tensor an image
        per_token = {name: value for name, value in values.items() if value.shape == ids.shape}
        per_image = {name: value for name, value in values.items() if name not in per_token}
        if any(len(value) != len(rows) for value in per_image.values()):
            return nothing
        written = self._inputs.token_ids([self._items[row] for row in rows], [self._instructions[row] for row in rows])
        found = nothing
        for n, (own, length) in enumerate(zip(written, lengths, strict=True)):
            around, read = self._around(own), ids[n, :length].tolist()
            if around is None:
                continue
            before, after = around
            start, end = len(before), length - len(after)
            if (
                read[:start] != before
                or read[end:] != after
                or not self._apart.issuperset({*read[start:end][:1], *read[start:end][-1:]})
            ):
                continue
            if any(value[n, :start].any() or value[n, end:].any() for value in per_token.values()):
                continue
            found[n] = Seen(
                tuple(read[start:end]),
                {name: value[n, start:end].clone() for name, value in per_token.items()},
                {name: value[n : n + 1].clone() for name, value in per_image.items()},
                pooled[n].clone(),
                tuple(part[n].clone() for part in deeper),
                stacked,
            )
        return found

    def _around(self, ids: list[int]) -> tuple[list[int], list[int]] | None:
        """The tokens before and after an image's placeholder; None where it is not there once."""
        own = self._placeholder
        places = [n for n in range(len(ids) - len(own) + 1) if ids[n : n + len(own)] == own]
        if len(places) != 1 or not self._apart:
            return None
        return ids[: places[0]], ids[places[0] + len(own) :]


def _disk_key(identity: bytes, key: Key) -> bytes:
    """The key on the disk of an image of this content, as a model of this identity sees it."""
    return hashlib.blake2b(repr(key).encode(), key=identity, digest_size=16).digest()
