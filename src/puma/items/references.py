"""Texts that stand for an image without being one: data URIs, addresses, an image's bytes as base64. Loads no torch.

They are recognised so that none is embedded as if it were words, and none is looked for as if it were a file.
"""

from __future__ import annotations

import base64
import binascii
import re
from urllib.parse import unquote

from puma.errors import ImageError

_ADDRESS = re.compile(r"\s*(?:[a-z][a-z0-9+.-]{1,20}:)?//|\s*(?:file|ftp|https?|blob|s3|gs|hf):", re.IGNORECASE)
"""One letter before the colon is a drive of Windows, not a scheme."""
_DATA_URI = re.compile(
    r"\s*image/[a-z0-9.+-]+;\s*base64,|"  # what is left where somebody cut "data:" off
    r"\s*data:\s*(?:image/|[a-z]+/[a-z0-9.+-]+[;,]|;\s*base64)",
    re.IGNORECASE,
)
_IMAGE_ADDRESS = re.compile(
    r"\s*(?:https?|file|ftp|s3|gs|hf|blob):\S+\.(?:png|jpe?g|webp|gif|bmp|tiff?|ppm|avif|heic|svg)(?:[?#]\S*)?\s*",
    re.IGNORECASE,
)
_INSIDE = re.compile(r"data:image/[a-z0-9.+-]+;base64,[A-Za-z0-9+/]{64}", re.IGNORECASE)
_HEADS = ("iVBORw0KGgo", "/9j/", "R0lGODdh", "R0lGODlh", "UklGR", "SUkqA", "TU0AK")
"""Base64 of the first bytes of PNG, JPEG, both GIFs, WebP and both TIFFs."""
_BOX = re.compile(r"AAAA.GZ0eX")
"""Of AVIF and HEIC, which begin with a box's length and ``ftyp``."""
_SHORTEST_BASE64 = 40
_BASE64 = re.compile(r"[A-Za-z0-9+/\s]+={0,2}\s*")
LONGEST_HEADER = 200
"""Characters in which a data URI must have come to its comma."""


def is_address(text: str) -> bool:
    """Whether a text is an address of something elsewhere: ``https://...``, ``s3://...``, ``file:...``.

    Examples:
        >>> [is_address(text) for text in ("https://example.org/a.png", "//cdn/a.png", "C:/a.png", "a.png")]
        [True, True, False, False]
    """
    return _ADDRESS.match(text[:64]) is not None


def is_data_uri(text: str) -> bool:
    """Whether a text is a data URI.

    Examples:
        >>> [is_data_uri(text) for text in ("data:image/png;base64,AAAA", "data: the new oil")]
        [True, False]
    """
    return _DATA_URI.match(text[:LONGEST_HEADER]) is not None


def image_reference(text: str) -> str | None:
    """What a text is that stands for an image and says nothing by itself; None for a text in words.

    Returns:
        ``data URI``, ``base64`` (of an image's bytes), ``address`` (of an image file), ``data URI among words``, or
        None.

    Examples:
        >>> image_reference("https://example.org/fox.jpg?size=2"), image_reference("see https://example.org/fox.jpg")
        ('address', None)
    """
    start = text[:64].lstrip()
    if is_data_uri(text):
        return "data URI"
    if (start.startswith(_HEADS) or _BOX.match(start)) and len(text) >= _SHORTEST_BASE64 and _BASE64.fullmatch(text):
        return "base64"
    if _IMAGE_ADDRESS.fullmatch(text[:2_000]):
        return "address"
    return "data URI among words" if _INSIDE.search(text) else None


def encoded_bytes(text: str, name: str, max_bytes: int) -> bytes:
    """The bytes in a data URI or in bare base64.

    Args:
        text: what was given.
        name: what messages call it.
        max_bytes: more are refused before base64 is read.

    Raises:
        ImageError: an address, an SVG, no base64, or too many bytes.
    """
    payload = text.lstrip() if text[:1].isspace() else text
    if payload[:5].lower() == "data:":
        comma = payload.find(",", 0, LONGEST_HEADER)
        header = payload[5 : max(comma, 5)].lower().replace(" ", "")
        if comma < 0 or not header.endswith(";base64"):
            raise ImageError(f"{name}: a data URI must look like data:image/png;base64,...")
        if "svg" in header:
            raise ImageError(f"{name}: {SVG}")
        payload = payload[comma + 1 :]
    elif is_address(payload):
        raise ImageError(f"{name}: {NEVER_FETCHED}; send the picture itself as data:image/png;base64,...")
    # Four characters stand for three bytes; line breaks and %3D make a text a little longer than that.
    if len(payload) > max_bytes * 3 // 2 + 16:
        raise ImageError(f"{name}: about {len(payload) * 3 // 4:,} bytes are over the limit of {max_bytes:,}")
    if "%" in payload:
        payload = unquote(payload)
    try:
        return base64.b64decode("".join(payload.split()), validate=True)
    except (binascii.Error, ValueError):
        raise ImageError(
            f"{name}: not base64; send data:image/png;base64,... or the picture's bytes as base64"
        ) from None


def no_such_file(path: str) -> str:
    """What to say of a path that is not there: an address was perhaps meant for a path.

    Examples:
        >>> no_such_file("fox.png"), no_such_file("https:/example.org/fox.png")
        ('no such file', 'an address, and addresses are never fetched; download the image and give its path')
    """
    if is_address(path):
        return f"an address, and {NEVER_FETCHED}; download the image and give its path"
    if is_data_uri(path):
        return "a data URI, not a path; give the bytes that it holds"
    return "no such file"


NEVER_FETCHED = "addresses are never fetched"
SVG_DRAWING = "an SVG drawing"
SVG = "SVG is a program, not a picture, and is refused; send it rendered, as PNG"


_OTHERS: tuple[tuple[bytes, int, str], ...] = (
    (b"%PDF", 0, "a PDF document"),
    (b"PK\x03\x04", 0, "a ZIP archive or office document"),
    (b"\x1f\x8b", 0, "a gzip archive"),
    (b"\x00\x00\x00\x0cJXL ", 0, "a JPEG XL image"),
    (b"\xff\x0a", 0, "a JPEG XL image"),
    (b"ftypheic", 4, "a HEIC image"),
    (b"ftypheix", 4, "a HEIC image"),
    (b"ftypmif1", 4, "a HEIF image"),
    (b"ftypavif", 4, "an AVIF image"),
    (b"ftyp", 4, "a video"),
    (b"\x1aE\xdf\xa3", 0, "a video"),
    (b"WAVE", 8, "a sound file"),
    (b"ID3", 0, "a sound file"),
    (b"8BPS", 0, "a Photoshop file"),
    (b"%!PS", 0, "a PostScript file"),
    (b"version https://git-lfs", 0, "a pointer of Git LFS whose file was not fetched"),
)
_BLANKS = b"\xef\xbb\xbf \t\r\n"
_MARKUP = re.compile(rb"<(!doctype\s+)?([a-z]+)|<\?xml|<!--")


def what_instead(data: bytes) -> str | None:
    """What bytes are that were taken for an image, as far as their beginning tells; None where it does not.

    Examples:
        >>> what_instead(b"<!DOCTYPE html><html><body>404</body></html>")
        'an HTML page'
        >>> what_instead(b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>')
        'an SVG drawing'
    """
    for mark, place, what in _OTHERS:
        if data[place : place + len(mark)] == mark:
            return what
    start = data[:4096].lstrip(_BLANKS).lower()
    found = _MARKUP.match(start)
    if found is not None:
        names = {match.group(2) for match in _MARKUP.finditer(start) if match.group(2)}
        if found.group(2) == b"svg" or (not found.group(2) and b"svg" in names and b"html" not in names):
            return SVG_DRAWING
        if names & {b"html", b"head", b"body", b"script", b"meta", b"title", b"div"}:
            return "an HTML page"
        return "an XML document"
    if start[:1] in (b"{", b"[") and start[1:].lstrip()[:1] in (b'"', b"{", b"[", b"}", b"]"):
        return "JSON"
    if data and not any(byte < 9 or 13 < byte < 32 for byte in data[:512]):
        try:
            data[:512].decode("utf-8", "strict" if len(data) <= 512 else "ignore")
            return "plain text"
        except UnicodeDecodeError:
            return None
    return None
