"""The model folder's face towards sentence-transformers: what lets it load there with no code of ours, and train there.

Not here: the folder's own files (model).
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from puma.folders import write_json

IMAGE_BACKEND = "pil"
"""The image processor's backend, pinned in every folder: the other one's pixels differ slightly (facts: 0 to 0.03)."""


def write_sentence_transformers_files(folder: Path, dim: int) -> None:
    """The JSON files by which sentence-transformers 6 (and readers of its older layout) know modules, pooling and
    modalities."""
    forward = {"method": "forward", "method_output_name": "last_hidden_state"}
    write_json(
        folder / "modules.json",
        [
            {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.base.modules.transformer.Transformer"},
            {
                "idx": 1,
                "name": "1",
                "path": "1_Pooling",
                "type": "sentence_transformers.sentence_transformer.modules.pooling.Pooling",
            },
            {
                "idx": 2,
                "name": "2",
                "path": "2_Normalize",
                "type": "sentence_transformers.base.modules.normalize.Normalize",
            },
        ],
    )
    write_json(
        folder / "sentence_bert_config.json",
        {
            "transformer_task": "feature-extraction",
            "modality_config": {"text": forward, "image": forward, "message": {**forward, "format": "structured"}},
            "module_output_name": "token_embeddings",
            "processor_kwargs": {"backend": IMAGE_BACKEND},
        },
    )
    write_json(
        folder / "config_sentence_transformers.json",
        {
            "model_type": "SentenceTransformer",
            "prompts": {"query": "", "document": ""},
            "default_prompt_name": None,
            "similarity_fn_name": "cosine",
        },
    )
    write_json(
        folder / "1_Pooling" / "config.json",
        {"embedding_dimension": dim, "pooling_mode": "lasttoken", "include_prompt": True},
    )
    write_json(folder / "2_Normalize" / "config.json", {})


def sentence_transformer(retriever: Any) -> Any:
    """The same weights as a ``SentenceTransformer``, for its trainer: one model object, two faces.

    Only the small files (configuration, processor, modules) pass through a temporary folder. The weights never leave
    memory, so that this takes a moment and no room for a model of any size.
    """
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.base.modules.normalize import Normalize
    from sentence_transformers.sentence_transformer.modules import Pooling

    class InMemory(Transformer):
        """Takes the model there is instead of loading one."""

        def _load_model(self, *args: Any, **kwargs: Any) -> Any:
            return retriever.model

    device = next(retriever.model.parameters()).device
    with tempfile.TemporaryDirectory() as folder:
        retriever.model.config.save_pretrained(folder)
        retriever.processor.save_pretrained(folder)
        write_sentence_transformers_files(Path(folder), retriever.dim)
        transformer = InMemory.load(folder)
    transformer.__class__ = Transformer  # what it is from here on, also to whoever saves it
    pooling = Pooling(retriever.dim, pooling_mode="lasttoken")
    return SentenceTransformer(modules=[transformer, pooling, Normalize()], device=str(device))
