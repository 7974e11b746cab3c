"""Items and the safe opening of images."""

import io

import numpy as np
import pytest
from PIL import Image

from puma.errors import ImageError, InputError
from puma.items import Item, as_item, open_image


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def test_modality_by_what_is_there():
    image = Image.new("RGB", (4, 4))
    assert Item(text="a").modality == "text"
    assert Item(image=image).modality == "image"
    assert Item(text="a", image=image).modality == "image,text"
    assert Item(text="  ", image=image).modality == "image"


@pytest.mark.parametrize("value", [{}, {"text": None}, {"text": " \n"}, {"text": "", "image": ""}])
def test_nothing_is_no_item(value):
    with pytest.raises(InputError, match="needs text or an image"):
        as_item(value)


@pytest.mark.parametrize("value", [3, None, ["a"], {"txt": "a"}])
def test_what_is_no_item_is_refused(value):
    with pytest.raises(InputError):
        as_item(value)


def test_a_string_is_never_a_path(tmp_path):
    path = tmp_path / "a.png"
    Image.new("RGB", (4, 4)).save(path)
    assert as_item(str(path)).modality == "text"
    assert as_item(path).modality == "image"


def test_missing_path_is_an_error_not_a_text(tmp_path):
    with pytest.raises(ImageError, match=r"nowhere\.png: no such file"):
        Item(image=tmp_path / "nowhere.png").open_image()


def test_transparency_becomes_white_and_palette_too():
    clear = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    assert np.asarray(open_image(encoded(clear))).min() == 255
    palette = Image.new("P", (4, 4), 0)
    palette.putpalette([10, 20, 30] + [0] * 765)
    assert open_image(encoded(palette, transparency=0)).getpixel((0, 0)) == (255, 255, 255)


def test_exif_rotation_is_applied():
    image = Image.new("RGB", (6, 3), (1, 2, 3))
    exif = Image.Exif()
    exif[0x0112] = 6
    assert open_image(encoded(image, "JPEG", exif=exif)).size == (3, 6)


def test_first_frame_of_an_animation():
    frames = [Image.new("RGB", (4, 4), color) for color in ("red", "blue")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert open_image(data).getpixel((0, 0)) == (255, 0, 0)  # nothing else: RGB, not a stack


def test_sixteen_bit_grey_keeps_its_range():
    ramp = np.linspace(0, 65535, 16, dtype=np.uint16).reshape(4, 4)
    values = np.asarray(open_image(encoded(Image.fromarray(ramp))))
    assert values.min() == 0
    assert values.max() == 255


def test_limits_come_before_decoding(tmp_path):
    big = tmp_path / "big.png"
    Image.new("1", (20_000, 20_000)).save(big)
    with pytest.raises(ImageError, match=r"20000 x 20000|more pixels"):
        open_image(big)
    with pytest.raises(ImageError, match="over the limit"):
        open_image(encoded(Image.new("RGB", (64, 64))), max_bytes=10)


@pytest.mark.parametrize("cut", [0, 1, 20, 60])
def test_truncated_and_empty_files(tmp_path, cut):
    rng = np.random.default_rng(0)
    data = encoded(Image.fromarray(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)))
    path = tmp_path / "cut.png"
    path.write_bytes(data[:cut])
    with pytest.raises(ImageError, match=r"cut\.png"):
        open_image(path)


def test_svg_and_text_are_no_images(tmp_path):
    for name, content in (("a.svg", "<svg xmlns='http://www.w3.org/2000/svg'/>"), ("a.txt", "hello")):
        path = tmp_path / name
        path.write_text(content)
        with pytest.raises(ImageError, match="not an image of a known format"):
            open_image(path)
    with pytest.raises(ImageError, match="is a folder"):
        open_image(tmp_path)


def test_mutated_bytes_raise_only_image_errors():
    rng = np.random.default_rng(1)
    originals = [
        encoded(Image.fromarray(rng.integers(0, 255, (24, 24, 3), dtype=np.uint8)), kind)
        for kind in ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF")
    ]
    opened = refused = 0
    for number in range(300):
        data = bytearray(originals[number % len(originals)])
        for place in rng.integers(0, len(data), 4):
            data[place] = rng.integers(256)
        try:
            assert open_image(bytes(data)).mode == "RGB"
            opened += 1
        except ImageError:
            refused += 1
    assert opened > 0
    assert refused > 0


@pytest.mark.parametrize("array", [np.zeros((4, 4), np.float32), np.zeros((4, 4, 5), np.uint8), np.zeros(4, np.uint8)])
def test_arrays_of_other_shapes_are_refused(array):
    with pytest.raises(ImageError, match="uint8"):
        open_image(array)
