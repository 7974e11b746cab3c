"""What publishers put into their folders: configuration, processor, special tokens, names of tensors. Data only.

Where each is known from stands in published_bases.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

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
    "{% set image_count = namespace(value=0) %}{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}<|im_end|>\n{% else %}"
    "{% for content in message['content'] %}"
    "{% if content['type'] == 'image' or 'image' in content %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif 'text' in content %}{{ content['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_SMOLVLM_TEMPLATE = (
    "<|im_start|>{% for message in messages %}{{message['role'] | capitalize}}"
    "{% if message['content'][0]['type'] == 'image' %}"
    "{{':'}}{% else %}{{': '}}{% endif %}{% for line in message['content'] %}"
    "{% if line['type'] == 'text' %}{{line['text']}}"
    "{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>\n{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
_QWEN_SPECIAL = {
    name: 151643 + i
    for i, name in enumerate(
        [
            "<|endoftext|>",
            "<|im_start|>",
            "<|im_end|>",
            "<|object_ref_start|>",
            "<|object_ref_end|>",
            "<|box_start|>",
            "<|box_end|>",
            "<|quad_start|>",
            "<|quad_end|>",
            "<|vision_start|>",
            "<|vision_end|>",
            "<|vision_pad|>",
            "<|image_pad|>",
            "<|video_pad|>",
        ]
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
