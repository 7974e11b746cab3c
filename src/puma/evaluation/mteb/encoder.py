"""Any of our encoders as an mteb model: images and texts reach it together, queries with the task's instruction.

mteb is the optional extra ``mteb``; nothing here is imported before it is used.

Why not hand mteb the bare ``SentenceTransformer``: mteb 2.26 takes that for a model of texts only. It refuses a task
whose queries or candidates are images alone; of a task that has both it drops the images, with a line in the log
about suboptimal performance, and scores what is left.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from puma.errors import DependencyError, InputError, install_command
from puma.index.exact.small import rounded
from puma.items.encoder import Encoder
from puma.items.item import Item

if TYPE_CHECKING:
    import torch

UNHEARD = ("audio", "video")
"""Modalities of mteb that no encoder of ours takes."""


def require_mteb() -> Any:
    """The mteb package.

    Raises:
        DependencyError: it is not installed, or lacks something of its own.
    """
    try:
        import mteb
    except ImportError as error:
        raise DependencyError(
            f"evaluation through mteb needs the mteb package ({error}): {install_command('mteb')}"
        ) from None
    return mteb


class MtebEncoder:
    """mteb's view of an :class:`~puma.items.Encoder`.

    Queries are embedded with the task's own instruction, candidates with none; for tasks without that distinction
    (classification, similarity) everything is a query. Scores are cosines of the fp32 vectors, taken in double
    precision and rounded to six decimals, as everywhere in PUMA.

    Args:
        encoder: embeds both sides.
        name: the model's name in mteb's records; ``puma/<name>`` if it names no organisation.
        instructions: instructions by the task's name, before those the tasks bring in ``metadata.prompt``. An empty
            string means none. With ``instructions=None`` the tasks' own are used.

    Raises:
        DependencyError: mteb is not installed.
    """

    def __init__(
        self, encoder: Encoder, *, name: str = "puma/retriever", instructions: Mapping[str, str] | None = None
    ) -> None:
        require_mteb()
        from mteb.models.model_meta import ModelMeta, ScoringFunction

        self.encoder = encoder
        self.instructions = dict(instructions or {})
        self._meta = ModelMeta(
            loader=None,
            name=name if "/" in name else f"puma/{name}",
            revision=encoder.fingerprint,
            release_date=None,
            languages=None,
            n_parameters=None,
            memory_usage_mb=None,
            max_tokens=None,
            embed_dim=encoder.dim,
            license=None,
            open_weights=None,
            public_training_code=None,
            public_training_data=None,
            framework=["PyTorch"],
            similarity_fn_name=ScoringFunction.COSINE,
            use_instructions=True,
            training_datasets=None,
            modalities=["text", "image"],
        )

    @property
    def mteb_model_meta(self) -> Any:
        """What mteb records of the model: texts and images, cosine, instructions; the revision is the encoder's
        fingerprint."""
        return self._meta

    def instruction(self, task_metadata: Any, prompt_type: Any = None) -> str | None:
        """What goes before an item of a task, or None. ``prompt_type`` is mteb's ``PromptType`` or its value."""
        if getattr(prompt_type, "value", prompt_type) == "document":
            return None
        if task_metadata.name in self.instructions:
            return self.instructions[task_metadata.name].strip() or None
        prompt = task_metadata.prompt
        if isinstance(prompt, Mapping):
            prompt = prompt.get("query")
        return prompt.strip() or None if prompt else None

    def encode(
        self,
        inputs: Iterable[Mapping[str, Any]],
        *,
        task_metadata: Any,
        hf_split: str = "",
        hf_subset: str = "",
        prompt_type: Any = None,
        **kwargs: Any,
    ) -> np.ndarray:
        """Embed what mteb's loader yields.

        Args:
            inputs: batches: a dict of lists under ``text`` and/or ``image``. An empty text and a missing image
                (None) are no part of an item; an item may not lack both.
            task_metadata: the task's; its name and prompt give the instruction.
            prompt_type: query, document, or None for tasks without sides.
            kwargs: mteb's further arguments; the loader has settled the batches already.

        Returns:
            float32 [n, dim], unit rows, in the loader's order.

        Raises:
            InputError: an item has neither text nor image, or the task wants audio or video.
            ImageError: an image is beyond the safety limits.
        """
        instruction = self.instruction(task_metadata, prompt_type)
        blocks = [np.zeros((0, self.encoder.dim), dtype=np.float32)]
        for batch in inputs:
            blocks.append(self.encoder.encode(_items(batch, task_metadata.name), instruction=instruction))
        return np.concatenate(blocks)

    def similarity(self, embeddings1: Any, embeddings2: Any) -> torch.Tensor:
        """Cosines of all pairs of unit rows: float64 [n, m] in [-1, 1], rounded to six decimals."""
        import torch

        return torch.from_numpy(rounded(_wide(embeddings1) @ _wide(embeddings2).T))

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> torch.Tensor:
        """Cosines of the rows at equal places: float64 [n] in [-1, 1], rounded to six decimals."""
        import torch

        return torch.from_numpy(rounded((_wide(embeddings1) * _wide(embeddings2)).sum(axis=1)))


def _items(batch: Mapping[str, Any], task: str) -> list[Item]:
    foreign = [name for name in UNHEARD if name in batch]
    if foreign:
        raise InputError(
            f"the mteb task {task} asks for {' and '.join(foreign)}; only texts and images can be embedded"
        )
    texts, images = batch.get("text"), batch.get("image")
    if texts is not None and "body" in batch and "title" not in batch:
        texts = batch["body"]  # a document as it stands in its file: mteb strips the copy under "text"
    size = len(texts if texts is not None else images if images is not None else ())
    texts = [None] * size if texts is None else texts
    images = [None] * size if images is None else images
    try:
        return [Item(text=text, image=image) for text, image in zip(texts, images, strict=True)]
    except InputError as error:
        raise InputError(f"the mteb task {task}: {error}") from None


def _wide(vectors: Any) -> np.ndarray:
    """Vectors [n, dim] of numpy or torch as float64, one vector as a row."""
    if hasattr(vectors, "detach"):
        vectors = vectors.detach().cpu().numpy()
    return np.atleast_2d(np.asarray(vectors, dtype=np.float64))
