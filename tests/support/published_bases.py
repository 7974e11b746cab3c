"""Checkpoints laid out as their publishers uploaded them, at their true width and cut in depth.

Old key names in config.json, hub names of the tensors, bf16, shards with an index, ``preprocessor_config.json``, the
chat template where it was published. Weights are random (seeded by the tensor's name), the tokenizer is a stand-in of
the true size whose special tokens have the true ids. What is stated here and where it is from:

- Qwen2-VL-2B: names and shards from its published ``model.safetensors.index.json`` (a copy stored in a public
  repository): ``model.layers.*``, ``model.embed_tokens``, ``model.norm``, ``visual.*``; no ``lm_head`` (tied: its
  total_size of 4,417,971,200 bytes is 2 x 2,208,985,600 parameters). config.json is flat, ``rope_scaling`` of ``type:
  mrope``. transformers 5.23 maps the prefix (conversion_mapping.py, "Qwen2VLModel"). The 7B is untied, with
  ``lm_head.weight``: ``qwen2_vl_untied`` stands for that at the 2B's width.
- Qwen3-VL-2B: names ``model.language_model.*`` and ``model.visual.*``, no ``lm_head`` (tied); config nested, the rope
  under ``rope_scaling`` and ``rope_theta`` beside it (read in several public loaders of these checkpoints).
- SmolVLM-256M: ``model_type: idefics3``, names ``model.text_model.*``, ``model.vision_model.*``, ``model.connector.*``
  and an untied ``lm_head.weight`` of 49,280 rows (as listed of the 500M inside a published SmolVLA checkpoint).

That the shapes are right is checked elsewhere by the published numbers of parameters (test_costs).
"""

from __future__ import annotations

import copy
import json
import zlib
from pathlib import Path
from typing import Any

import torch

from support.published_facts import LAYOUTS, Published

DECODER_LAYERS = 3
"""Of 28 (Qwen) or 30 (SmolVLM): what keeps these checkpoints small."""
VISION_LAYERS = {"qwen2_vl": 2, "qwen2_vl_untied": 2, "qwen3_vl": 4, "smolvlm": 2}
"""Of 32, 24 (three of which feed DeepStack) and 12."""
FAMILIES = tuple(VISION_LAYERS)


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
            "content": name, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False,
            "special": True,
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
