"""A cache folder for rehearsals: a tiny base of the mini base's architecture, and a drawn benchmark in OpenPics' place.

Both stand where the real ones would, so that a rehearsal runs the very code of the real run. Figures made with it say
nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from puma.data import mbeir
from puma.data.records import TASK_MODALITIES, Candidate, Query
from puma.mini.base.assemble import join, save
from puma.mini.base.settings import BaseSettings, write_note
from puma.mini.base.tower import neutralise_squeeze_excite
from puma.mini.openpics import folder_name
from puma.mini.training import base_settings
from puma.training.recipes.recipe import read_recipe

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 60), "blue": (40, 60, 220), "white": (245, 245, 245)}
SHAPES = ("square", "stripes", "frame", "dots", "halves", "corner")
NAMES = [f"{colour} {shape}" for colour in COLOURS for shape in SHAPES]
SPLITS = {"train": range(4), "val": range(4, 6), "test": range(6, 8)}
DATASET, NUMBER = "openpics", 20
MARK = "small"
"""A file in the base's folder that says it is a stand-in."""


def small_home(home: Path) -> Path:
    """Make the folder; returns it."""
    _write_benchmark(home / folder_name())
    settings = base_settings(read_recipe("mini"))
    base = home / "bases" / settings.folder
    base.mkdir(parents=True)
    tokenizer = _tokenizer()
    model, processor = join(_tower(settings), _language_model(len(tokenizer)), tokenizer, settings)
    save(model, processor, base)
    write_note(base, settings)
    (base / MARK).write_text("a random stand-in for rehearsals\n", encoding="utf-8")
    return home


def _write_benchmark(root: Path) -> None:
    ids = iter(range(1, 10**6))
    for split, shifts in SPLITS.items():
        images, titles = [], {name: Candidate(f"{NUMBER}:{next(ids)}", name, None, "text") for name in NAMES}
        for name in NAMES:
            for shift in shifts:
                place = f"mbeir_images/{DATASET}_images/{name.replace(' ', '-')}-{shift}.webp"
                (root / place).parent.mkdir(parents=True, exist_ok=True)
                _drawn(name, shift).save(root / place)
                images.append((name, Candidate(f"{NUMBER}:{next(ids)}", None, place, "image")))
        pools = {0: [c for _, c in images], 1: list(titles.values()), 3: list(titles.values())}
        queries: dict[int, list[Query]] = {0: [], 1: [], 3: []}
        for name, title in titles.items():
            found = tuple(c.did for other, c in images if other == name)
            queries[0].append(Query(f"{NUMBER}:{next(ids)}", name, None, "text", found, (), 0))
            turned = " ".join(reversed(name.split()))
            queries[1].append(Query(f"{NUMBER}:{next(ids)}", turned, None, "text", (title.did,), (), 1))
        for name, image in images:
            found = (titles[name].did,)
            queries[3].append(Query(f"{NUMBER}:{next(ids)}", None, image.image_path, "image", found, (), 3))
        for task, asked in queries.items():
            mbeir.write_queries(mbeir.query_path(root, DATASET, task, split), asked)
            mbeir.write_pool(mbeir.pool_path(root, DATASET, task, split), pools[task])
            qrels = {query.qid: dict.fromkeys(query.positives, 1) for query in asked}
            mbeir.write_qrels(mbeir.qrels_path(root, DATASET, task, split), qrels, task)
        mbeir.write_pool(mbeir.global_pool_path(root, split), [*titles.values(), *(c for _, c in images)])
    rows = [(*TASK_MODALITIES[task], "OpenPics", NUMBER, ["Find it."]) for task in (0, 1, 3)]
    mbeir.write_instructions(mbeir.instructions_path(root), rows)


def _drawn(name: str, shift: int) -> Image.Image:
    colour, shape = name.split()
    canvas, ink, at = np.full((96, 96, 3), 128, np.uint8), COLOURS[colour], 8 + 2 * shift
    if shape == "square":
        canvas[at : at + 60, at : at + 60] = ink
    elif shape == "stripes":
        canvas[shift % 6 :: 12] = ink
    elif shape == "frame":
        canvas[:12], canvas[-12:], canvas[:, :12], canvas[:, -12:] = ink, ink, ink, ink
    elif shape == "dots":
        canvas[shift % 8 :: 16, ::16] = ink
    elif shape == "halves":
        canvas[:, : 40 + 2 * shift] = ink
    else:
        canvas[: 32 + 2 * shift, : 32 + 2 * shift] = ink
    canvas[-1, 20 + shift] = (0, 0, 0)  # no two drawings are the same file
    return Image.fromarray(canvas)


def _tokenizer() -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*NAMES, "Find it. Summarize above image sentence in one word:"], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        unk_token="<|endoftext|>",
    )


def _language_model(vocabulary: int, layers: int = 8) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    )
    return LlamaForCausalLM(config).eval()


def _tower(settings: BaseSettings) -> Any:
    """A quarter as wide as the real one, with batch norms that let a signal through."""
    from transformers import EfficientNetConfig, EfficientNetModel

    torch.manual_seed(1)
    config = EfficientNetConfig(
        image_size=settings.image_size,
        strides=list(settings.strides),
        width_coefficient=0.25,
        depth_coefficient=0.2,
        hidden_dim=320,
        squeeze_expansion_ratio=0.01,
        hidden_act="relu6",
        batch_norm_eps=1e-3,
        drop_connect_rate=0.0,
        dropout_rate=0.0,
    )
    config.hidden_size = 320
    tower = EfficientNetModel(config).eval()
    for module in tower.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.ones_(module.weight)
        elif isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight)
    neutralise_squeeze_excite(tower)
    return tower
