"""A tiny real base (random EfficientNet + Llama in FastVLM, joined as the real one is) and images for it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import EfficientNetConfig, EfficientNetModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from puma.mini.base.assemble import join, save
from puma.mini.base.settings import BaseSettings, write_note
from puma.mini.base.tower import neutralise_squeeze_excite
from support.shared import built_once

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 60), "blue": (40, 60, 220), "white": (245, 245, 245)}
SHAPES = ("square", "stripes", "frame", "dots", "halves", "corner")
TINY = BaseSettings(image_size=64)


def random_tower(seed: int = 0, **changes: object) -> EfficientNetModel:
    """A quarter as wide as lite0, with batch norms that let a signal through."""
    settings = {"width_coefficient": 0.25, "depth_coefficient": 1.0, "hidden_dim": 320, "squeeze_expansion_ratio": 0.01}
    config = EfficientNetConfig(
        image_size=64, hidden_act="relu6", batch_norm_eps=1e-3, drop_connect_rate=0.0, **{**settings, **changes}
    )
    config.hidden_size = 320
    torch.manual_seed(seed)
    tower = EfficientNetModel(config).eval()
    with torch.no_grad():
        for module in tower.modules():
            if isinstance(module, torch.nn.Conv2d):
                torch.nn.init.kaiming_normal_(module.weight)
            if isinstance(module, torch.nn.BatchNorm2d):
                module.weight.uniform_(0.8, 1.2)
                module.bias.normal_(0, 0.1)
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 1.5)
    neutralise_squeeze_excite(tower)
    return tower


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    words = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "a", "the", *COLOURS, *SHAPES, "on", "paper"]
    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="<|endoftext|>"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        unk_token="<|endoftext|>",
    )


def tiny_llama(vocabulary: int) -> LlamaForCausalLM:
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    )
    return LlamaForCausalLM(config).eval()


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished model folder of the mini base's architecture."""

    def build(folder: Path) -> None:
        tokenizer = tiny_tokenizer()
        model, processor = join(random_tower(), tiny_llama(len(tokenizer)), tokenizer, TINY)
        folder.mkdir()
        save(model, processor, folder)
        write_note(folder, TINY)

    return built_once(tmp_path_factory, "mini-base", build)


def draw(colour: str, shape: str, shift: int) -> Image.Image:
    canvas = np.full((48, 48, 3), 128, np.uint8)
    ink, at = COLOURS[colour], 4 + shift
    if shape == "square":
        canvas[at : at + 30, at : at + 30] = ink
    elif shape == "stripes":
        canvas[shift % 3 :: 6] = ink
    elif shape == "frame":
        canvas[:6], canvas[-6:], canvas[:, :6], canvas[:, -6:] = ink, ink, ink, ink
        canvas[at, at] = ink
    elif shape == "dots":
        canvas[shift % 4 :: 8, ::8] = ink
    elif shape == "halves":
        canvas[:, : 20 + shift] = ink
    else:
        canvas[: 16 + shift, : 16 + shift] = ink
    canvas[-1, 10 + shift] = (0, 0, 0)  # no two drawings are the same file
    return Image.fromarray(canvas)


@pytest.fixture(scope="session")
def drawings(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Path], list[str]]:
    """Images and captions: four colours by six shapes, five of each."""
    folder = tmp_path_factory.mktemp("drawings")
    paths, captions = [], []
    for colour in COLOURS:
        for shape in SHAPES:
            for shift in range(5):
                path = folder / f"{colour}-{shape}-{shift}.png"
                draw(colour, shape, shift).save(path)
                paths.append(path)
                captions.append(f"{colour} {shape}")
    return paths, captions
