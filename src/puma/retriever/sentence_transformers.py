"""Sentence-Transformers export: the files that let a model folder load there with no code of ours, and train there."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from puma.pruning.cards import CARD, TAG, front_matter
from puma.pruning.processors import backend_options
from puma.retriever.photographs.classifier import FOLDER
from puma.storage.folders import write_json


def image_backend_of(processor: Any) -> str:
    """``pil`` or ``torchvision``: what the processor's images go through. Pinned in every folder, since the backends'
    pixels differ slightly (by up to 0.03)."""
    return "pil" if type(processor.image_processor).__name__.endswith("Pil") else "torchvision"


UNCAST = ("fast_vlm",)
"""Families (transformers' ``model_type``) that do not cast pixels to the type of their weights."""


def write_sentence_transformers_files(folder: Path, dim: int, backend: str, family: str = "") -> None:
    """The JSON files by which sentence-transformers 6 (and readers of its older layout) know modules, pooling and
    modalities. ``backend`` is the image processor's, ``family`` transformers' ``model_type``."""
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
            "processor_kwargs": backend_options(backend),
            # Weights saved in half precision would meet pixels in fp32; PUMA casts those itself.
            **({"model_kwargs": {"dtype": "float32"}} if family in UNCAST else {}),
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


def write_model_card(folder: Path, retriever: Any, name: str = "this-folder") -> None:
    """README.md of a model folder: the hub's metadata, how to use it in three libraries, and which inputs the
    first two read differently. ``name`` is what a user loads it by."""
    about = retriever.about
    head = front_matter(
        {
            **about,
            "base_model_relation": "finetune" if "base_model" in about else None,
            "library_name": "sentence-transformers",
            "pipeline_tag": "sentence-similarity",
            "tags": ["sentence-transformers", "feature-extraction", "multimodal-retrieval", TAG],
        }
    )
    base = about.get("base_model")
    made_of = f", made of {base if isinstance(base, str) else ' and '.join(base)}" if base else ""
    limit = retriever.prompt.max_text_tokens
    depth = getattr(retriever.model.config.get_text_config(decoder=True), "num_hidden_layers", "?")
    kind = str(next(retriever.model.parameters()).dtype).removeprefix("torch.")
    (folder / CARD).write_text(
        f"""{head}
# A multimodal retriever

Embeds texts, images, and both together into one space of {retriever.dim} dimensions, with {depth} decoder layers of a
{retriever.model.config.model_type} model ({kind} weights){made_of}.

```python
import puma
retriever = puma.Retriever.from_pretrained("{name}")
vectors = retriever.encode(["a red fox", {{"image": "fox.png"}}], instruction="Find an image.")

from sentence_transformers import SentenceTransformer
model = SentenceTransformer("{name}")
vectors = model.encode(["a red fox", {{"image": "fox.png"}}], prompt="Find an image.")

import torch
from transformers import AutoModel, AutoProcessor
processor, model = AutoProcessor.from_pretrained("{name}"), AutoModel.from_pretrained("{name}")
chat = [{{"role": "user", "content": [{{"type": "text", "text": "a red fox"}}]}}]
inputs = processor.apply_chat_template(chat, tokenize=True, return_dict=True, return_tensors="pt")
vector = torch.nn.functional.normalize(model(**inputs).last_hidden_state[:, -1], dim=-1)
```

PUMA and sentence-transformers give the same vectors but for these inputs, which the latter passes on as they are:

- texts over {limit} tokens: PUMA cuts the text there, before the closing line and the embedding token;
- images that are no plain RGB: PUMA scales 16-bit grey to 8 bits, puts transparent ones on white, and turns them
  upright by their EXIF note;
- images with one side under 4 pixels or 200 times shorter than the other: PUMA stretches the short side;
- a path that does not exist: sentence-transformers embeds it as a text{_about_photographs(retriever)}.
""",
        encoding="utf-8",
    )


def _about_photographs(retriever: Any) -> str:
    classifier = retriever.photo_classifier
    if classifier is None:
        return ""
    return f""";
- photographs: PUMA adds to their vectors what the classifier in `{FOLDER}` recognises
  ({len(classifier.names):,} classes)"""


def sentence_transformer(retriever: Any) -> Any:
    """The same weights as a ``SentenceTransformer``, for its trainer: one model object, seen by both.

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
        write_sentence_transformers_files(Path(folder), retriever.dim, image_backend_of(retriever.processor))
        transformer = InMemory.load(folder)
    transformer.__class__ = Transformer  # what it is from here on, also to whoever saves it
    pooling = Pooling(retriever.dim, pooling_mode="lasttoken")
    return SentenceTransformer(modules=[transformer, pooling, Normalize()], device=str(device))
