"""Texts that stand for an image: recognised where they are one, left alone where they are words."""

import base64
import io

import pytest
from PIL import Image

from puma.errors import ImageError, InputError
from puma.items import Item, as_item
from puma.items.digest import content_digest
from puma.items.references import encoded_bytes, image_reference, is_address, what_instead


def encoded(kind):
    stream = io.BytesIO()
    Image.new("RGB", (9, 9), (1, 2, 3)).save(stream, kind)
    return stream.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "TIFF"])
def test_an_images_bytes_are_recognised_bare_and_in_a_uri(kind):
    bare = base64.b64encode(encoded(kind)).decode()
    assert image_reference(bare) == "base64"
    assert image_reference(f"\n{bare[:30]}\n{bare[30:]}") == "base64"
    for uri in (
        f"data:image/{kind.lower()};base64,{bare}",
        f" DATA:IMAGE/{kind};BASE64,{bare}",
        f"data:;base64,{bare}",
    ):
        assert image_reference(uri) == "data URI"
        assert encoded_bytes(uri, "image", 10**6) == encoded(kind)
    assert image_reference(f"https://example.org/a b.{kind.lower()}") is None
    assert image_reference(f"https://example.org/a.{kind.lower()}?w=3#x") == "address"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a red fox",
        "data: the new oil",
        "data:",
        "iVBORw0KGgo",
        "/9j/ is how a JPEG begins in base64, as you can see",
        "look: data:image/png;base64,AAAA",
        "https://example.org/",
        "see https://example.org/a.png",
        "a.png",
        "/tmp/a.png",
    ],
)
def test_words_stay_words(text):
    assert image_reference(text) is None


def test_a_data_uri_without_its_head_or_among_words():
    bare = base64.b64encode(encoded("PNG")).decode()
    assert image_reference(f"image/png;base64,{bare}") == "data URI"
    assert image_reference(f"what is in data:image/png;base64,{bare}?") == "data URI among words"
    assert image_reference(f"![a fox](data:image/png;base64,{bare})") == "data URI among words"


@pytest.mark.parametrize("box", [b"\0\0\0\x20ftypavif", b"\0\0\0\x18ftypheic"])
def test_formats_that_begin_with_a_box(box):
    assert image_reference(base64.b64encode(box + bytes(60)).decode()) == "base64"


def test_in_python_a_string_that_is_an_image_is_refused():
    uri = "data:image/png;base64," + base64.b64encode(encoded("PNG")).decode()
    for text in (uri, uri.partition(",")[2]):
        with pytest.raises(InputError, match="an image as base64, not words"):
            as_item(text)
    assert as_item("data: the new oil").text == "data: the new oil"


def test_addresses_and_paths():
    for text in (
        "https://a/b.png",
        "HTTP://a",
        "s3://b/k",
        "gs://b/k",
        "hf://d/x",
        "file:///etc/x",
        "//cdn/a",
        "ftp:x",
    ):
        assert is_address(text), text
    for text in ("a.png", "/a/b.png", "C:\\a.png", "C:/a.png", "./https/a.png", "httpsa.png", "a:b"):
        assert not is_address(text), text


@pytest.mark.parametrize("path", ["https://example.org/a.png", "s3://bucket/a.png"])
def test_an_address_given_for_a_file_is_called_one(path):
    for use in (lambda: content_digest(Item(image=path)), lambda: Item(image=path).open_image()):
        with pytest.raises(ImageError, match="never fetched; download the image"):
            use()
    with pytest.raises(ImageError, match="no such file"):
        Item(image="nowhere.png").open_image()


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"<!DOCTYPE html>\n<html><head><title>404</title>", "an HTML page"),
        (b"\xef\xbb\xbf <HTML><body>", "an HTML page"),
        (b"<html><body><svg xmlns='...'></svg></body></html>", "an HTML page"),
        (b"<!-- saved from --><!doctype html><html>", "an HTML page"),
        (b'<?xml version="1.0"?><html xmlns="...">', "an HTML page"),
        (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "an XML document"),
        (b'<?xml version="1.0"?>\n<!-- Inkscape -->\n<svg>', "an SVG drawing"),
        (b"<!DOCTYPE svg PUBLIC>", "an SVG drawing"),
        (b"%PDF-1.7", "a PDF document"),
        (b'{"error": "rate limit"}', "JSON"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "a pointer of Git LFS whose file was not fetched"),
        (b"\0\0\0\x18ftypheic\0\0", "a HEIC image"),
        (b"\0\0\0\x1cftypavif", "an AVIF image"),
        (b"\0\0\0\x20ftypisom", "a video"),
        (b"Not found", "plain text"),
        (b"\x80\x81\x82\xff", None),
        (b"", None),
    ],
)
def test_what_a_file_is_instead_of_an_image(data, what):
    assert what_instead(data) == what
    if what:
        with pytest.raises(ImageError, match=f"{what}, not an image of a known format"):
            Item(image=data).open_image()
