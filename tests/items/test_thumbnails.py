"""Thumbnails: size, format, orientation, transparency, no metadata; large JPEGs' short way agrees with the long."""

import io

import numpy as np
import pytest
from PIL import Image, ImageDraw

from puma.errors import ImageError, InputError
from puma.items import open_image
from puma.items.thumbnails import MEDIA_TYPE, SIDE, make_thumbnail


def scene(width, height):
    """Something with large and small parts, smooth enough that scaling it is well-defined."""
    image = Image.new("RGB", (width, height), (240, 240, 230))
    draw = ImageDraw.Draw(image)
    draw.ellipse((width // 8, height // 8, width // 2, height // 2), (200, 30, 30))
    draw.rectangle((width // 2, height // 2, width * 7 // 8, height * 3 // 4), (20, 60, 180))
    return image


def jpeg(image, **options):
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=95, **options)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("size", "expected"),
    [((1000, 500), (384, 192)), ((500, 1000), (192, 384)), ((384, 384), (384, 384)), ((7, 5), (7, 5)),
     ((3000, 1), (384, 1)), ((1, 1), (1, 1))],
)  # fmt: skip
def test_it_fits_the_side_and_is_never_enlarged(size, expected):
    with Image.open(io.BytesIO(make_thumbnail(Image.new("RGB", size, (9, 9, 9))))) as found:
        assert (found.size, found.format, found.mode) == (expected, "JPEG", "RGB")
    assert MEDIA_TYPE == "image/jpeg"


def test_a_large_jpeg_decoded_small_looks_like_the_same_scaled(tmp_path):
    image = scene(2400, 1600)
    (tmp_path / "large.jpg").write_bytes(jpeg(image))
    long_way = np.asarray(image.resize((384, 256), Image.Resampling.LANCZOS), dtype=float)
    for source in (tmp_path / "large.jpg", jpeg(image), image):
        short_way = np.asarray(open_image(make_thumbnail(source)), dtype=float)
        assert short_way.shape == long_way.shape
        assert np.abs(short_way - long_way).mean() < 2


@pytest.mark.parametrize("size", [(1600, 1200), (300, 200)])
def test_it_is_upright_and_carries_no_metadata(size):
    exif = Image.Exif()
    exif[0x112] = 6  # turned a quarter
    exif[0x10F] = "a camera"
    with Image.open(io.BytesIO(make_thumbnail(jpeg(scene(*size), exif=exif, comment=b"where I live")))) as found:
        assert found.height > found.width
        assert not found.getexif()
        assert not {"comment", "exif", "icc_profile", "xmp"} & set(found.info)


def test_transparency_becomes_white_and_an_animation_its_first_frame(tmp_path):
    clear = Image.new("RGBA", (20, 20), (255, 0, 0, 0))
    assert open_image(make_thumbnail(clear)).getpixel((5, 5)) == (255, 255, 255)
    frames = [Image.new("RGB", (20, 20), colour) for colour in ((0, 0, 255), (0, 255, 0))]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    red, green, blue = open_image(make_thumbnail(tmp_path / "moving.gif")).getpixel((5, 5))
    assert blue > 200 > 60 > red + green


def test_what_cannot_be_opened_is_an_image_error_that_names_it(tmp_path):
    whole = jpeg(scene(1600, 1200))
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "wrong.jpg").write_bytes(b"\xff\xd8\xff" + b"no" * 100)
    for name in ("cut.jpg", "wrong.jpg", "gone.jpg", "."):
        with pytest.raises(ImageError, match="folder" if name == "." else name):
            make_thumbnail(tmp_path / name)


def test_a_jpeg_made_to_be_slow_is_refused():
    whole = jpeg(scene(1600, 1200), progressive=True)
    start = whole.index(b"\xff\xda")
    stop = whole.index(b"\xff", start + 2)
    slow = whole[:start] + whole[start:stop] * 2000 + whole[start:]
    with pytest.raises(ImageError, match="scans"):
        make_thumbnail(slow)


@pytest.mark.parametrize("side", [0, -1, 70_000, 1.5, True, "384"])
def test_a_wrong_side_is_an_error(side):
    with pytest.raises(InputError, match="side must be"):
        make_thumbnail(Image.new("RGB", (4, 4)), side)


def test_the_default_side():
    assert max(open_image(make_thumbnail(scene(900, 600))).size) == SIDE
