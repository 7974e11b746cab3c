"""Images as clients send them: what is taken, what is refused, and that refusing costs next to nothing."""

import base64
import struct
import zlib
from dataclasses import replace

import pytest
from PIL import Image

from puma.errors import ImageError
from puma.serve import images as images
from puma.serve.images import image_from_bytes, image_from_text
from puma.serve.settings import ServeSettings
from support.served import data_uri, png

LIMITS = ServeSettings()
PNG = png(size=(5, 3))
KINDS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")


def bare(data):
    return base64.b64encode(data).decode()


@pytest.mark.parametrize(
    "text",
    [
        data_uri(PNG),
        bare(PNG),
        data_uri(PNG, "IMAGE/PNG"),
        data_uri(PNG, "application/octet-stream"),
        data_uri(PNG, "image/png;name=a.png"),
        data_uri(PNG).replace("+", "%2B").replace("=", "%3D"),
        "\n".join(bare(PNG)[start : start + 20] for start in range(0, 200, 20)),
    ],
)
def test_forms_of_text_that_are_taken(text):
    assert image_from_text(text, LIMITS).data == PNG


@pytest.mark.parametrize("kind", KINDS)
def test_formats_and_sizes_are_told_from_the_header(kind, monkeypatch):
    def no_decoding(self):
        raise AssertionError("decoded")

    data = png(size=(31, 17), kind=kind)
    monkeypatch.setattr(Image.Image, "load", no_decoding)
    found = image_from_bytes(data, LIMITS)
    assert (found.width, found.height, found.format, found.bit_depth) == (31, 17, kind.lower(), 8)


@pytest.mark.parametrize("options", [{"lossless": True}, {"lossless": False}, {"save_all": True, "exif": b"Exif\0\0"}])
def test_sizes_of_every_kind_of_webp(tmp_path, options):
    path = tmp_path / "a.webp"
    Image.new("RGB", (1234, 77), (1, 2, 3)).save(path, **options)
    found = image_from_bytes(path.read_bytes(), LIMITS)
    assert (found.width, found.height) == (1234, 77)


def test_a_webp_that_claims_a_vast_canvas_is_refused_unopened(monkeypatch):
    monkeypatch.setattr(images.Image, "open", None)
    head = b"VP8X" + struct.pack("<I", 10) + bytes(4) + (16_383).to_bytes(3, "little") * 2
    with pytest.raises(ImageError, match="16384 x 16384 pixels"):
        image_from_bytes(b"RIFF" + struct.pack("<I", 99) + b"WEBP" + head + bytes(40), LIMITS)


@pytest.mark.parametrize(
    "text",
    [
        "http://127.0.0.1/a.png",
        "https://example.org/a.png",
        "HTTPS://example.org/a.png",
        " https://example.org/a.png",
        "//example.org/a.png",
        "file:///etc/passwd",
        "ftp://example.org/a.png",
        "s3://bucket/key",
    ],
)
def test_addresses_are_never_fetched(text):
    with pytest.raises(ImageError, match="never fetched"):
        image_from_text(text, LIMITS)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("/etc/passwd", "picture|base64"),
        ("C:\\pictures\\a.png", "base64"),
        ("data:image/png,abc", "must look like"),
        ("data:" + "x" * 500, "must look like"),
        ("data:image/png;base64,", "is empty"),
        ("data:image/png;base64,@@@@", "not base64"),
        ("data:image/png;base64,\ud800", "not base64"),
        ("abc", "not base64"),
        (bare(b"GIF89a"), "picture"),
        (bare(b"hello world, I am no picture"), "known format"),
        (data_uri(b"<svg/>", "image/svg+xml"), "SVG"),
        (bare(b'\n <?xml version="1.0"?><svg/>'), "SVG"),
        (bare(b"\xef\xbb\xbf<!DOCTYPE svg>"), "SVG"),
    ],
)
def test_what_is_no_image(text, words):
    with pytest.raises(ImageError, match=words):
        image_from_text(text, LIMITS)


def test_what_was_sent_instead_is_named():
    page = b"<!DOCTYPE html>\n<html><head><title>Not found</title></head><body><svg></svg></body></html>"
    with pytest.raises(ImageError, match="image: an HTML page, not a picture") as caught:
        image_from_bytes(page, LIMITS)
    assert "SVG" not in str(caught.value)
    with pytest.raises(ImageError, match="upload: a PDF document"):
        image_from_bytes(b"%PDF-1.4 ...", LIMITS, "upload")


def test_too_many_bytes_are_refused_before_base64_is_read(monkeypatch):
    limits = replace(LIMITS, max_image_bytes=len(PNG))
    assert image_from_text(data_uri(PNG), limits).data == PNG
    with pytest.raises(ImageError, match="over the limit"):
        image_from_bytes(PNG + b"\0", limits)
    monkeypatch.setattr(base64, "b64decode", None)
    with pytest.raises(ImageError, match="over the limit"):
        image_from_text(bare(PNG * 3), limits)


def bomb(width, height):
    """A PNG that claims a size and has nothing in it."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [7_000, 12_000, 100_000])
def test_too_many_pixels_are_refused_by_the_header(side):
    with pytest.raises(ImageError, match="pixels"):
        image_from_bytes(bomb(side, side), LIMITS)


def test_the_limit_of_pixels_is_the_settings():
    limits = replace(LIMITS, max_image_pixels=15)
    assert image_from_bytes(PNG, limits).width == 5
    with pytest.raises(ImageError, match="5 x 3 pixels are over the limit of 14"):
        image_from_bytes(PNG, replace(limits, max_image_pixels=14))
