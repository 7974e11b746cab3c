"""Items given more than once: recognised by content, read only where two can be equal."""

import os

import numpy as np
from PIL import Image

from puma.items import Item
from puma.retriever.encoding import repeats
from puma.retriever.encoding.repeats import content_keys, first_of_each, image_keys


def picture(seed, size=(20, 10)):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8))


def test_texts_images_and_instructions_are_told_apart(tmp_path):
    red, copy, blue = picture(0), picture(0), picture(1)
    items = [
        Item(text="a"),
        Item(text="a "),
        Item(text="a"),
        Item(image=red),
        Item(image=copy),
        Item(image=blue),
        Item(image=red, text="a"),
        Item(text="a"),
    ]
    firsts, which, keys = first_of_each(items, [None] * 7 + ["Find it."])
    assert firsts == [0, 1, 3, 5, 6, 7]
    assert which.tolist() == [0, 1, 0, 2, 2, 3, 4, 5]
    assert first_of_each([], [])[0] == []
    assert [key is None for key in keys] == [item.image is None for item in (items[i] for i in firsts)]


def test_files_bytes_arrays_and_images_are_compared_by_content(tmp_path):
    for name, seed in (("a", 0), ("same", 0), ("other", 1)):
        picture(seed).save(tmp_path / f"{name}.bmp")  # all of one length
    a, same, other = (tmp_path / f"{name}.bmp" for name in ("a", "same", "other"))
    data = a.read_bytes()
    array = np.asarray(picture(0))
    images = [a, str(a), same, other, data, bytes(bytearray(data)), array, array.copy(), np.asarray(picture(1)), None]
    keys = image_keys(images)
    assert keys[0] == keys[1] == keys[2] != keys[3]
    assert keys[4] == keys[5]
    assert keys[6] == keys[7] != keys[8]
    assert keys[9] is None
    assert len(set(keys)) == 6


def test_only_what_can_be_equal_is_read(tmp_path, monkeypatch):
    read = []
    plain = repeats.image_digest
    monkeypatch.setattr(repeats, "image_digest", lambda image: read.append(image) or plain(image))
    one, two = picture(0), picture(0, (8, 8))
    assert len(set(image_keys([one, two, one]))) == 2
    assert len(set(image_keys([one, picture(1), np.asarray(one), np.asarray(picture(1))]))) == 4
    for seed in range(3):  # files of one length that differ
        picture(seed).save(tmp_path / f"{seed}.bmp")
    assert len(set(image_keys([tmp_path / f"{seed}.bmp" for seed in range(3)]))) == 3
    assert read == []
    keys = image_keys([one, picture(1), picture(0), two])
    assert keys[0] == keys[2]
    assert len(read) == 2
    read.clear()
    content_keys([one, two], image_keys([one, two]))
    assert len(read) == 2


def test_images_that_are_not_decoded_yet_are_left_alone(tmp_path):
    picture(0).save(tmp_path / "a.png")
    opened = [Image.open(tmp_path / "a.png") for _ in range(2)]
    assert len(set(image_keys(opened))) == 2
    assert all(image.tile for image in opened)
    for image in opened:
        image.load()
    assert len(set(image_keys(opened))) == 1


def test_equal_samples_are_not_enough(tmp_path):
    """Two files, two arrays and two images that are alike where they are sampled."""
    array = np.zeros((64, 64, 3), np.uint8)
    other = array.copy()
    other[1, 1] = 9
    files = [tmp_path / "a.bmp", tmp_path / "b.bmp"]
    for path, pixels in zip(files, (array, other), strict=True):
        Image.fromarray(pixels).save(path)
    images = [*files, array, other, Image.fromarray(array), Image.fromarray(other)]
    keys = image_keys(images)
    assert keys[0] != keys[1]
    assert keys[2] == keys[4] != keys[3] == keys[5], "an array and an image of the same pixels are the same"


def test_digests_say_the_same_at_another_time(tmp_path):
    picture(0).save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    first, again = (
        content_keys(images, image_keys(images)) for images in ([tmp_path / "a.png", picture(3)], [data, picture(3)])
    )
    assert first == again
    assert first[0] != first[1]


def test_a_changed_file_is_another_image(tmp_path):
    path = tmp_path / "a.bmp"
    picture(0).save(path)
    before = image_keys([path])
    picture(1).save(path)
    os.utime(path, ns=(1, 1))
    assert image_keys([path]) != before


def test_what_cannot_be_read_equals_itself_alone(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    folders = [tmp_path / "a", tmp_path / "b"]
    gone = [tmp_path / "x.png", tmp_path / "x.png", tmp_path / "y.png"]
    keys = image_keys([*gone, *folders])
    assert keys[0] == keys[1]
    assert len(set(keys)) == 4
    first_of_each([Item(image=path) for path in gone], [None] * 3)


def test_what_was_digested_is_not_read_again(monkeypatch):
    read, plain = [], repeats.image_digest
    monkeypatch.setattr(repeats, "image_digest", lambda image: read.append(image) or plain(image))
    images = [picture(0), picture(0), picture(1), None]
    keys = image_keys(images)
    assert len(read) == 2
    found = content_keys(images, keys)
    assert len(read) == 3
    assert found[:2] == keys[:2]
    assert found[3] is None
    assert len(set(found)) == 3
