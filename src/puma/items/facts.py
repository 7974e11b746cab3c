"""What an image's header says: its size, and when it was taken. Nothing is decoded. Loads no torch."""

from __future__ import annotations

import datetime
import io
import re
from typing import Any

from PIL import ExifTags, Image

from puma.items.image_checks import why_costly
from puma.items.limits import PLAIN, image_memory
from puma.items.opening import _QUIET, FORMATS

_ON_ITS_SIDE = (5, 6, 7, 8)
"""EXIF's orientations by which width and height change places."""
_TIME = re.compile(rb"(\d{4})[:\-/](\d\d)[:\-/](\d\d)[ T](\d\d):(\d\d):(\d\d)")


def image_facts(data: bytes) -> dict[str, Any]:
    """``width`` and ``height`` in pixels, upright; ``date`` where the file says when it was taken (EXIF's
    ``DateTimeOriginal``, else ``DateTimeDigitized``, else ``DateTime``), as ``2024-05-31T18:30:00``, in the camera's
    own time. Nothing for bytes that are no image.

    Examples:
        >>> stream = io.BytesIO()
        >>> Image.new("RGB", (30, 20)).save(stream, "JPEG")
        >>> image_facts(stream.getvalue())
        {'width': 30, 'height': 20}
    """
    if not data or why_costly(data, image_memory() // PLAIN):
        return {}
    try:
        with _QUIET, Image.open(io.BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
            # A PNG whose notes were not met in its header would be decoded to look for them behind its pixels.
            exif = image.getexif() if image.format != "PNG" or "exif" in image.info else None
            if exif is None:
                return {"width": width, "height": height}
            if exif.get(ExifTags.Base.Orientation) in _ON_ITS_SIDE:
                width, height = height, width
            date = _date(exif)
    except Exception:  # whatever a decoder raises on damaged bytes: what is wrong is said where it is opened
        return {}
    return {"width": width, "height": height} | ({"date": date} if date else {})


def _date(exif: Image.Exif) -> str | None:
    inner = exif.get_ifd(ExifTags.IFD.Exif)
    given = (inner.get(ExifTags.Base.DateTimeOriginal), inner.get(ExifTags.Base.DateTimeDigitized))
    for value in (*given, exif.get(ExifTags.Base.DateTime)):
        text = value.encode("latin-1", "ignore") if isinstance(value, str) else value
        found = _TIME.match(text.strip()) if isinstance(text, bytes) else None
        if found is None:
            continue
        try:
            return datetime.datetime(*map(int, found.groups())).isoformat()  # type: ignore[arg-type]
        except ValueError:  # 0000:00:00 00:00:00 is how cameras say that they do not know
            continue
    return None
