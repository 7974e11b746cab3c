"""Images that come again: the same vectors, one pass through the tower, nothing kept beyond its time."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from puma.items import Item
from puma.retriever.encoding import seen_images
from puma.retriever.encoding.bounded import BoundedMemory
from puma.retriever.encoding.repeats import FEW, image_keys
from puma.retriever.encoding.seen_images import SeenImages, takes_seen_images
from puma.retriever.model import Retriever
from support import families
from support.plain import plain_vectors
from support.seeing import counted_seeing

CANNOT = ("gemma3",)
"""Its processor writes line breaks around an image, which may join with a text."""


@pytest.fixture(scope="module", params=families.FAMILIES)
def retriever(request, family_base):
    made = Retriever.from_base(family_base(request.param), layers=2, device="cpu")
    made.family = request.param
    return made


def picture(seed, size=(40, 24)):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8))


def encoded(seed, size=(40, 24)):
    stream = io.BytesIO()
    picture(seed, size).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture
def counted(retriever, monkeypatch):
    """How many images were read by the processor, and how many passes went through the tower."""
    return counted_seeing(retriever, monkeypatch)


def test_an_image_with_many_texts_is_read_once(retriever, counted):
    images = [picture(n, (40, 24 + 8 * n)) for n in range(3)]
    texts = [None, "a red fox", "blue", "\nheart", "cat dog house", " above"]
    items = [Item(image=image, text=text) for text in texts for image in images]
    expected = plain_vectors(retriever, items)
    counted.update(read=0, passes=0)
    found = retriever.encode(items, batch_size=4)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert counted["read"] == (len(items) if retriever.family in CANNOT else len(images))


def test_a_few_images_are_known_to_the_next_call_by_their_content(retriever, counted, tmp_path):
    (tmp_path / "a.png").write_bytes(encoded(5))
    expected = plain_vectors(retriever, [Item(image=encoded(5), text="red")], "Find it.")
    counted.update(read=0, passes=0)
    first = retriever.encode([encoded(5)])
    np.testing.assert_allclose(first, plain_vectors(retriever, [Item(image=encoded(5))]), atol=1e-5)
    counted.update(read=0, passes=0)
    found = retriever.encode([{"image": tmp_path / "a.png", "text": "red"}], "Find it.")
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert counted == ({"read": 1, "passes": 1} if retriever.family in CANNOT else {"read": 0, "passes": 0})
    counted.update(read=0, passes=0)
    retriever.encode([encoded(6)])
    assert counted == {"read": 1, "passes": 1}


def test_other_weights_and_other_processing_see_anew(retriever, counted):
    retriever.encode([encoded(5)])
    weight = next(p for name, p in retriever.model.named_parameters() if "layers" not in name and p.ndim >= 4)
    counted.update(read=0, passes=0)
    with torch.no_grad():
        before = weight.clone()
        weight.mul_(1.5)
        try:
            expected = plain_vectors(retriever, [Item(image=encoded(5))])
            counted.update(read=0, passes=0)
            np.testing.assert_allclose(retriever.encode([encoded(5)]), expected, atol=1e-5)
            assert counted == {"read": 1, "passes": 1}
        finally:
            weight.copy_(before)
    processor = retriever.processor.image_processor
    mean = processor.image_mean
    try:
        processor.image_mean = [0.1, 0.2, 0.3]
        counted.update(read=0, passes=0)
        retriever.encode([encoded(5)])
        assert counted == {"read": 1, "passes": 1}
    finally:
        processor.image_mean = mean


def test_many_images_leave_nothing_to_other_calls(retriever, counted):
    items = [Item(image=picture(n)) for n in range(FEW + 1)]
    retriever.encode(items)
    assert not seen_images.MEMORIES
    counted.update(read=0, passes=0)
    retriever.encode(items)
    assert counted["read"] == FEW + 1


def test_what_no_longer_fits_is_seen_again(retriever, counted, monkeypatch):
    monkeypatch.setattr(seen_images, "BoundedMemory", lambda most_bytes: BoundedMemory(1))
    items = [Item(image=picture(0), text=text) for text in ("a", "b", "red")]
    expected = plain_vectors(retriever, items)
    counted.update(read=0, passes=0)
    np.testing.assert_allclose(retriever.encode(items, batch_size=1), expected, atol=1e-5)
    assert counted["read"] == 3


def test_models_that_take_no_outputs_of_a_tower_go_without(retriever, monkeypatch):
    assert takes_seen_images(retriever.model)
    monkeypatch.setattr(type(retriever.model), "forward", lambda self, input_ids, pixel_values=None: None)
    assert not takes_seen_images(retriever.model)


def test_a_typed_placeholder_is_no_image(retriever):
    """A text that holds the placeholder's letters has them taken apart, so the image's place is clear."""
    items = [Item(image=picture(1), text=f"{retriever.prompt.image} {n}") for n in range(2)]
    seen = SeenImages(
        retriever.model, retriever.inputs, items, [None, None], image_keys([item.image for item in items])
    )
    assert seen.again == [False, True]
    np.testing.assert_allclose(retriever.encode(items, batch_size=1), plain_vectors(retriever, items), atol=1e-5)
