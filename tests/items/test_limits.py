"""Limits by the memory that decoding takes: large photographs open, JPEGs smaller where they must, bombs do not; and
the formats of today's phones."""

import io

import numpy as np
import pytest
from PIL import Image, features

from puma.errors import ImageError, InputError
from puma.items import formats, limits, open_image, opening
from puma.items.thumbnails import make_thumbnail
from support.openpics_sources import png_header


@pytest.fixture
def memory(monkeypatch):
    monkeypatch.setattr(limits, "_memory", limits.MAX_MEMORY)
    return limits.set_image_memory


def encoded(image, kind, **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def photo(width, height, mode="RGB"):
    """Four coloured quarters: where they lie shows that nothing was turned or cut."""
    image = Image.new(mode, (width, height), 0)
    for n, colour in enumerate(((200, 0, 0), (0, 200, 0), (0, 0, 200), (200, 200, 0))):
        box = (n % 2 * width // 2, n // 2 * height // 2)
        image.paste(Image.new("RGB", (width // 2, height // 2), colour).convert(mode), box)
    return image


def quarters(image):
    width, height = image.size
    places = [(x * width // 4, y * height // 4) for y in (1, 3) for x in (1, 3)]
    return [image.getpixel(place) for place in places]


def near(image, other):
    return np.abs(np.array(quarters(image), int) - np.array(quarters(other), int)).max() < 12


@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_that_does_not_fit_is_decoded_smaller(memory, progressive):
    whole = photo(1600, 1200)
    data = encoded(whole, "JPEG", progressive=progressive)
    held = limits.COEFFICIENTS * 1600 * 1200 if progressive else 0
    for scale in (1, 2, 4, 8):
        memory(max(limits.LEAST_MEMORY, held + limits.PLAIN * (1600 // scale) * (1200 // scale)))
        found = open_image(data)
        if limits.image_memory() > limits.LEAST_MEMORY:
            assert found.size == (1600 // scale, 1200 // scale)
        assert near(found, whole)
    if progressive:  # its coefficients are held at full size
        memory(held)
        with pytest.raises(ImageError, match=r"1600 x 1200 pixels take about .* MiB .*--image-memory"):
            open_image(data)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM"])
def test_other_formats_that_do_not_fit_are_refused_before_they_are_decoded(memory, kind):
    data = encoded(photo(600, 500), kind)
    memory(limits.PLAIN * 600 * 500)
    assert open_image(data).size == (600, 500)
    memory(limits.PLAIN * 600 * 500 - 1)
    with pytest.raises(ImageError, match=r"600 x 500 pixels take"):
        open_image(data)


def test_a_jpeg_of_108_megapixels_opens_and_has_a_thumbnail():
    data = encoded(photo(12_000, 9_000, "L"), "JPEG")
    assert min(open_image(data, least_side=200).size) >= 200
    with Image.open(io.BytesIO(make_thumbnail(data))) as small:
        assert small.size == (384, 288)


def test_a_panorama_beyond_the_limit_of_the_library_opens_without_a_warning():
    before = Image.MAX_IMAGE_PIXELS
    assert open_image(encoded(Image.new("L", (20_992, 4_800)), "PNG")).size == (20_992, 4_800)
    assert before == Image.MAX_IMAGE_PIXELS


def test_more_pixels_than_the_memory_holds_are_refused():
    with pytest.raises(ImageError, match="pixels"):
        open_image(encoded(Image.new("1", (20_000, 20_000)), "PNG"))
    with pytest.raises(ImageError, match="pixels"):
        open_image(png_header(60_000, 60_000))


def test_the_size_of_files_follows_a_memory_that_is_raised(memory, tmp_path):
    with open(tmp_path / "big.tif", "wb") as stream:
        stream.truncate(limits.MAX_BYTES + 1)
    with pytest.raises(ImageError, match="bytes are over the limit"):
        open_image(tmp_path / "big.tif")
    memory(limits.MAX_MEMORY * 2)
    assert limits.most_file_bytes() == limits.MAX_MEMORY


@pytest.mark.parametrize("size", [0, -1, 2.0**30, True, "2G", limits.LEAST_MEMORY - 1])
def test_a_memory_that_is_none_is_refused(memory, size):
    with pytest.raises(InputError, match="size must be a whole number of bytes"):
        memory(size)


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow has no AVIF")
@pytest.mark.parametrize("name", ["a.avif", "phone.jpg"])
def test_avif_is_read_under_any_name(tmp_path, name):
    (tmp_path / name).write_bytes(encoded(photo(64, 48), "AVIF", quality=95))
    assert near(open_image(tmp_path / name), photo(64, 48))


def test_heic_is_read_or_names_its_extra(tmp_path):
    if "HEIF" not in formats.EXTRA_FORMATS:
        (tmp_path / "a.jpg").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + b"\0" * 64)
        with pytest.raises(ImageError, match=r"pip install 'puma-retrieval\[heic\]'"):
            open_image(tmp_path / "a.jpg")
        return
    data = encoded(photo(64, 48), "HEIF", quality=95)
    assert near(open_image(data), photo(64, 48))
    assert near(opening.open_image(make_thumbnail(data)), photo(64, 48))


def test_without_a_decoder_the_reason_is_named(monkeypatch):
    monkeypatch.setattr(formats, "EXTRA_FORMATS", ())
    assert formats.why_no_decoder(".heic") == formats.why_not_read(b"\0\0\0\x18ftypmif1") == formats.NEEDS_HEIF
    assert formats.why_no_decoder(".avif") == formats.why_not_read(b"\0\0\0\x18ftypavif") == formats.NEEDS_AVIF
    assert formats.why_not_read(b"\0\0\0\x18ftypisom") is formats.why_no_decoder(".png") is None
