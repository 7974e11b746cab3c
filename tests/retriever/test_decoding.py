"""JPEGs decoded small: never fewer patches or less than twice the sides that a processor makes of them."""

import functools
import io

import numpy as np
import pytest
from PIL import Image

from puma.items import Item, open_image
from puma.retriever.images.decoding import OVERSAMPLING, decode_side


def qwen(most):
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    return Qwen2VLImageProcessorPil(size={"shortest_edge": 4 * 784, "longest_edge": most * 784})


def smolvlm(longest, tile, split):
    from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

    return SmolVLMImageProcessorPil(
        size={"longest_edge": longest}, max_image_size={"longest_edge": tile}, do_image_splitting=split
    )


def clip(**options):
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    return CLIPImageProcessorPil(**options)


def scene(width, height, seed=0):
    """Colour with the spectrum of photographs (amplitude 1/f), sharp-edged discs and noise, as a JPEG."""
    generator = np.random.default_rng(seed)
    pitch = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    pitch[0, 0] = 1 / max(width, height)
    planes = [np.fft.irfft2(np.fft.rfft2(generator.normal(size=(height, width))) / pitch, (height, width))] * 3
    planes = [plane + 0.5 * np.roll(plane, 40 * n, 1) for n, plane in enumerate(planes)]
    pixels = np.stack([50 * plane / plane.std() + 128 for plane in planes], -1)
    down, right = np.mgrid[:height, :width]
    for _ in range(10):
        x, y, radius = generator.uniform(0, width), generator.uniform(0, height), generator.uniform(10, 90)
        pixels[(right - x) ** 2 + (down - y) ** 2 < radius**2] = generator.uniform(0, 255, 3)
    stream = io.BytesIO()
    Image.fromarray((pixels + generator.normal(0, 4, pixels.shape)).clip(0, 255).astype(np.uint8)).save(stream, "JPEG")
    return stream.getvalue()


@pytest.mark.parametrize(
    ("processor", "size", "side"),
    [
        (qwen(300), (4032, 3024), 1512),  # 560 x 420 wanted: a quarter would be 1008 x 756, less than twice that
        (qwen(300), (3024, 4032), 1512),
        (qwen(300), (640, 480), None),
        (qwen(16000), (4032, 3024), None),
        (qwen(300), (4031, 3024), None),  # half of 4031 is no whole number
        (qwen(300), (8000, 8), None),  # refused by the processor
        (smolvlm(2048, 512, False), (4032, 3024), 1512),
        (smolvlm(1024, 512, True), (4096, 3072), None),  # cut into tiles
        (clip(size={"shortest_edge": 336}), (4032, 3024), 756),
        (clip(size={"height": 64, "width": 64}, do_center_crop=False), (1600, 1200), 150),
        (clip(size={"height": 64, "width": 64}, do_center_crop=False), (1600, 256), 128),
        (clip(do_resize=False), (4032, 3024), None),
        (object(), (4032, 3024), None),
    ],
)
def test_the_side_that_suffices(processor, size, side):
    assert decode_side(processor, size) == side
    if side is not None:
        data = io.BytesIO()
        Image.new("RGB", size).save(data, "JPEG")
        opened = open_image(data.getvalue(), least_side=functools.partial(decode_side, processor))
        assert min(opened.size) == side
        assert opened.size[0] * size[1] == opened.size[1] * size[0], "the very shape"


@pytest.mark.parametrize("processor", [qwen(100), smolvlm(512, 128, False), clip(size={"shortest_edge": 112})])
def test_what_the_processor_makes_of_it_is_nearly_the_same(processor):
    """Measured: cosine 0.9997 and more, a mean difference of less than one of 255 levels."""
    data = scene(1600, 1200)
    side = functools.partial(decode_side, processor)
    assert side((1600, 1200)) is not None
    full, small = Item(image=data).open_image(), Item(image=data).open_image(least_side=side)
    assert full.width >= 2 * small.width
    made = [np.asarray(processor(image, return_tensors="np")["pixel_values"]) for image in (full, small)]
    assert made[0].shape == made[1].shape
    left, right = (pixels.astype(float).ravel() for pixels in made)
    assert left @ right / np.linalg.norm(left) / np.linalg.norm(right) > 0.999
    assert np.abs(left - right).mean() * 0.27 * 255 < 2, "levels; 0.27 is the processors' deviation"
    assert OVERSAMPLING == 2


def test_other_formats_are_never_decoded_small():
    stream = io.BytesIO()
    Image.new("RGB", (4032, 3024)).save(stream, "PNG")
    assert open_image(stream.getvalue(), least_side=lambda size: 100).size == (4032, 3024)
