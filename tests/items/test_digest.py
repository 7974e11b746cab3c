"""Digests of content: what is the same, what is not, and that those on disks stay what they are."""

import hashlib

import numpy as np
import pytest
from PIL import Image

from puma.errors import ImageError, InputError
from puma.items import Item, open_image
from puma.items.digest import content_digest, image_digest, lenient_digest, plain_text, read_content


@pytest.fixture
def red(tmp_path):
    """A file of one red image."""
    file = tmp_path / "red.png"
    Image.new("RGB", (3, 2), (200, 30, 30)).save(file)
    return file


def test_digests_on_disk_stay_what_they_are(red):
    """Ids of index items, and keys of stored teacher states, as they were first written."""
    pixels = open_image(red)
    assert content_digest(Item(text="fox")) == "254722eb3a3ec336126d3ad45b6a3c43"
    output = hashlib.sha256(b"image,text\0003\0fox" + red.read_bytes()).hexdigest()[:32]
    assert content_digest(Item(text="fox", image=red)) == output
    of_pixels = hashlib.sha256(b"image\0000\0(3, 2)" + pixels.tobytes()).hexdigest()[:32]
    assert content_digest(Item(image=pixels)) == of_pixels
    assert image_digest(red) == hashlib.sha256(red.read_bytes()).digest()
    assert image_digest(pixels) == hashlib.sha256(b"(3, 2) " + pixels.tobytes()).digest()


def test_the_same_content_wherever_it_lies(red, tmp_path):
    copy = tmp_path / "copy.png"
    copy.write_bytes(red.read_bytes())
    assert image_digest(red) == image_digest(str(copy)) == image_digest(red.read_bytes())
    assert content_digest(Item(image=red)) == content_digest(Item(image=copy))
    assert image_digest(open_image(red)) == image_digest(np.asarray(open_image(red)))


def test_a_file_is_read_once_for_its_digest_and_its_pixels(red):
    digest, file = read_content(Item(text="fox", image=red))
    assert digest == content_digest(Item(text="fox", image=red)) == content_digest(Item(text="fox", image=file))
    assert file == red.read_bytes()
    assert Item(image=file).image_name == str(red)
    assert read_content(Item(image=file))[1] is read_content(Item(text="fox"))[1] is None


def test_other_content_has_another_digest(red):
    items = [Item(text="ab"), Item(text="a"), Item(image=red), Item(text="a", image=red), Item(image=open_image(red))]
    assert len({content_digest(item) for item in items}) == len(items)


def test_lenient_digests_take_white_space_for_one_blank(red, tmp_path):
    assert plain_text(" a \n red\tfox ") == "a red fox"
    assert plain_text(None) == ""
    assert lenient_digest(Item(text="a  fox ", image=red)) == content_digest(Item(text="a fox", image=red))
    assert content_digest(Item(text="a  fox ")) != content_digest(Item(text="a fox"))
    assert lenient_digest(Item(image=tmp_path / "gone.png")) is None


def test_what_cannot_be_read_is_named(tmp_path):
    for path, why in ((tmp_path / "gone.png", "no such file"), (tmp_path, "is a folder, not an image")):
        with pytest.raises(ImageError, match=why):
            content_digest(Item(image=path))
        with pytest.raises(ImageError, match=why):
            image_digest(path)
    with pytest.raises(InputError, match="not valid Unicode"):
        content_digest(Item(text="\ud800"))
