"""Limits of an image's tokens, on the real processors' image halves."""

from types import SimpleNamespace

import pytest
from PIL import Image
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

from puma.errors import InputError
from puma.retriever.images.image_tokens import limit_image_tokens


@pytest.mark.parametrize("size", [(20, 30), (300, 200), (3000, 2000), (4000, 400)])
def test_qwen_images_become_4_to_300_tokens(size):
    processor = SimpleNamespace(image_processor=Qwen2VLImageProcessorPil())
    limit_image_tokens(processor, 4, 300)
    grid = processor.image_processor(images=[Image.new("RGB", size)], return_tensors="pt")["image_grid_thw"]
    assert 4 <= int(grid.prod()) // 4 <= 300  # four patches a token


def test_qwen_limits_outlive_saving(tmp_path):
    processor = SimpleNamespace(image_processor=Qwen2VLImageProcessorPil())
    image = Image.new("RGB", (900, 900))
    before = processor.image_processor(images=[image], return_tensors="pt")["image_grid_thw"]
    assert int(before.prod()) // 4 > 9
    limit_image_tokens(processor, 4, 9)
    processor.image_processor.save_pretrained(tmp_path)
    again = Qwen2VLImageProcessorPil.from_pretrained(tmp_path)
    grid = again(images=[image], return_tensors="pt")["image_grid_thw"]
    assert int(grid.prod()) // 4 <= 9


def test_smolvlm_images_stay_whole():
    processor = SimpleNamespace(image_processor=SmolVLMImageProcessorPil(), image_seq_len=64)
    image = [[Image.new("RGB", (2000, 1500))]]
    tiles = processor.image_processor(images=image, return_tensors="np")["pixel_values"].shape[1]
    limit_image_tokens(processor, 4, 300)
    assert tiles > 1
    assert processor.image_processor(images=image, return_tensors="np")["pixel_values"].shape[1] == 1


@pytest.mark.parametrize(
    ("processor", "limits", "says"),
    [
        (SimpleNamespace(image_processor=SimpleNamespace()), (4, 300), "no limit to set"),
        (SimpleNamespace(image_processor=SmolVLMImageProcessorPil(), image_seq_len=64), (4, 63), "64 tokens"),
        (SimpleNamespace(image_processor=Qwen2VLImageProcessorPil()), (0, 300), "1 <= fewest"),
        (SimpleNamespace(image_processor=Qwen2VLImageProcessorPil()), (9, 4), "fewest <= most"),
    ],
)
def test_what_cannot_be_limited_is_refused(processor, limits, says):
    with pytest.raises(InputError, match=says):
        limit_image_tokens(processor, *limits)
