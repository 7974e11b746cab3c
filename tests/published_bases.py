"""Checkpoints laid out as their publishers uploaded them, at their true width and cut in depth.

Old key names in config.json, hub names of the tensors, bf16, shards with an index, ``preprocessor_config.json``, the chat
template where it was published. Weights are random (seeded by the tensor's name), the tokenizer is a stand-in of the
true size whose special tokens have the true ids. What is stated here and where it is from:

- Qwen2-VL-2B: names and shards from its published ``model.safetensors.index.json`` (a copy stored in a public
  repository): ``model.layers.*``, ``model.embed_tokens``, ``model.norm``, ``visual.*``; no ``lm_head`` (tied; total_size
  4,417,971,200 bytes = 2 x 2,208,985,600 parameters). config.json is flat, with ``rope_scaling`` of ``type: mrope``.
  transformers 5.23 maps the prefix (conversion_mapping.py, "Qwen2VLModel"). The 7B is untied, with ``lm_head.weight``:
  ``qwen2_vl_untied`` stands for that at the 2B's width.
- Qwen3-VL-2B: names ``model.language_model.*`` and ``model.visual.*``, no ``lm_head`` (tied); config nested, the rope
  under ``rope_scaling`` and ``rope_theta`` beside it.
- SmolVLM-256M: ``model_type: idefics3``, names ``model.text_model.*``, ``model.vision_model.*``, ``model.connector.*`` and
  an untied ``lm_head.weight`` of 49,280 rows (as listed of the 500M inside a published SmolVLA checkpoint).
"""

from __future__ import annotations

import copy
import json
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

DECODER_LAYERS = 3
"""Of 28 (Qwen) or 30 (SmolVLM): what keeps these checkpoints small."""
VISION_LAYERS = {"qwen2_vl": 2, "qwen2_vl_untied": 2, "qwen3_vl": 4, "smolvlm": 2}
"""Of 32, 24 (three of which feed DeepStack) and 12."""
FAMILIES = tuple(VISION_LAYERS)

_ATTENTION = [
    "self_attn.q_proj.weight",
    "self_attn.k_proj.weight",
    "self_attn.v_proj.weight",
    "self_attn.o_proj.weight",
]
_LAYER = [
    "input_layernorm.weight",
    "mlp.down_proj.weight",
    "mlp.gate_proj.weight",
    "mlp.up_proj.weight",
    "post_attention_layernorm.weight",
    *_ATTENTION,
]


def _pairs(*names: str) -> list[str]:
    return [f"{name}.{kind}" for name in names for kind in ("bias", "weight")]


@dataclass(frozen=True)
class Published:
    """One publisher's layout."""

    config: dict[str, Any]
    preprocessor: dict[str, Any]
    special: dict[str, int]
    vocabulary: int
    template: str
    prefixes: dict[str, str]
    """From the hub's prefix to the base model's."""
    layer: list[str]
    vision_layer: str
    vision_block: list[str]
    vision_rest: list[str]
    lm_head: bool = False
    tokenizer: dict[str, Any] = field(default_factory=dict)
    other_files: dict[str, dict[str, Any]] = field(default_factory=dict)
    template_in: tuple[str, ...] = ("tokenizer_config.json",)


_QWEN_TEMPLATE = (
    "{% set image_count = namespace(value=0) %}{% for message in messages %}{% if loop.first and message['role'] != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}<|im_end|>\n{% else %}{% for content in message['content'] %}"
    "{% if content['type'] == 'image' or 'image' in content %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif 'text' in content %}{{ content['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_SMOLVLM_TEMPLATE = (
    "<|im_start|>{% for message in messages %}{{message['role'] | capitalize}}{% if message['content'][0]['type'] == 'image' %}"
    "{{':'}}{% else %}{{': '}}{% endif %}{% for line in message['content'] %}{% if line['type'] == 'text' %}{{line['text']}}"
    "{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>\n{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
_QWEN_SPECIAL = {
    name: 151643 + i
    for i, name in enumerate(
        "<|endoftext|> <|im_start|> <|im_end|> <|object_ref_start|> <|object_ref_end|> <|box_start|> <|box_end|> "
        "<|quad_start|> <|quad_end|> <|vision_start|> <|vision_end|> <|vision_pad|> <|image_pad|> <|video_pad|>".split()
    )
}
_QWEN_TOKENIZER = {
    "tokenizer_class": "Qwen2Tokenizer",
    "model_max_length": 32768,
    "padding_side": "left",
    "bos_token": None,
    "eos_token": "<|im_end|>",
    "pad_token": "<|endoftext|>",
    "unk_token": None,
    "additional_special_tokens": [name for name in _QWEN_SPECIAL if name != "<|endoftext|>"],
}
_QWEN2_VL_CONFIG = {
    "architectures": ["Qwen2VLForConditionalGeneration"],
    "attention_dropout": 0.0,
    "bos_token_id": 151643,
    "eos_token_id": 151645,
    "vision_start_token_id": 151652,
    "vision_end_token_id": 151653,
    "vision_token_id": 151654,
    "image_token_id": 151655,
    "video_token_id": 151656,
    "hidden_act": "silu",
    "hidden_size": 1536,
    "initializer_range": 0.02,
    "intermediate_size": 8960,
    "max_position_embeddings": 32768,
    "max_window_layers": 28,
    "model_type": "qwen2_vl",
    "num_attention_heads": 12,
    "num_hidden_layers": 28,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0,
    "sliding_window": 32768,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.41.2",
    "use_cache": True,
    "use_sliding_window": False,
    "vision_config": {
        "depth": 32,
        "embed_dim": 1280,
        "mlp_ratio": 4,
        "num_heads": 16,
        "in_chans": 3,
        "hidden_size": 1536,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "spatial_patch_size": 14,
        "temporal_patch_size": 2,
    },
    "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
    "vocab_size": 151936,
}
_QWEN2_VL = Published(
    config=_QWEN2_VL_CONFIG,
    preprocessor={
        "min_pixels": 3136,
        "max_pixels": 12845056,
        "patch_size": 14,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
        "image_processor_type": "Qwen2VLImageProcessor",
        "processor_class": "Qwen2VLProcessor",
    },
    special=_QWEN_SPECIAL,
    vocabulary=151643,
    template=_QWEN_TEMPLATE,
    prefixes={"model.": "language_model.", "visual.": "visual."},
    layer=[*_LAYER, *(f"self_attn.{x}_proj.bias" for x in "qkv")],
    vision_layer="visual.blocks.{}.",
    vision_block=_pairs("attn.proj", "attn.qkv", "mlp.fc1", "mlp.fc2", "norm1", "norm2"),
    vision_rest=[
        *_pairs("visual.merger.ln_q", "visual.merger.mlp.0", "visual.merger.mlp.2"),
        "visual.patch_embed.proj.weight",
    ],
    tokenizer=_QWEN_TOKENIZER,
    template_in=("tokenizer_config.json", "chat_template.json"),
)
_QWEN3_VL = Published(
    config={
        "architectures": ["Qwen3VLForConditionalGeneration"],
        "image_token_id": 151655,
        "model_type": "qwen3_vl",
        "text_config": {
            "attention_bias": False,
            "attention_dropout": 0.0,
            "bos_token_id": 151643,
            "dtype": "bfloat16",
            "eos_token_id": 151645,
            "head_dim": 128,
            "hidden_act": "silu",
            "hidden_size": 2048,
            "initializer_range": 0.02,
            "intermediate_size": 6144,
            "max_position_embeddings": 262144,
            "model_type": "qwen3_vl_text",
            "num_attention_heads": 16,
            "num_hidden_layers": 28,
            "num_key_value_heads": 8,
            "rms_norm_eps": 1e-06,
            "rope_scaling": {"mrope_interleaved": True, "mrope_section": [24, 20, 20], "rope_type": "default"},
            "rope_theta": 5000000,
            "tie_word_embeddings": True,
            "use_cache": True,
            "vocab_size": 151936,
        },
        "tie_word_embeddings": True,
        "transformers_version": "4.57.0.dev0",
        "video_token_id": 151656,
        "vision_config": {
            "deepstack_visual_indexes": [5, 11, 17],
            "depth": 24,
            "hidden_act": "gelu_pytorch_tanh",
            "hidden_size": 1024,
            "in_channels": 3,
            "initializer_range": 0.02,
            "intermediate_size": 4096,
            "model_type": "qwen3_vl",
            "num_heads": 16,
            "num_position_embeddings": 2304,
            "out_hidden_size": 2048,
            "patch_size": 16,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
        },
        "vision_end_token_id": 151653,
        "vision_start_token_id": 151652,
    },
    preprocessor={
        "size": {"longest_edge": 16777216, "shortest_edge": 65536},
        "patch_size": 16,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "processor_class": "Qwen3VLProcessor",
        "image_processor_type": "Qwen2VLImageProcessorFast",
    },
    special=_QWEN_SPECIAL,
    vocabulary=151643,
    template=_QWEN_TEMPLATE,
    prefixes={"model.": ""},
    layer=[*_LAYER, "self_attn.q_norm.weight", "self_attn.k_norm.weight"],
    vision_layer="model.visual.blocks.{}.",
    vision_block=_pairs("attn.proj", "attn.qkv", "mlp.linear_fc1", "mlp.linear_fc2", "norm1", "norm2"),
    vision_rest=[
        *_pairs("model.visual.merger.norm", "model.visual.merger.linear_fc1", "model.visual.merger.linear_fc2"),
        *_pairs(
            *(
                f"model.visual.deepstack_merger_list.{i}.{x}"
                for i in range(3)
                for x in ("norm", "linear_fc1", "linear_fc2")
            )
        ),
        *_pairs("model.visual.patch_embed.proj"),
        "model.visual.pos_embed.weight",
    ],
    tokenizer=_QWEN_TOKENIZER,
    other_files={
        "video_preprocessor_config.json": {
            "size": {"longest_edge": 25165824, "shortest_edge": 4096},
            "patch_size": 16,
            "temporal_patch_size": 2,
            "merge_size": 2,
            "image_mean": [0.5, 0.5, 0.5],
            "image_std": [0.5, 0.5, 0.5],
            "processor_class": "Qwen3VLProcessor",
            "video_processor_type": "Qwen3VLVideoProcessor",
        }
    },
    template_in=("tokenizer_config.json", "chat_template.json"),
)
_SMOLVLM_SPECIAL = {
    "<global-img>": 49152,
    **{f"<row_{i // 6 + 1}_col_{i % 6 + 1}>": 49153 + i for i in range(36)},
    "<fake_token_around_image>": 49189,
    "<image>": 49190,
    **{f"<|reserved_special_token_{i}|>": 49191 + i for i in range(88)},
    "<end_of_utterance>": 49279,
}
_SMOLVLM = Published(
    config={
        "architectures": ["Idefics3ForConditionalGeneration"],
        "image_token_id": 49190,
        "model_type": "idefics3",
        "scale_factor": 4,
        "text_config": {
            "architectures": ["VLlama3ForCausalLM"],
            "head_dim": 64,
            "hidden_size": 576,
            "intermediate_size": 1536,
            "is_llama_config": True,
            "max_position_embeddings": 8192,
            "model_type": "llama",
            "num_attention_heads": 9,
            "num_hidden_layers": 30,
            "num_key_value_heads": 3,
            "pad_token_id": 2,
            "pixel_shuffle_factor": 4,
            "rms_norm_eps": 1e-05,
            "rope_interleaved": False,
            "rope_theta": 100000,
            "torch_dtype": "bfloat16",
            "vocab_size": 49280,
        },
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.46.0",
        "use_cache": True,
        "vision_config": {
            "hidden_size": 768,
            "image_size": 512,
            "intermediate_size": 3072,
            "max_image_size": {"longest_edge": 512},
            "model_type": "idefics3",
            "num_attention_heads": 12,
            "num_hidden_layers": 12,
            "patch_size": 16,
            "size": {"longest_edge": 2048},
            "tie_word_embeddings": False,
        },
        "vocab_size": 49280,
    },
    preprocessor={
        "do_convert_rgb": True,
        "do_image_splitting": True,
        "do_normalize": True,
        "do_pad": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_processor_type": "Idefics3ImageProcessor",
        "image_std": [0.5, 0.5, 0.5],
        "max_image_size": {"longest_edge": 512},
        "processor_class": "Idefics3Processor",
        "resample": 1,
        "rescale_factor": 0.00392156862745098,
        "size": {"longest_edge": 2048},
    },
    special=_SMOLVLM_SPECIAL,
    vocabulary=49152,
    template=_SMOLVLM_TEMPLATE,
    prefixes={"model.": ""},
    layer=_LAYER,
    vision_layer="model.vision_model.encoder.layers.{}.",
    vision_block=_pairs(
        "layer_norm1",
        "layer_norm2",
        "mlp.fc1",
        "mlp.fc2",
        *(f"self_attn.{x}" for x in ("q_proj", "k_proj", "v_proj", "out_proj")),
    ),
    vision_rest=[
        *_pairs("model.vision_model.embeddings.patch_embedding", "model.vision_model.post_layernorm"),
        "model.vision_model.embeddings.position_embedding.weight",
        "model.connector.modality_projection.proj.weight",
    ],
    lm_head=True,
    tokenizer={
        "tokenizer_class": "GPT2Tokenizer",
        "model_max_length": 8192,
        "padding_side": "left",
        "truncation_side": "left",
        "bos_token": "<|im_start|>",
        "eos_token": "<end_of_utterance>",
        "pad_token": "<|im_end|>",
        "unk_token": "<|endoftext|>",
        "additional_special_tokens": ["<fake_token_around_image>", "<image>", "<end_of_utterance>"],
    },
    other_files={"processor_config.json": {"image_seq_len": 64, "processor_class": "Idefics3Processor"}},
    template_in=("chat_template.json",),
)
LAYOUTS: dict[str, Published] = {
    "qwen2_vl": _QWEN2_VL,
    "qwen2_vl_untied": Published(
        **{**_QWEN2_VL.__dict__, "config": {**_QWEN2_VL_CONFIG, "tie_word_embeddings": False}, "lm_head": True}
    ),
    "qwen3_vl": _QWEN3_VL,
    "smolvlm": _SMOLVLM,
}


def published_names(family: str) -> list[str]:
    """The checkpoint's tensors by their hub names, sorted."""
    layout = LAYOUTS[family]
    text = {"qwen3_vl": "model.language_model.", "smolvlm": "model.text_model."}.get(family, "model.")
    names = [f"{text}embed_tokens.weight", f"{text}norm.weight", *layout.vision_rest]
    names += [f"{text}layers.{i}.{name}" for i in range(DECODER_LAYERS) for name in layout.layer]
    names += [
        layout.vision_layer.format(i) + name for i in range(VISION_LAYERS[family]) for name in layout.vision_block
    ]
    return sorted([*names, "lm_head.weight"] if layout.lm_head else names)


def base_model_name(family: str, name: str) -> str | None:
    """What the base model calls a tensor of the checkpoint; None for the LM head, which a retriever has not."""
    for hub, ours in LAYOUTS[family].prefixes.items():
        if name.startswith(hub):
            return ours + name.removeprefix(hub)
    assert name == "lm_head.weight", name
    return None


def cut_config(family: str) -> dict[str, Any]:
    """The published config.json with fewer layers; nothing else is touched."""
    config = copy.deepcopy(LAYOUTS[family].config)
    config.get("text_config", config)["num_hidden_layers"] = DECODER_LAYERS
    vision = config["vision_config"]
    vision["num_hidden_layers" if family == "smolvlm" else "depth"] = VISION_LAYERS[family]
    if "deepstack_visual_indexes" in vision:
        vision["deepstack_visual_indexes"] = [0, 1, 2]
    return config


def write(family: str, folder: Path, shards: int = 3) -> Path:
    """Write the checkpoint.

    Shapes come from the model that transformers builds of the configuration, and every one of its tensors must be named
    by the layout.
    """
    from safetensors.torch import save_file
    from transformers import AutoConfig, AutoModel

    layout = LAYOUTS[family]
    write_small_files(family, folder, cut_config(family))
    config = AutoConfig.from_pretrained(folder)
    with torch.device("meta"):
        shapes = {name: p.shape for name, p in AutoModel.from_config(config).named_parameters()}
    names = published_names(family)
    ours = {name: base_model_name(family, name) for name in names}
    assert {name for name in ours.values() if name} == set(shapes), "the layout names other tensors than the model has"
    text = config.get_text_config()
    where: dict[str, str] = {}
    total = 0
    for number in range(shards):
        file = f"model-{number + 1:05}-of-{shards:05}.safetensors"
        part = {}
        for name in names[number::shards]:
            module = ours[name]
            part[name] = content(name, shapes[module] if module else torch.Size([text.vocab_size, text.hidden_size]))
            where[name] = file
            total += part[name].numel() * 2
        save_file(part, folder / file, metadata={"format": "pt"})
    _json(folder / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": where})
    return folder


def write_small_files(family: str, folder: Path, config: dict[str, Any]) -> None:
    """Write everything but the weights."""
    layout = LAYOUTS[family]
    folder.mkdir(parents=True)
    _json(folder / "config.json", config)
    _json(folder / "preprocessor_config.json", layout.preprocessor)
    for name, values in layout.other_files.items():
        _json(folder / name, values)
    write_tokenizer(layout, folder)


def content(name: str, shape: torch.Size) -> torch.Tensor:
    """A tensor's values, in bf16: no two tensors have the same."""
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    values = torch.randn(shape, generator=generator).mul_(0.02)
    return (values.add_(1) if "norm" in name and name.endswith("weight") and len(shape) == 1 else values).to(
        torch.bfloat16
    )


def write_tokenizer(layout: Published, folder: Path) -> None:
    """A byte-level BPE without merges, filled up to the published number of tokens, special tokens at their ids."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    early = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"] if "<|im_start|>" not in layout.special else []
    words = [*early, *letters]
    words += [f"filler{i}" for i in range(layout.vocabulary - len(words))]
    tokenizer = Tokenizer(models.BPE(vocab={word: i for i, word in enumerate(words)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = [*early, *layout.special]
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in special])
    assert all(tokenizer.token_to_id(name) == number for name, number in layout.special.items())
    tokenizer.save(str(folder / "tokenizer.json"))
    decoder = {
        str(tokenizer.token_to_id(name)): {
            "content": name, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True,
        }
        for name in special
    }  # fmt: skip
    values = {"added_tokens_decoder": decoder, **layout.tokenizer}
    if "tokenizer_config.json" in layout.template_in:
        values["chat_template"] = layout.template
    _json(folder / "tokenizer_config.json", values)
    if "chat_template.json" in layout.template_in:
        _json(folder / "chat_template.json", {"chat_template": layout.template})


def _json(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
