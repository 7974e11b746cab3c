"""Image processors with less of Python around them: the very same pixels, and whatever is not understood goes on."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPImageProcessorPil, Qwen2VLImageProcessorPil, SiglipImageProcessorPil

from puma.errors import ImageError
from puma.items import Item
from puma.retriever.images import quick_pixels as module
from puma.retriever.images.quick_pixels import QuickPixels, quick_pixels
from puma.retriever.inputs import for_threads
from puma.retriever.model import Retriever
from support import families
from support.plain import image

SQUARE = {"size": {"height": 24, "width": 32}, "do_center_crop": False}
FIT = {
    "clip": lambda: CLIPImageProcessorPil(**SQUARE),
    "siglip": lambda: SiglipImageProcessorPil(size={"height": 30, "width": 30}),
    "crop": lambda: CLIPImageProcessorPil(size={"shortest_edge": 24}, crop_size={"height": 20, "width": 24}),
    "nearest": lambda: CLIPImageProcessorPil(**SQUARE, resample=0),
    "statistics": lambda: SiglipImageProcessorPil(
        size={"height": 8, "width": 9}, image_mean=[0.1, 0.5, 0.9], image_std=[0.2, 0.3, 0.4], rescale_factor=1 / 127
    ),
}
UNFIT = {
    "pads": lambda: CLIPImageProcessorPil(**SQUARE, do_pad=True, pad_size={"height": 40, "width": 40}),
    "shortest edge": lambda: CLIPImageProcessorPil(size={"shortest_edge": 24}, do_center_crop=False),
    "does not scale": lambda: CLIPImageProcessorPil(**SQUARE, do_normalize=False),
    "patches": lambda: Qwen2VLImageProcessorPil(),
}


@pytest.mark.parametrize("name", FIT)
def test_pixels_are_the_very_same(name):
    plain = FIT[name]()
    quick = quick_pixels(plain)
    assert isinstance(quick, QuickPixels)
    images = [[Image.fromarray(np.asarray(image(n, size)))] for n, size in enumerate([(40, 60), (300, 11), (24, 32)])]
    for given in (images, images[:1], [one for held in images for one in held]):
        expected, found = (each(given, return_tensors="pt")["pixel_values"] for each in (plain, quick))
        assert found.dtype == expected.dtype
        assert torch.equal(found, expected)
        assert found.is_contiguous()


@pytest.mark.parametrize("name", UNFIT)
def test_other_processors_stay_as_they_are(name):
    processor = UNFIT[name]()
    assert quick_pixels(processor) is processor


def test_what_is_not_understood_goes_on_to_the_processor():
    plain = FIT["clip"]()
    quick = quick_pixels(plain)
    grey, colour = image(1).convert("L"), image(2)
    for given, options in (
        ([grey, colour], {"return_tensors": "pt"}),
        ([np.asarray(colour)], {"return_tensors": "pt"}),
        ([colour], {"return_tensors": "np"}),
        ([colour], {"return_tensors": "pt", "do_normalize": False}),
    ):
        expected, found = (np.asarray(each(given, **options)["pixel_values"]) for each in (plain, quick))
        np.testing.assert_array_equal(found, expected)
    assert quick.size == plain.size
    assert quick.to_json_string() == plain.to_json_string()


def test_a_processor_that_does_otherwise_is_noticed(monkeypatch):
    class Darker(CLIPImageProcessorPil):
        def normalize(self, image, mean, std, **options):
            return super().normalize(image, mean, std, **options) - 1

    assert type(quick_pixels(Darker(**SQUARE))) is Darker
    monkeypatch.setattr(module, "_STEPS", {})
    monkeypatch.setattr(QuickPixels, "__call__", lambda self, *_, **__: {"pixel_values": torch.zeros(1)})
    assert type(quick_pixels(FIT["clip"]())) is CLIPImageProcessorPil


def test_changed_settings_change_the_pixels():
    processor = FIT["clip"]()
    before = quick_pixels(processor)([image(1)], return_tensors="pt")["pixel_values"]
    processor.image_mean = [0.9, 0.9, 0.9]
    after = quick_pixels(processor)([image(1)], return_tensors="pt")["pixel_values"]
    assert torch.equal(after, processor([image(1)], return_tensors="pt")["pixel_values"])
    assert not torch.equal(before, after)


@pytest.mark.parametrize("family", families.FAMILIES)
def test_families_make_the_same_inputs(family, family_base):
    made = Retriever.from_base(family_base(family), layers=2, device="cpu")
    items = [Item(image=image(n, (40 + n, 60)), text="red fox") for n in range(3)]
    plain, quick = made.inputs.features(items), for_threads(made.inputs).features(items)
    assert plain.keys() == quick.keys()
    for name in plain:
        assert torch.equal(plain[name], quick[name]), name
    fit = isinstance(for_threads(made.inputs).processor.image_processor, QuickPixels)
    assert fit == (family in ("fast_vlm", "llava")), family
    with pytest.raises(ImageError):
        for_threads(made.inputs).features([Item(image=b"no image")])
