"""The shapes of known bases, without their weights: what ``puma train --dry-run`` counts and ``benchmarks/shape.py``
builds.

Each row is checked by its parameters: the model built of it has exactly as many as the published checkpoint
(tests/training/recipes/test_costs.py).
"""

from __future__ import annotations

import copy
import functools
import json
import os
from dataclasses import dataclass, field
from typing import Any

import torch

from puma.errors import InputError, ModelError, first_line
from puma.pruning import prune


def _qwen2_vl(hidden: int, intermediate: int, heads: int, kv: int, vocabulary: int, tied: bool) -> dict[str, Any]:
    return {
        "model_type": "qwen2_vl",
        "tie_word_embeddings": tied,
        "text_config": {
            "hidden_size": hidden,
            "intermediate_size": intermediate,
            "num_hidden_layers": 28,
            "num_attention_heads": heads,
            "num_key_value_heads": kv,
            "vocab_size": vocabulary,
            "max_position_embeddings": 32768,
            "rms_norm_eps": 1e-6,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
        },
        "vision_config": {
            "depth": 32,
            "embed_dim": 1280,
            "hidden_size": hidden,
            "num_heads": 16,
            "mlp_ratio": 4,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
        },
    }


def _qwen3_vl(hidden: int, intermediate: int, layers: int, heads: int, tied: bool, *, large: bool) -> dict[str, Any]:
    return {
        "model_type": "qwen3_vl",
        "tie_word_embeddings": tied,
        "text_config": {
            "hidden_size": hidden,
            "intermediate_size": intermediate,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "vocab_size": 151936,
            "max_position_embeddings": 262144,
            "rms_norm_eps": 1e-6,
            "rope_parameters": {"rope_type": "default", "rope_theta": 5e6, "mrope_section": [24, 20, 20]},
        },
        "vision_config": {
            "depth": 27 if large else 24,
            "hidden_size": 1152 if large else 1024,
            "intermediate_size": 4304 if large else 4096,
            "num_heads": 16,
            "out_hidden_size": hidden,
            "patch_size": 16,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "num_position_embeddings": 2304,
            "deepstack_visual_indexes": [8, 16, 24] if large else [5, 11, 17],
        },
    }


def _smolvlm(hidden: int, intermediate: int, layers: int, heads: int, kv: int) -> dict[str, Any]:
    return {
        "model_type": "idefics3",
        "tie_word_embeddings": False,
        "scale_factor": 4,
        "image_token_id": 49190,
        "text_config": {
            "model_type": "llama",
            "hidden_size": hidden,
            "intermediate_size": intermediate,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": kv,
            "head_dim": 64,
            "vocab_size": 49280,
            "max_position_embeddings": 8192,
            "rms_norm_eps": 1e-5,
        },
        "vision_config": {
            "hidden_size": 768,
            "intermediate_size": 3072,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "image_size": 512,
            "patch_size": 16,
        },
    }


_QWEN2_5_VL_3B = {
    "model_type": "qwen2_5_vl",
    "tie_word_embeddings": True,
    "text_config": {
        "hidden_size": 2048,
        "intermediate_size": 11008,
        "num_hidden_layers": 36,
        "num_attention_heads": 16,
        "num_key_value_heads": 2,
        "vocab_size": 151936,
        "max_position_embeddings": 128000,
        "rms_norm_eps": 1e-6,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
    },
    "vision_config": {
        "depth": 32,
        "hidden_size": 1280,
        "intermediate_size": 3420,
        "num_heads": 16,
        "out_hidden_size": 2048,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "window_size": 112,
        "fullatt_block_indexes": [7, 15, 23, 31],
    },
}

KNOWN: dict[str, dict[str, Any]] = {
    "Qwen/Qwen2-VL-7B-Instruct": _qwen2_vl(3584, 18944, 28, 4, 152064, False),
    "Qwen/Qwen2-VL-2B-Instruct": _qwen2_vl(1536, 8960, 12, 2, 151936, True),
    "Qwen/Qwen2.5-VL-3B-Instruct": _QWEN2_5_VL_3B,
    "Qwen/Qwen3-VL-2B-Instruct": _qwen3_vl(2048, 6144, 28, 16, True, large=False),
    "Qwen/Qwen3-VL-4B-Instruct": _qwen3_vl(2560, 9728, 36, 32, True, large=False),
    "Qwen/Qwen3-VL-8B-Instruct": _qwen3_vl(4096, 12288, 36, 32, False, large=True),
    "HuggingFaceTB/SmolVLM-256M-Instruct": _smolvlm(576, 1536, 30, 9, 3),
    "HuggingFaceTB/SmolVLM-500M-Instruct": _smolvlm(960, 2560, 32, 15, 5),
}
"""By hub name, what shapes the model in its published config.json."""


SMOLLM2_135M: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "vocab_size": 49153,  # <image> has been added
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
}
"""The mini base's language model."""


def config_of(base: str | os.PathLike[str]) -> Any:
    """The transformers configuration of a base: from a folder's config.json, else from :data:`KNOWN`. Nothing is
    fetched.

    Raises:
        InputError: neither a folder nor a name in the table.
        ModelError: the folder's config.json cannot be read.
    """
    name = os.fspath(base)
    path = os.path.join(name, "config.json")
    if os.path.isfile(path):
        from transformers import AutoConfig

        try:
            return AutoConfig.from_pretrained(name)
        except (OSError, ValueError, KeyError) as error:
            raise ModelError(f"base {name!r}: {first_line(error)}") from None
    if name not in KNOWN:
        raise InputError(
            f"base {name!r}: neither a folder with a config.json nor one of the shapes known without it "
            f"({', '.join(KNOWN)}); download its config.json into a folder and give that"
        )
    return config_from(KNOWN[name])


def config_from(values: dict[str, Any]) -> Any:
    """A configuration of plain values, as :data:`KNOWN` and a config.json hold them."""
    from transformers import AutoConfig

    values = json.loads(json.dumps(values))  # a copy: configurations write into what they are given
    return AutoConfig.for_model(values.pop("model_type"), **values)


def empty_model(config: Any, layers: int | None = None, *, keep_last: bool = False, head: bool = False) -> Any:
    """A model of this shape on the meta device: parameters with sizes and without memory.

    Args:
        config: of the unpruned base; it is left as it is.
        layers, keep_last: as :func:`puma.pruning.prune`; None keeps all.
        head: with the LM head, as the base is published; a retriever has none.

    Raises:
        InputError: ``layers`` out of range.
        ModelError: no Auto class takes the configuration.
    """
    from transformers import AutoModel, AutoModelForImageTextToText

    auto = AutoModelForImageTextToText if head else AutoModel
    try:
        with torch.device("meta"):
            model = auto.from_config(copy.deepcopy(config))
    except ValueError as error:
        raise ModelError(
            f"{type(config).__name__}: {auto.__name__} cannot build it ({str(error).splitlines()[0]})"
        ) from None
    model.tie_weights()
    return model if layers is None else prune(model, layers, keep_last=keep_last)


def counted_model(config: Any, layers: int | None = None, *, keep_last: bool = False, head: bool = False) -> Any:
    """:func:`empty_model` for reading only: built once for a configuration, since it takes a second at the sizes of
    published bases and an estimate needs the same few models again and again."""
    return _built_once(_Config(config), config.to_json_string(), layers, keep_last, head)


@dataclass(frozen=True)
class _Config:
    """Carries a configuration past the cache, whose key is the JSON beside it."""

    value: Any = field(compare=False)


@functools.lru_cache(maxsize=8)
def _built_once(config: _Config, key: str, layers: int | None, keep_last: bool, head: bool) -> Any:
    return empty_model(config.value, layers, keep_last=keep_last, head=head)


def image_shape(config: Any, tokens: int | None = None) -> tuple[int, int]:
    """Decoder tokens and vision patches of one image.

    Args:
        config: of the base.
        tokens: wished; only families that read images at their own size (Qwen-VL) heed it, for the others the
            configuration says how many there are.

    Returns:
        ``(tokens, patches)``. For a convolutional tower patches are the positions of its last map.
    """
    vision = config.vision_config
    merge = getattr(vision, "spatial_merge_size", None)
    if merge is not None:  # Qwen-VL: any size
        count = 256 if tokens is None else tokens
        return count, count * merge**2
    size = int(vision.image_size)
    if getattr(vision, "patch_size", None) is None:
        count = int(config.image_seq_length)
        return count, count
    patches = (size // int(vision.patch_size)) ** 2
    if getattr(config, "mm_tokens_per_image", None):
        return int(config.mm_tokens_per_image), patches
    return patches // int(getattr(config, "scale_factor", 1)) ** 2, patches
