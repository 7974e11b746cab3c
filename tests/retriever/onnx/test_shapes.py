"""Pixel values of images that keep their shape, in patches or tiles, by Pillow and numpy alone: bit for bit those of
transformers' processors, with Pillow or with torchvision."""

import json
from dataclasses import asdict
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2.functional import resize
from transformers.models.idefics3.image_processing_idefics3 import Idefics3ImageProcessor
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor
from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil
from transformers.models.smolvlm.image_processing_smolvlm import SmolVLMImageProcessor

from puma.errors import ModelError
from puma.retriever.images.decoding import within_limits
from puma.retriever.images.patches import Patches
from puma.retriever.images.resampling import torchvision_bytes
from puma.retriever.images.tiles import Tiles
from puma.retriever.onnx.exporting import images_of

LIMITS = {"shortest_edge": 4 * 64, "longest_edge": 64 * 64}
PATCHES = {"Pillow": Qwen2VLImageProcessorPil, "torchvision": Qwen2VLImageProcessor}
TILES = [Idefics3ImageProcessorPil, Idefics3ImageProcessor, SmolVLMImageProcessorPil, SmolVLMImageProcessor]
SIDES = st.tuples(st.integers(1, 150), st.integers(1, 150)) | st.tuples(st.integers(1, 9), st.integers(300, 900))
FEW = settings(max_examples=40, deadline=None)


def noise(width, height, seed):
    drawn = np.random.default_rng(seed)
    return Image.fromarray(drawn.integers(0, 256, (height, width, 3), dtype=np.uint8))


def steps_of(processor, family="qwen2_vl", **tokens):
    """What an export makes of an image processor."""
    vision = SimpleNamespace(patch_size=4, image_size=16)
    config = SimpleNamespace(model_type=family, vision_config=vision)
    return images_of(SimpleNamespace(image_processor=processor, **tokens), config)


@pytest.mark.parametrize(
    ("number", "mode"),
    [(Image.Resampling.BICUBIC, InterpolationMode.BICUBIC), (Image.Resampling.LANCZOS, InterpolationMode.LANCZOS)],
)
@given(old=SIDES, new=SIDES, seed=st.integers(0))
@example(old=(2500, 70), new=(300, 8), seed=0)
@FEW
def test_resized_bytes_are_torchvisions(number, mode, old, new, seed):
    pixels = np.asarray(noise(*old, seed))
    tensor = torch.from_numpy(pixels.copy()).permute(2, 0, 1)
    wanted = resize(tensor, [new[1], new[0]], interpolation=mode, antialias=True).permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(torchvision_bytes(pixels, *new, number), wanted)


@pytest.mark.parametrize("backend", PATCHES)
@given(sides=SIDES, seed=st.integers(0))
@FEW
def test_patches_are_the_processors(backend, sides, seed):
    processor = PATCHES[backend](patch_size=4, merge_size=2, size=LIMITS)
    steps, image = steps_of(processor), within_limits(noise(*sides, seed))
    wanted = processor(images=[image], return_tensors="pt")
    rows, columns = steps.grid(*image.size)
    assert wanted["image_grid_thw"].tolist() == [[1, rows * 2, columns * 2]]
    found = steps([image])
    assert found.shape == (1, rows * columns, 4, 3 * 4 * 4)
    values = wanted["pixel_values"].numpy().reshape(rows * columns, 4, 3, 2, 16)
    for moment in (0, 1):  # the processor has a still image twice
        np.testing.assert_allclose(found[0].reshape(-1, 4, 3, 16), values[:, :, :, moment], atol=1e-6)


@pytest.mark.parametrize("split", [True, False])
@pytest.mark.parametrize("kind", TILES)
@given(sides=SIDES, seed=st.integers(0))
@example(sides=(48, 48), seed=0)
@example(sides=(16, 16), seed=0)
@FEW
def test_tiles_are_the_processors(kind, split, sides, seed):
    processor = kind(size={"longest_edge": 48}, max_image_size={"longest_edge": 16}, do_image_splitting=split)
    steps = steps_of(processor, "idefics3", fake_image_token="F", global_image_tag="G")
    image = within_limits(noise(*sides, seed))
    wanted = processor(images=[[image]], return_tensors="pt", return_row_col_info=True)
    assert steps.grid(*image.size) == (wanted["rows"][0][0], wanted["cols"][0][0])
    np.testing.assert_allclose(steps([image]), wanted["pixel_values"][0].numpy(), atol=1e-6)
    assert wanted["pixel_attention_mask"].all()  # the graph has no mask


def test_they_come_back_from_json():
    tokens = {"fake_image_token": "F", "global_image_tag": "G"}
    tiling = Idefics3ImageProcessor(size={"longest_edge": 48}, max_image_size={"longest_edge": 16})
    for made, kind in (
        (steps_of(Qwen2VLImageProcessor(patch_size=4, size=LIMITS)), Patches),
        (steps_of(tiling, "smolvlm", **tokens), Tiles),
    ):
        assert kind.from_dict(json.loads(json.dumps(asdict(made)))) == made


@pytest.mark.parametrize(
    ("processor", "family"),
    [
        (Qwen2VLImageProcessorPil(patch_size=14), "qwen2_vl"),
        (Qwen2VLImageProcessor(patch_size=4, resample=Image.Resampling.BILINEAR), "qwen2_vl"),
        (Qwen2VLImageProcessorPil(patch_size=4, do_normalize=False), "qwen2_5_vl"),
        (Idefics3ImageProcessorPil(size={"longest_edge": 48}), "idefics3"),
        (Idefics3ImageProcessorPil(size={"longest_edge": 5000}, max_image_size={"longest_edge": 16}), "smolvlm"),
        (Idefics3ImageProcessorPil(size={"height": 48, "width": 48}, max_image_size={"longest_edge": 16}), "smolvlm"),
        (Qwen2VLImageProcessorPil(patch_size=4), "idefics3"),
    ],
    ids=["another patch", "a filter", "not normalised", "another tile", "too large", "one size", "another family's"],
)
def test_what_it_cannot_do_is_refused_by_name(processor, family):
    with pytest.raises(ModelError, match=rf"image processor {type(processor).__name__}: .*--text-only"):
        steps_of(processor, family, fake_image_token="F", global_image_tag="G")
