"""Tiny seeded models of real architectures, built offline in a second: no hub, no weights."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import torch

LAYERS = 4
HIDDEN = 32
TEXT = {
    "hidden_size": HIDDEN,
    "intermediate_size": 64,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 400,
    "max_position_embeddings": 512,
}
FAMILIES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "smolvlm", "idefics3", "llava", "gemma3", "fast_vlm")


def _qwen(kind: str) -> Any:
    import transformers as t

    rope = {"rope_type": "default", "mrope_section": [2, 1, 1], "rope_theta": 10000.0}
    tokens = {
        "image_token_id": 390,
        "video_token_id": 391,
        "vision_start_token_id": 392,
        "vision_end_token_id": 393,
    }
    if kind == "qwen2_vl":
        vision = {"depth": 2, "embed_dim": 32, "hidden_size": HIDDEN, "num_heads": 2, "patch_size": 4, "mlp_ratio": 2}
        return t.Qwen2VLForConditionalGeneration(
            t.Qwen2VLConfig(text_config={**TEXT, "rope_parameters": rope}, vision_config=vision, **tokens)
        )
    if kind == "qwen2_5_vl":
        vision = {
            "depth": 2,
            "hidden_size": 32,
            "out_hidden_size": HIDDEN,
            "num_heads": 2,
            "patch_size": 4,
            "intermediate_size": 64,
            "window_size": 16,
            "fullatt_block_indexes": [1],
        }
        return t.Qwen2_5_VLForConditionalGeneration(
            t.Qwen2_5_VLConfig(text_config={**TEXT, "rope_parameters": rope}, vision_config=vision, **tokens)
        )
    vision = {
        "depth": 3,
        "hidden_size": 32,
        "out_hidden_size": HIDDEN,
        "num_heads": 2,
        "patch_size": 4,
        "intermediate_size": 64,
        "num_position_embeddings": 64,
        "deepstack_visual_indexes": [0, 1, 2],
    }
    text = {**TEXT, "head_dim": 8, "rope_parameters": rope}
    return t.Qwen3VLForConditionalGeneration(t.Qwen3VLConfig(text_config=text, vision_config=vision, **tokens))


def build(family: str, seed: int = 0) -> Any:
    """A randomly initialised model of one family, in eval mode, fp32."""
    import transformers as t

    torch.manual_seed(seed)
    siglip = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 16,
        "patch_size": 4,
    }
    if family.startswith("qwen"):
        model = _qwen(family)
    elif family in ("smolvlm", "idefics3"):
        config, model_class = {
            "smolvlm": (t.SmolVLMConfig, t.SmolVLMForConditionalGeneration),
            "idefics3": (t.Idefics3Config, t.Idefics3ForConditionalGeneration),
        }[family]
        text = {"model_type": "llama", **TEXT}
        model = model_class(config(text_config=text, vision_config=siglip, scale_factor=2, image_token_id=390))
    elif family == "llava":
        vision = {"model_type": "clip_vision_model", **siglip}
        text = {"model_type": "llama", **TEXT}
        model = t.LlavaForConditionalGeneration(
            t.LlavaConfig(text_config=text, vision_config=vision, image_token_index=390)
        )
    elif family == "gemma3":
        text = {**TEXT, "head_dim": 8, "sliding_window": 16}
        model = t.Gemma3ForConditionalGeneration(
            t.Gemma3Config(
                text_config=text,
                vision_config=siglip,
                image_token_index=390,
                boi_token_index=392,
                eoi_token_index=393,
                mm_tokens_per_image=4,
            )
        )
    elif family == "fast_vlm":
        model = seeing(t.FastVlmForConditionalGeneration(fast_vlm_config(TEXT["vocab_size"], image_token=390)))
    else:
        raise ValueError(family)
    return model.eval()


def fast_vlm_config(vocabulary: int, image_token: int, layers: int = LAYERS) -> Any:
    """The mini base's architecture, tiny: EfficientNet and Llama inside FastVLM."""
    import transformers as t

    vision = t.EfficientNetConfig(
        image_size=64,
        width_coefficient=0.1,
        depth_coefficient=0.1,
        hidden_dim=128,  # 1280 scaled by the width
        squeeze_expansion_ratio=0.25,
        hidden_act="relu6",
        drop_connect_rate=0.0,
        dropout_rate=0.0,
    )
    vision.hidden_size = 128
    text = t.LlamaConfig(**{**TEXT, "vocab_size": vocabulary, "num_hidden_layers": layers}, tie_word_embeddings=True)
    return t.FastVlmConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=image_token,
        image_seq_length=4,
        tie_word_embeddings=True,
    )


def seeing(model: Any) -> Any:
    """The model with a tower whose output tells images apart: as transformers draws its weights, each batch norm
    scales by about 0.02 and what is left after the last is exactly zero."""
    for module in model.get_encoder("image").modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.ones_(module.weight)
        elif isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight)
    return model


def inputs(family: str, *, with_image: bool = True, length: int = 6, seed: int = 0) -> dict[str, torch.Tensor]:
    """One row of model inputs for a family: text tokens, and an image's placeholders and pixels."""
    g = torch.Generator().manual_seed(seed)
    words = torch.randint(5, 300, (1, length), generator=g)
    if not with_image:
        return {"input_ids": words, "attention_mask": torch.ones_like(words)}
    if family.startswith("qwen"):
        count = 4  # 16x16 pixels = 4x4 patches, merged 2x2
        rows = 16
        pixels = torch.randn(rows, 3 * 2 * 4 * 4, generator=g)
        extra = {"pixel_values": pixels, "image_grid_thw": torch.tensor([[1, 4, 4]])}
        ids = torch.cat([torch.tensor([[392]]), torch.full((1, count), 390), torch.tensor([[393]]), words], 1)
        extra["mm_token_type_ids"] = (ids == 390).long()
    elif family in ("smolvlm", "idefics3"):
        extra = {
            "pixel_values": torch.randn(1, 1, 3, 16, 16, generator=g),
            "pixel_attention_mask": torch.ones(1, 1, 16, 16, dtype=torch.bool),
        }
        ids = torch.cat([torch.full((1, 4), 390), words], 1)
    elif family == "llava":
        extra = {"pixel_values": torch.randn(1, 3, 16, 16, generator=g)}
        ids = torch.cat([torch.full((1, 16), 390), words], 1)
    elif family == "gemma3":
        extra = {"pixel_values": torch.randn(1, 3, 16, 16, generator=g)}
        ids = torch.cat([torch.tensor([[392]]), torch.full((1, 4), 390), torch.tensor([[393]]), words], 1)
        extra["token_type_ids"] = (ids == 390).long()
    else:
        extra = {"pixel_values": torch.randn(1, 3, 64, 64, generator=g)}
        ids = torch.cat([torch.full((1, 4), 390), words], 1)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), **extra}


@functools.cache
def tokenizer_json(vocabulary: int = 500) -> str:
    """A byte-level BPE trained on a few words: a real tokenizer, small."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    words = [
        "Find a picture that matches this. means in one word red fox blue heart cat dog summarize above image sentence"
    ]
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=["<|endoftext|>", "<image>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(words, trainer)
    return tokenizer.to_str()


def base_folder(path: Path, seed: int = 0, layers: int = LAYERS) -> Path:
    """A tiny base on disk, as the mini base is: FastVLM with processor and tokenizer."""
    import transformers as t
    from tokenizers import Tokenizer
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    tokenizer = t.PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(tokenizer_json()),
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        extra_special_tokens={"image_token": "<image>"},
        model_max_length=512,
    )
    torch.manual_seed(seed)
    image_id = tokenizer.convert_tokens_to_ids("<image>")
    model = seeing(t.FastVlmForConditionalGeneration(fast_vlm_config(len(tokenizer), image_id, layers))).eval()
    processor = t.LlavaProcessor(
        image_processor=CLIPImageProcessorPil(
            size={"height": 64, "width": 64}, do_center_crop=False, image_mean=[0.5] * 3, image_std=[0.5] * 3
        ),
        tokenizer=tokenizer,
        patch_size=32,
        vision_feature_select_strategy="full",
        image_token="<image>",
        num_additional_image_tokens=0,
    )
    model.save_pretrained(path)
    processor.save_pretrained(path)
    return path
