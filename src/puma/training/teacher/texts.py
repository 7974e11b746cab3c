"""A published embedder of texts as teacher: a sentence-transformers model, its vectors kept on disk.

This is no self-distillation: another model's knowledge of texts goes into the student. It teaches texts, and images by
their captions where they have one (:class:`puma.training.teacher.store.CaptionTargets`).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from puma.errors import InputError, first_line
from puma.retriever.weight_samples import weight_samples
from puma.storage.shards import KEY_BYTES, Shards
from puma.training.teacher.filling import fill
from puma.training.teacher.identity import digest

MODULES_FILE = "modules.json"
"""What every folder of a sentence-transformers model holds."""
SHARD = 2048
"""Texts a shard: a kill loses at most so many."""


class TextTeacher:
    """A sentence-transformers model in a folder.

    Args:
        folder: the model.
        device: where it computes; None for sentence-transformers' choice.

    Raises:
        InputError: the folder is no such model, or cannot be loaded.

    Examples:
        >>> teacher = TextTeacher("all-minilm-l6-v2")                                      # doctest: +SKIP
        >>> targets = CaptionTargets(teacher.states(["a cat", "a dog"], store="states"))   # doctest: +SKIP
    """

    def __init__(self, folder: str | os.PathLike[str], *, device: str | None = None) -> None:
        if not (Path(folder) / MODULES_FILE).is_file():
            raise InputError(
                f"teacher={os.fspath(folder)!r}: no model of sentence-transformers (no {MODULES_FILE} in it); give the "
                "folder of one, or of a trained retriever"
            )
        from sentence_transformers import SentenceTransformer

        try:
            self.model = SentenceTransformer(os.fspath(folder), device=device, local_files_only=True)
        except (OSError, ValueError, KeyError) as error:
            raise InputError(f"teacher={os.fspath(folder)!r}: cannot be loaded: {first_line(error)}") from error
        self.dim = len(self.model.encode(["a"], show_progress_bar=False)[0])

    def facts(self) -> dict[str, str]:
        """What the vectors depend on, each as a short digest: by these a store knows its own teacher."""
        modules = [type(module).__name__ for module in self.model]
        settings = [modules, self.model.max_seq_length, str(self.model.dtype), self.model.prompts]
        vocabulary = json.dumps(self.model.tokenizer.get_vocab(), sort_keys=True)
        return {
            "weights": digest(b"".join(weight_samples(self.model.state_dict()))),
            "modules and limits": digest(json.dumps(settings).encode()),
            "tokenizer": digest(vocabulary.encode()),
        }

    def states(
        self,
        texts: Sequence[str],
        *,
        store: str | os.PathLike[str] | None = None,
        batch_size: int = 64,
        show_progress: bool = False,
    ) -> dict[str, np.ndarray]:
        """The vectors of texts, by text, fp16 [dim].

        Args:
            texts: what occurs twice is computed once.
            store: a folder in which each teacher gets a folder of its own; with it a killed run goes on where it was,
                and a later one reads instead of computing.
        """
        unique = list(dict.fromkeys(texts))
        facts = self.facts()
        if store is None:
            return dict(zip(unique, self._vectors(unique, batch_size), strict=True))
        shards = Shards(Path(store) / digest(json.dumps(facts).encode()), facts, self.dim)
        keys = [hashlib.sha256(text.encode()).digest()[:KEY_BYTES] for text in unique]
        texts_by_key = dict(zip(keys, unique, strict=True))

        def vectors(part: Sequence[bytes]) -> Any:
            return self._vectors([texts_by_key[key] for key in part], batch_size)

        fill(shards, keys, vectors, size=SHARD, unit="text", show_progress=show_progress)
        return dict(zip(unique, shards.rows(keys), strict=True))

    def _vectors(self, texts: Sequence[str], batch_size: int) -> Any:
        if not texts:
            return np.zeros((0, self.dim), np.float16)
        return self.model.encode(list(texts), batch_size=batch_size, show_progress_bar=False).astype(np.float16)
