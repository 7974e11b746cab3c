"""Tiny random bases of all eight families with their real processors, chat templates and tokenizer habits, on disk.

:func:`tiny.build` makes bare models; these are whole folders, in the layout that transformers saves or, with
``layout="hub"``, in the older one that the hub's published folders have (Qwen-VL: ``preprocessor_config.json`` alone).
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import torch

from support import tiny

FAMILIES = tiny.FAMILIES
RECIPES = {  # the family that each shipped recipe's base belongs to
    "mini": "fast_vlm",
    "mini-distilled": "fast_vlm",
    "qwen2-vl-2b": "qwen2_vl",
    "qwen2-vl-7b": "qwen2_vl",
    "qwen2.5-vl-3b": "qwen2_5_vl",
    "qwen3-vl-2b": "qwen3_vl",
    "qwen3-vl-4b": "qwen3_vl",
    "qwen3-vl-8b": "qwen3_vl",
    "smolvlm-256m": "idefics3",
    "smolvlm-500m": "idefics3",
}
WORDS = (
    "Find a picture that matches this. means in one word red fox blue heart cat dog summarize above image sentence "
    "system user assistant You are a helpful"
)

QWEN_TEMPLATE = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}<|im_start|>system\n"
    "You are a helpful assistant.<|im_end|>\n{% endif %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}<|im_end|>\n{% else %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif 'text' in part %}{{ part['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SMOL_TEMPLATE = (
    "<|im_start|>{% for message in messages %}{{ message['role'] | capitalize }}"
    "{% if message['content'][0]['type'] == 'image' %}{{ ':' }}{% else %}{{ ': ' }}{% endif %}"
    "{% for part in message['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}"
    "{% elif part['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>\n{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
LLAVA_TEMPLATE = (
    "{% for message in messages %}{{ message['role'].upper() + ': ' }}"
    "{% for part in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}"
    "{% for part in message['content'] | selectattr('type', 'equalto', 'text') %}{{ part['text'] + ' ' }}{% endfor %}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
GEMMA_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ '<start_of_turn>' + message['role'] + '\n' }}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}{{ '<start_of_image>' }}"
    "{% elif part['type'] == 'text' %}{{ part['text'] | trim }}{% endif %}{% endfor %}{{ '<end_of_turn>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)

TEXT = {**{key: value for key, value in tiny.TEXT.items() if key != "vocab_size"}, "max_position_embeddings": 8192}
SIGLIP = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 4,
}


def _head_dim() -> int:
    return TEXT["hidden_size"] // TEXT["num_attention_heads"]


@functools.cache
def _tokenizer_json(special: tuple[str, ...]) -> str:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=700,
        special_tokens=list(special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([WORDS], trainer)
    return tokenizer.to_str()


def tokenizer(
    special: tuple[str, ...],
    eos: str,
    pad: str,
    named: dict[str, str],
    *,
    bos: str | None = None,
    add_eos: bool = False,
    side: str = "left",
) -> Any:
    """A real byte-level tokenizer; with ``bos`` it puts that before every text, with ``add_eos`` EOS behind."""
    import transformers as t
    from tokenizers import Tokenizer, processors

    fast = Tokenizer.from_str(_tokenizer_json(special))
    if bos or add_eos:
        parts = [*([bos] if bos else []), "$A", *([eos] if add_eos else [])]
        added = [token for token in (bos, eos if add_eos else None) if token]
        fast.post_processor = processors.TemplateProcessing(
            single=" ".join(parts),
            pair=" ".join([*parts, "$B:1"]),
            special_tokens=[(token, fast.token_to_id(token)) for token in added],
        )
    options = {"bos_token": bos} if bos else {}
    return t.PreTrainedTokenizerFast(
        tokenizer_object=fast,
        eos_token=eos,
        pad_token=pad,
        extra_special_tokens=named,
        model_max_length=8192,
        padding_side=side,
        **options,
    )


def build(
    family: str,
    path: Path,
    *,
    seed: int = 0,
    side: str = "left",
    add_eos: bool = False,
    dtype: torch.dtype = torch.float32,
    layout: str = "saved",
) -> Path:
    """Write a base of one family: 4 decoder layers of width 32, weights large enough that words and images matter.

    Args:
        family: one of :data:`FAMILIES`.
        path: the folder to make.
        side: the tokenizer's padding side, as the family's published folder has it or not.
        add_eos: a tokenizer that appends EOS to every text.
        dtype: of the saved weights.
        layout: ``saved`` as transformers saves it, or ``hub``: the image processor in ``preprocessor_config.json`` and
            the chat template in ``chat_template.json``.
    """
    torch.manual_seed(seed)
    if family == "fast_vlm":
        tiny.base_folder(path, seed=seed)
        model, processor = _fast_vlm(path, side)
    else:
        model, processor = _BUILDERS[family](family, {"side": side, "add_eos": add_eos})
        generator = torch.Generator().manual_seed(seed + 1)
        with torch.no_grad():
            for weight in model.parameters():
                if weight.ndim >= 2:
                    weight.copy_(torch.randn(weight.shape, generator=generator) * (0.25 if weight.ndim == 2 else 0.1))
    model.eval().to(dtype).save_pretrained(path)
    processor.save_pretrained(path)
    if layout == "hub":
        _as_on_the_hub(path)
    return path


def _fast_vlm(path: Path, side: str) -> tuple[Any, Any]:
    import transformers as t

    processor = t.AutoProcessor.from_pretrained(path, backend="pil")
    processor.chat_template, processor.tokenizer.padding_side = LLAVA_TEMPLATE, side
    return t.FastVlmForConditionalGeneration.from_pretrained(path), processor


def _qwen(family: str, habits: dict[str, Any]) -> tuple[Any, Any]:
    import transformers as t
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    special = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>")
    special += ("<|image_pad|>", "<|video_pad|>")
    named = {"image_token": "<|image_pad|>", "video_token": "<|video_pad|>"}
    words = tokenizer(special, "<|im_end|>", "<|endoftext|>", named, **habits)
    ids = {
        "image_token_id": words.convert_tokens_to_ids("<|image_pad|>"),
        "video_token_id": words.convert_tokens_to_ids("<|video_pad|>"),
        "vision_start_token_id": words.convert_tokens_to_ids("<|vision_start|>"),
        "vision_end_token_id": words.convert_tokens_to_ids("<|vision_end|>"),
    }
    half = _head_dim() // 2
    rope = {"rope_type": "default", "mrope_section": [half // 2, half // 4, half // 4], "rope_theta": 10000.0}
    text = {
        **TEXT,
        "vocab_size": len(words) + 8,
        "rope_parameters": rope,
        "bos_token_id": words.pad_token_id,
        "eos_token_id": words.eos_token_id,
    }
    images = Qwen2VLImageProcessorPil(
        patch_size=4, merge_size=2, temporal_patch_size=2, size={"shortest_edge": 4 * 64, "longest_edge": 64 * 64}
    )
    shared = {"patch_size": 4, "num_heads": 2}
    if family == "qwen2_vl":
        vision = {**shared, "depth": 2, "embed_dim": 32, "hidden_size": tiny.HIDDEN, "mlp_ratio": 2}
        model = t.Qwen2VLForConditionalGeneration(t.Qwen2VLConfig(text_config=text, vision_config=vision, **ids))
        kinds = t.Qwen2VLProcessor, t.Qwen2VLVideoProcessor
    elif family == "qwen2_5_vl":
        vision = {
            **shared,
            "depth": 2,
            "hidden_size": 32,
            "out_hidden_size": tiny.HIDDEN,
            "intermediate_size": 64,
            "window_size": 16,
            "fullatt_block_indexes": [1],
        }
        model = t.Qwen2_5_VLForConditionalGeneration(t.Qwen2_5_VLConfig(text_config=text, vision_config=vision, **ids))
        kinds = t.Qwen2_5_VLProcessor, t.Qwen2VLVideoProcessor
    else:
        vision = {
            **shared,
            "depth": 3,
            "hidden_size": 32,
            "out_hidden_size": tiny.HIDDEN,
            "intermediate_size": 64,
            "num_position_embeddings": 64,
            "deepstack_visual_indexes": [0, 1, 2],
        }
        # transformers interleaves in this family whatever the key says; vLLM reads it, and published folders have it.
        text = {**text, "head_dim": _head_dim(), "rope_parameters": {**rope, "mrope_interleaved": True}}
        model = t.Qwen3VLForConditionalGeneration(t.Qwen3VLConfig(text_config=text, vision_config=vision, **ids))
        kinds = t.Qwen3VLProcessor, t.Qwen3VLVideoProcessor
    make, video = kinds
    return model, make(
        image_processor=images, tokenizer=words, video_processor=video(patch_size=4), chat_template=QWEN_TEMPLATE
    )


def _smol(family: str, habits: dict[str, Any]) -> tuple[Any, Any]:
    import transformers as t
    from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
    from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

    special = ("<|endoftext|>", "<|im_start|>", "<end_of_utterance>", "<fake_token_around_image>", "<image>")
    special += ("<global-img>", *(f"<row_{i}_col_{j}>" for i in range(1, 7) for j in range(1, 7)))
    named = {
        "fake_image_token": "<fake_token_around_image>",
        "image_token": "<image>",
        "global_image_token": "<global-img>",
        "end_of_utterance_token": "<end_of_utterance>",
    }
    words = tokenizer(special, "<end_of_utterance>", "<|endoftext|>", named, **habits)
    text = {"model_type": "llama", **TEXT, "vocab_size": len(words) + 8, "pad_token_id": words.pad_token_id}
    whole = {
        "text_config": text,
        "vision_config": SIGLIP,
        "scale_factor": 2,
        "image_token_id": words.convert_tokens_to_ids("<image>"),
        "pad_token_id": words.pad_token_id,
    }
    sizes = {"size": {"longest_edge": 48}, "max_image_size": {"longest_edge": 16}}
    options = {"tokenizer": words, "image_seq_len": 4, "chat_template": SMOL_TEMPLATE}
    if family == "smolvlm":
        model = t.SmolVLMForConditionalGeneration(t.SmolVLMConfig(**whole))
        return model, t.SmolVLMProcessor(
            image_processor=SmolVLMImageProcessorPil(**sizes), video_processor=t.SmolVLMVideoProcessor(), **options
        )
    model = t.Idefics3ForConditionalGeneration(t.Idefics3Config(**whole))
    return model, t.Idefics3Processor(image_processor=Idefics3ImageProcessorPil(**sizes), **options)


def _llava(family: str, habits: dict[str, Any]) -> tuple[Any, Any]:
    import transformers as t
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    special = ("<s>", "</s>", "<pad>", "<image>")
    words = tokenizer(special, "</s>", "<pad>", {"image_token": "<image>"}, bos="<s>", **habits)
    model = t.LlavaForConditionalGeneration(
        t.LlavaConfig(
            text_config={"model_type": "llama", **TEXT, "vocab_size": len(words) + 8},
            vision_config={"model_type": "clip_vision_model", **SIGLIP},
            image_token_index=words.convert_tokens_to_ids("<image>"),
        )
    )
    return model, t.LlavaProcessor(
        image_processor=CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}),
        tokenizer=words,
        patch_size=4,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=LLAVA_TEMPLATE,
    )


def _gemma3(family: str, habits: dict[str, Any]) -> tuple[Any, Any]:
    import transformers as t
    from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil

    special = ("<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>", "<start_of_image>", "<end_of_image>")
    special += ("<image_soft_token>",)
    named = {"image_token": "<image_soft_token>", "boi_token": "<start_of_image>", "eoi_token": "<end_of_image>"}
    words = tokenizer(special, "<eos>", "<pad>", named, bos="<bos>", **habits)
    model = t.Gemma3ForConditionalGeneration(
        t.Gemma3Config(
            text_config={**TEXT, "vocab_size": len(words) + 8, "head_dim": _head_dim(), "sliding_window": 16},
            vision_config=SIGLIP,
            image_token_index=words.convert_tokens_to_ids("<image_soft_token>"),
            boi_token_index=words.convert_tokens_to_ids("<start_of_image>"),
            eoi_token_index=words.convert_tokens_to_ids("<end_of_image>"),
            mm_tokens_per_image=4,
        )
    )
    return model, t.Gemma3Processor(
        image_processor=Gemma3ImageProcessorPil(size={"height": 16, "width": 16}),
        tokenizer=words,
        image_seq_length=4,
        chat_template=GEMMA_TEMPLATE,
    )


_BUILDERS = {
    "qwen2_vl": _qwen,
    "qwen2_5_vl": _qwen,
    "qwen3_vl": _qwen,
    "smolvlm": _smol,
    "idefics3": _smol,
    "llava": _llava,
    "gemma3": _gemma3,
}


def _as_on_the_hub(path: Path) -> None:
    """The files as most published folders still have them: the image processor in preprocessor_config.json, what the
    processor itself keeps (if anything) in processor_config.json, the template in chat_template.json."""
    whole = path / "processor_config.json"
    values = json.loads(whole.read_text())
    images = {**values.pop("image_processor"), "processor_class": values["processor_class"]}
    values.pop("video_processor", None)
    (path / "preprocessor_config.json").write_text(json.dumps(images))
    if values.keys() == {"processor_class"}:  # Qwen-VL's publish no such file
        whole.unlink()
    else:
        whole.write_text(json.dumps(values))
    template = path / "chat_template.jinja"
    (path / "chat_template.json").write_text(json.dumps({"chat_template": template.read_text()}))
    template.unlink()
