"""Pixel values by Pillow and numpy alone: bit for bit those of transformers' processors with the PIL backend."""

import json
from dataclasses import asdict
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from puma.errors import ModelError
from puma.retriever.images.pixels import Preprocessing
from puma.retriever.onnx.exporting import images_of

PROCESSORS = {
    "as the mini base": CLIPImageProcessorPil(
        size={"height": 48, "width": 48}, do_center_crop=False, image_mean=[0.5] * 3, image_std=[0.5] * 3
    ),
    "as CLIP": CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}),
    "cut smaller": CLIPImageProcessorPil(size={"shortest_edge": 41}, crop_size={"height": 32, "width": 17}),
    "fixed, cut": CLIPImageProcessorPil(size={"height": 40, "width": 30}, crop_size={"height": 21, "width": 30}),
    "as SigLIP": SiglipImageProcessorPil(size={"height": 24, "width": 36}, image_mean=[0.1, 0.5, 0.7], resample=2),
}


def preprocessing_of(processor):
    """What an export makes of an image processor of the families with images of one size."""
    return images_of(SimpleNamespace(image_processor=processor), SimpleNamespace(model_type="llava"))


def noise(width, height, seed):
    drawn = np.random.default_rng(seed)
    return Image.fromarray(drawn.integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize("name", PROCESSORS)
@given(sides=st.lists(st.tuples(st.integers(4, 150), st.integers(4, 150)), min_size=1, max_size=3), seed=st.integers(0))
@settings(max_examples=40, deadline=None)
def test_the_values_are_the_processors(name, sides, seed):
    images = [noise(*size, seed + place) for place, size in enumerate(sides)]
    wanted = PROCESSORS[name](images=images, return_tensors="np")["pixel_values"]
    found = preprocessing_of(PROCESSORS[name])(images)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, wanted)


def test_it_comes_back_from_json():
    for processor in PROCESSORS.values():
        made = preprocessing_of(processor)
        assert Preprocessing.from_dict(json.loads(json.dumps(asdict(made)))) == made


@pytest.mark.parametrize(
    "processor",
    [
        CLIPImageProcessorPil(size={"shortest_edge": 32}, do_center_crop=False),  # images of unlike sizes
        CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 64, "width": 32}),  # padded
        CLIPImageProcessorPil(size={"height": 48, "width": 48}, do_center_crop=False, do_normalize=False),
    ],
    ids=["no one size", "padded", "not normalised"],
)
def test_what_it_cannot_do_is_refused_by_name(processor):
    with pytest.raises(ModelError, match=rf"image processor {type(processor).__name__}: .*--text-only"):
        preprocessing_of(processor)


def test_torchvisions_pixels_are_others_and_refused():
    from transformers import CLIPImageProcessor

    processor = CLIPImageProcessor(size={"height": 48, "width": 48}, do_center_crop=False)
    assert not type(processor).__name__.endswith("Pil")
    with pytest.raises(ModelError, match="image processor CLIPImageProcessor"):
        preprocessing_of(processor)
