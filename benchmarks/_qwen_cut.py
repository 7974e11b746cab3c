"""A retriever with random weights, shaped like Qwen2-VL-2B cut to 12 layers at a quarter of its widths."""

from __future__ import annotations

from pathlib import Path

import torch

from feeding import processor
from puma.retriever.images.image_tokens import limit_image_tokens
from puma.retriever.model import Retriever
from puma.retriever.prompts import with_special_tokens
from puma.retriever.ret_token import add_ret_token

LAYERS = 12
WIDTH = 384
IMAGE_TOKENS = (4, 64)
"""The recipe's 300 are scaled down too: attention within the tower grows with their square."""


def qwen_cut(folder: Path, seed: int, layers: int = LAYERS, width: int = WIDTH) -> Path:
    """Write it: 2B has a decoder of width 1,536 (MLP 8,960, 12 heads, 2 of keys) and a tower of 32 layers of 1,280.

    Args:
        folder: of the retriever.
        seed: of the weights.
        layers: of the decoder.
        width: of the decoder, a multiple of 64.
    """
    import transformers as t

    torch.manual_seed(seed)
    made, prompt = processor()
    limit_image_tokens(made, *IMAGE_TOKENS)
    words = made.tokenizer
    named = {"image_token_id": "<|image_pad|>", "video_token_id": "<|video_pad|>"}
    named |= {"vision_start_token_id": "<|vision_start|>", "vision_end_token_id": "<|vision_end|>"}
    text = {
        "vocab_size": len(words) + 8,
        "hidden_size": width,
        "intermediate_size": width * 35 // 6,
        "num_hidden_layers": layers,
        "num_attention_heads": width // 64,
        "num_key_value_heads": 1,
        "max_position_embeddings": 8192,
        "rope_parameters": {"rope_type": "default", "mrope_section": [8, 12, 12], "rope_theta": 1e6},
        "bos_token_id": words.pad_token_id,
        "eos_token_id": words.eos_token_id,
    }
    vision = {"depth": 8, "embed_dim": 320, "hidden_size": width, "num_heads": 4, "mlp_ratio": 4}
    ids = {name: words.convert_tokens_to_ids(token) for name, token in named.items()}
    model = t.Qwen2VLModel(t.Qwen2VLConfig(text_config=text, vision_config=vision, **ids)).eval()
    prompt = with_special_tokens(words, prompt)
    add_ret_token(model, made, prompt)
    return Retriever(model, made, prompt).save_pretrained(folder)


def for_vllm(folder: Path, out: Path) -> Path:
    """The same weights under the names of the class that vLLM knows."""
    import transformers as t

    retriever = Retriever.from_pretrained(folder, device="cpu")
    whole = t.Qwen2VLForConditionalGeneration(retriever.model.config).eval()
    whole.model.load_state_dict(retriever.model.state_dict())
    whole.save_pretrained(out)
    retriever.processor.save_pretrained(out)
    return out
