"""Embedding with onnxruntime: an exported retriever behind the same methods. Loads neither torch nor transformers."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from puma.errors import DependencyError, ImageError, InputError, ModelError, install_command, is_installed
from puma.items.dimensions import checked_dimensions, shortened
from puma.items.item import IMAGE, Item, as_items
from puma.pruning.cards import own_metadata
from puma.retriever.encoding.batches import CPU_MOST_TOKENS, CPU_PASS_TOKENS, length_sorted_batches, prefetched
from puma.retriever.encoding.beginnings import PREFIX_BYTES, SHORTEST_PREFIX
from puma.retriever.encoding.bounded import BoundedMemory
from puma.retriever.encoding.image_cache import ImageCache
from puma.retriever.encoding.repeats import first_of_each
from puma.retriever.images.patches import Patches
from puma.retriever.images.pixels import Preprocessing
from puma.retriever.images.sizes import size_in_file
from puma.retriever.onnx.layout import TEXT_GRAPH, Export
from puma.retriever.onnx.photo_classifier import read_classifier
from puma.retriever.onnx.prefixes import Prefix, common_length
from puma.retriever.onnx.seeing import plane_positions, stand_in
from puma.retriever.onnx.seen_images import Prepared, SeenImage, SeenImages, VisionSide
from puma.retriever.onnx.sessions import session
from puma.retriever.onnx.tokens import TokenWriter
from puma.retriever.photographs.classifier import PhotoClassifier, Shown
from puma.retriever.prompts import PromptFormat
from puma.retriever.text_tokens import TextTokens
from puma.retriever.trained_with import read_instructions
from puma.retriever.writing import one_an_item


class OnnxRetriever:
    """A retriever that was exported: it embeds as :class:`puma.retriever.model.Retriever` does, and has no weights that
    could be trained or saved again.

    Args:
        export: what the folder says of itself.
        prompt: how items are written out.
        folder: of the graphs and the tokenizer.

    Raises:
        DependencyError: onnxruntime is not installed.
        ModelError: a graph or the tokenizer cannot be loaded.
    """

    mixed_instructions = counts_tokens = True

    def __init__(self, export: Export, prompt: PromptFormat, folder: Path) -> None:
        if not is_installed("onnxruntime"):
            raise DependencyError(
                f"model {str(folder)!r}: an ONNX export, needs onnxruntime, which is not installed: pip install "
                f"onnxruntime (or {install_command('onnx').removeprefix('pip install ')}, to make exports too)"
            )
        self.export, self.prompt, self.folder = export, prompt, folder
        self.writer = TokenWriter(folder, export, prompt)
        self.instructions = read_instructions(folder)
        self.about: dict[str, Any] = own_metadata(folder)
        self._text = session(folder / TEXT_GRAPH)
        self._width = next(int(one.shape[1]) for one in self._text.get_inputs() if one.name == "image_features")
        self._prefixes = BoundedMemory[Prefix](PREFIX_BYTES)
        self._vision = VisionSide(export, folder, self._width)
        self.image_cache: ImageCache | None = None
        """Where what it sees in images is kept for other runs, in addition to its memory of the last calls."""

    def __getattr__(self, name: str) -> Any:
        if name in _OF_WEIGHTS:
            raise NoWeightsError(
                f"model {str(self.folder)!r}: an ONNX export only embeds; for anything else name the model that it was "
                f"made of ({self.export.source})"
            )
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return self.export.dim

    @property
    def dimensions(self) -> tuple[int, ...]:
        """Lengths below :attr:`dim` that its vectors may be cut to, as it was trained; rising."""
        return self.export.dimensions

    @property
    def fingerprint(self) -> str:
        """Changes whenever the vectors would. In fp32 it is that of the model that was exported: their vectors go
        together."""
        return self.export.fingerprint

    @functools.cached_property
    def text_tokens(self) -> TextTokens:
        """Its tokenizer by itself: how long texts are, what is cut off them."""
        return TextTokens(self.writer)

    @functools.cached_property
    def photo_classifier(self) -> PhotoClassifier | None:
        """Adds to photographs' vectors what it recognises in them; None where none was exported."""
        return read_classifier(self.folder, session) if self.export.photo_classifier else None

    def encode(
        self,
        items: Sequence[Any] | Any,
        instruction: str | Sequence[str | None] | None = None,
        batch_size: int = 64,
        show_progress: bool = False,
        tokens: np.ndarray | None = None,
        dimensions: int | None = None,
    ) -> np.ndarray:
        """Embed items: arguments, result and errors are those of :meth:`puma.retriever.model.Retriever.encode`.

        Raises:
            ImageError: also an image, where only the text side was exported.
        """
        length = checked_dimensions(self, self.dim if dimensions is None else dimensions)
        found = as_items(items)
        if batch_size < 1:
            raise InputError(f"batch_size={batch_size}: give a whole number of at least 1")
        instructions = one_an_item(instruction, found)
        self._check_images(found)
        firsts, which, keys = first_of_each(found, instructions)
        unique, own = [found[i] for i in firsts], [instructions[i] for i in firsts]
        looked = SeenImages(self._vision, unique, keys, self.image_cache)
        # It is loaded with the first image.
        classifier = self.photo_classifier if any(item.modality == IMAGE for item in unique) else None
        shown: list[Shown | None] = []
        if classifier is not None:
            steps = self.export.images if isinstance(self.export.images, Preprocessing) else None
            unique, shown = classifier.recognised(unique, steps, looked.lasting_cache, looked.keys)
            looked.take_small(unique)
        sequences = self._sequences(unique, own)
        batches = _batches(unique, own, self._lengths(unique, sequences), batch_size)

        def prepared(rows: list[int]) -> Prepared | None:
            return None if unique[rows[0]].image is None else looked.prepare(rows)

        out, counts = np.empty((len(unique), self.dim), np.float32), np.empty(len(unique), np.int64)
        with tqdm(total=len(unique), unit="item", desc="embedding", disable=not show_progress) as bar:
            for rows, ready in prefetched(batches, prepared):
                batch = [sequences[row] for row in rows]
                images = [] if ready is None else looked.look(rows, ready)
                if images:
                    written = (stand_in(self.export, image.sides) for image in images)
                    batch = [self.writer.with_image(*pair) for pair in zip(batch, written, strict=True)]
                counts[rows] = [len(sequence) for sequence in batch]
                # The head of the first item, as far as the others begin like it.
                head = self.writer.head(unique[rows[0]].modality, own[rows[0]])
                out[rows] = self._vectors(batch, head, images)
                bar.update(len(rows))
        if tokens is not None:
            tokens[:] = counts[which]
        out = classifier.added(out, shown) if classifier is not None else out
        return shortened(out[which], length)

    def _check_images(self, items: Sequence[Item]) -> None:
        if self.export.images is not None:
            return
        for item in items:
            if item.image is not None:
                raise ImageError(
                    f"{item.image_name}: only the text side of this {self.export.base} model was exported "
                    f"({self.folder}); for images name the model itself ({self.export.source})"
                )

    def _sequences(self, items: Sequence[Item], instructions: Sequence[str | None]) -> list[list[int]]:
        """The tokens of each item, with one for an image whatever its size."""
        sequences = self.writer.token_lists(items, instructions)
        if any(sequence.count(self.export.ret_id) != 1 for sequence in sequences):
            raise ModelError(f"model {str(self.folder)!r}: its tokenizer does not keep [RET]; export the model again")
        return sequences

    def _lengths(self, items: Sequence[Item], sequences: Sequence[Sequence[int]]) -> list[int]:
        """About how many tokens each item has, its image counted by its size in the file."""

        @functools.cache
        def count(size: tuple[int, int]) -> int:
            return len(self.writer.tokenizer(stand_in(self.export, size))["input_ids"])

        def size(item: Item) -> tuple[int, int] | None:
            if item.image is None:
                return None
            return (1, 1) if isinstance(self.export.images, Preprocessing) else size_in_file(item.image)

        sizes = map(size, items)
        return [len(ids) + (count(size) - 1 if size else 0) for ids, size in zip(sequences, sizes, strict=True)]

    def _vectors(self, sequences: list[list[int]], head: list[int], images: Sequence[SeenImage]) -> np.ndarray:
        """Unit vectors float32 [n, dim] of a batch, in which all items have an image, or none has."""
        features, grids = np.empty((0, self._width), np.float32), None
        if images:
            features = np.concatenate([one.rows for one in images])
            if isinstance(self.export.images, Patches):
                grids = [self.export.images.grid(*one.sides) for one in images]
        if self.export.prefix is None:
            return self._run(sequences, features, grids, None)[0]
        none = Prefix.empty(self.export.prefix)
        known = common_length(head, sequences)
        key = tuple(head[:known])
        if known < SHORTEST_PREFIX:
            return self._run(sequences, features, grids, none)[0]
        prefix = self._prefixes.get(key)
        if prefix is None and (len(sequences) - 1) * known > CPU_PASS_TOKENS:
            _, prefix = self._run([head[:known]], features[:0], None, none)
            self._prefixes.put(key, prefix)
        if prefix is None:  # the next call with this head will win by it
            vectors, first = self._run(sequences, features, grids, none)
            self._prefixes.put(key, first.first(known))
            return vectors
        return self._run([sequence[known:] for sequence in sequences], features, grids, prefix)[0]

    def _run(
        self,
        sequences: list[list[int]],
        features: np.ndarray,
        grids: Sequence[tuple[int, int]] | None,
        prefix: Prefix | None,
    ) -> tuple[Any, Any]:
        """Vectors of sequences behind a prefix, and the first one's keys and values."""
        lengths = np.array([len(sequence) for sequence in sequences])
        mask = np.arange(max(2, lengths.max())) < lengths[:, None]  # the graph is made for two tokens and more
        ids = np.full(mask.shape, self.export.pad_id, np.int64)
        ids[mask] = np.concatenate([np.asarray(sequence, np.int64) for sequence in sequences])
        inputs = {"input_ids": ids, "attention_mask": mask.astype(np.int64), "image_features": features}
        if isinstance(self.export.images, Patches):
            known = 0 if prefix is None else len(prefix)
            inputs["position_ids"] = positions = np.zeros((3, *mask.shape), np.int64)
            for row, sequence in enumerate(sequences):
                own = plane_positions(sequence, self.writer.image_id, grids[row] if grids else None)
                positions[:, row, : len(sequence)] = own + known
        if prefix is None:
            return self._text.run(None, inputs)[0], None
        vectors, keys, values = self._text.run(
            None, {**inputs, "prefix_keys": prefix.keys, "prefix_values": prefix.values}
        )
        return vectors, Prefix(keys, values)


def _batches(
    items: Sequence[Item], instructions: Sequence[str | None], lengths: Sequence[int], batch_size: int
) -> list[list[int]]:
    """Batches of like length, images apart from texts, and items with one instruction apart from the others where
    enough of them gain by it."""
    counts = Counter(instructions)
    worth = {one for one, count in counts.items() if one and (count - 1) * len(one.split()) > CPU_PASS_TOKENS}
    kinds: dict[tuple[bool, str | None], list[int]] = {}
    for row, (item, instruction) in enumerate(zip(items, instructions, strict=True)):
        kinds.setdefault((item.image is None, instruction if instruction in worth else None), []).append(row)
    batches = []
    for _, rows in sorted(kinds.items(), key=lambda kind: kind[0][0]):
        own = length_sorted_batches(
            [lengths[row] for row in rows], batch_size, fixed=CPU_PASS_TOKENS, most_tokens=CPU_MOST_TOKENS
        )
        batches += [[rows[place] for place in batch] for batch in own]
    return batches


_OF_WEIGHTS = {"model", "processor", "inputs", "to", "save_pretrained", "push_to_hub"}
"""What a Retriever has by its weights. (``model`` is asked for by name where an encoder need not have one.)"""


class NoWeightsError(ModelError, AttributeError):
    """What needs a model's weights was asked of an export."""
