"""What an image's bytes would cost a decoder, estimated before a decoder reads them.

What can be repeated in a file at almost no cost to its writer is counted (JPEG scans and segments, PNG chunks, GIF
blocks, TIFF strips, comments in a plain PPM), so that neither time nor memory grows out of proportion to the pixels.
Imports nothing but the standard library.
"""

from __future__ import annotations

import re
import struct

MAX_PARTS = 100_000
"""Chunks, segments, blocks or strips of one file. A PNG of 100 MB in libpng's usual chunks has 12,800."""
MAX_JUNK = 2**20
"""Bytes between a JPEG's segments, which are read one at a time."""
MAX_SCANS = 500
"""Scans of one JPEG; progressive ones have about ten."""
MAX_SCANNED_PIXELS = 2_000_000_000
"""Scans times pixels of one JPEG: every scan goes over the whole image, however few bytes it has."""
MAX_COMMENTS = 1000
"""Comments in a plain PPM: each costs a copy of what was read."""
MAX_HEADER = 2**16
"""Bytes in which a PPM's header must end."""
MAX_FAX_ROWS = 65_535
"""Rows of a TIFF with a fax compression: its decoder goes on after a fault and writes a line for every damaged row."""
MAX_SAMPLES = 6
"""Samples a pixel in a TIFF; more are decoded by nothing here."""

_SCAN = re.compile(rb"\xff\xda\x00[\x06-\x0e]")
_COMMENT = re.compile(rb"#[^\r\n]*")
_NO_LENGTH = {0x00, 0x01, 0xC8, *range(0xD0, 0xDA), *range(0xF0, 0xFE)}
_TILES, _STRIPS, _SAMPLES, _TILE_SIDES = (324, 325), (273, 279), 277, (322, 323)
_ROWS, _COMPRESSION, _FAX = 257, 259, (2, 3, 4)


def why_costly(data: bytes, max_pixels: int) -> str | None:
    """Why these bytes should not reach a decoder, or None.

    Args:
        data: a whole image file of any format.
        max_pixels: the most pixels of one tile of a TIFF.
    """
    if data.startswith(b"\xff\xd8"):
        return _jpeg(data)
    if data.startswith(b"\x89PNG"):
        return _png(data)
    if data.startswith(b"GIF8"):
        return _gif(data)
    if data[:2] in (b"II", b"MM"):
        return _tiff(data, max_pixels)
    if data[:1] == b"P" and data[1:2] in b"123456fF":
        return _ppm(data)
    return None


def scans(data: bytes) -> int:
    """An upper bound of the scans in a JPEG: scan headers as a decoder takes them, wherever they are."""
    return sum(1 for _ in _SCAN.finditer(data))


def why_too_many_scans(data: bytes, pixels: int) -> str | None:
    """Why a JPEG of so many pixels would take too long to decode, or None."""
    found = scans(data)
    allowed = max(1, min(MAX_SCANS, MAX_SCANNED_PIXELS // max(1, pixels)))
    return f"{found:,} scans, over the limit of {allowed:,} for its size" if found > allowed else None


def _too_many(what: str) -> str:
    return f"more than {MAX_PARTS:,} {what}"


def _jpeg(data: bytes) -> str | None:
    place, junk = 2, 0
    for _ in range(MAX_PARTS):
        found = data.find(b"\xff", place)
        junk += (len(data) if found < 0 else found) - place
        if junk > MAX_JUNK:
            return f"more than {MAX_JUNK:,} bytes that belong to no segment"
        if found < 0 or found + 4 > len(data) or data[found + 1] == 0xDA:
            return None
        marker = data[found + 1]
        if marker == 0xFF:
            place = found + 1
        elif marker in _NO_LENGTH:
            place = found + 2
        else:
            place = found + 2 + max(2, int.from_bytes(data[found + 2 : found + 4], "big"))
    return _too_many("segments")


def _png(data: bytes) -> str | None:
    place = 8
    for _ in range(MAX_PARTS):
        if place + 8 > len(data) or data[place + 4 : place + 8] == b"IEND":
            return None
        place += 12 + int.from_bytes(data[place : place + 4], "big")
    return _too_many("chunks")


def _gif(data: bytes) -> str | None:
    """Up to the first frame; the others are never read."""
    flags = data[10] if len(data) > 10 else 0
    place = 13 + (3 << ((flags & 7) + 1) if flags & 128 else 0)
    inside = False
    for _ in range(MAX_PARTS):
        if place >= len(data):
            return None
        byte = data[place]
        if inside:
            place, inside = place + 1 + byte, byte != 0
        elif byte == ord("!"):
            place, inside = place + 2, True
        elif byte in b",;":
            return None
        else:
            place += 1
    return _too_many("blocks before the first frame")


def _ppm(data: bytes) -> str | None:
    head = _COMMENT.sub(b"", data[:MAX_HEADER])
    wanted = 3 if data[1:2] in b"14" else 4
    if len(data) > MAX_HEADER and len(head.split(None, wanted)) < wanted:
        return f"a header of more than {MAX_HEADER:,} bytes"
    if data[1:2] in b"123" and data.count(b"#") > MAX_COMMENTS:
        return f"more than {MAX_COMMENTS:,} comments"
    return None


def _tiff(data: bytes, max_pixels: int) -> str | None:
    """Of the first directory; the others are never read. Tags given twice count with the larger value."""
    found: dict[int, int] = {}
    try:
        for tag, count, value in _directory(data):
            if tag in _TILES + _STRIPS:
                value = count
            found[tag] = max(value, found.get(tag, 0))
    except (struct.error, OverflowError):
        return None  # cut off: the decoder says so
    for tag in _TILES + _STRIPS:
        if found.get(tag, 0) > MAX_PARTS:
            return _too_many("tiles" if tag in _TILES else "strips")
    if found.get(_SAMPLES, 0) > MAX_SAMPLES:
        return f"{found[_SAMPLES]:,} samples a pixel, over the limit of {MAX_SAMPLES}"
    if found.get(_COMPRESSION) in _FAX and found.get(_ROWS, 0) > MAX_FAX_ROWS:
        return f"{found[_ROWS]:,} rows of a fax, over the limit of {MAX_FAX_ROWS:,}"
    width, height = (found.get(tag, 0) for tag in _TILE_SIDES)
    if width * height > max_pixels:
        return f"tiles of {width} x {height} pixels, over the limit of {max_pixels:,}"
    return None


def _directory(data: bytes) -> list[tuple[int, int, int]]:
    """(tag, count, first value or 0) of every entry we know the type of."""
    order = "<" if data[:2] == b"II" else ">"
    big = 43 in data[2:4]
    (start,) = struct.unpack_from(order + ("Q" if big else "L"), data, 8 if big else 4)
    (entries,) = struct.unpack_from(order + ("Q" if big else "H"), data, start)
    size, room = (20, 8) if big else (12, 4)
    first = start + (8 if big else 2)
    rows = []
    for place in range(first, min(first + size * min(entries, len(data)), len(data) - size + 1), size):
        tag, kind, count = struct.unpack_from(order + ("HHQ" if big else "HHL"), data, place)
        letter = {1: "B", 3: "H", 4: "L", 16: "Q"}.get(kind)
        value = 0
        if letter:
            at = place + size - room
            if count * struct.calcsize("=" + letter) > room:
                (at,) = struct.unpack_from(order + ("Q" if big else "L"), data, at)
            if at + struct.calcsize("=" + letter) <= len(data):
                (value,) = struct.unpack_from(order + letter, data, at)
        rows.append((tag, count, value))
    return rows
