"""Rendering of one drawing or image to square RGB pixels, with repairs and limits on the way."""

from __future__ import annotations

import io
import re
import warnings
from pathlib import Path

import numpy as np
from PIL import Image

from puma.errors import ImageError
from puma.items.item import open_image

SIZE = 224
"""Side of a stored image, in pixels."""
MAX_SVG_BYTES = 3 * 2**20
"""Largest drawing that is rendered, in bytes."""
MAX_ENTITY_BYTES = 2**20
"""Most bytes that a drawing's own entities may expand to."""
MAX_FILE_PIXELS = 40_000_000
"""Largest image file that is decoded, in pixels."""
MIN_SPREAD = 3.0
"""Images whose pixel values spread less (standard deviation, 0 to 255) are blank."""
MIN_FILL = 0.75
"""A drawing that fills less of its page (longer side) is rendered again, closer."""
_MARGIN = 0.02
_INK = [255 if value < 250 else 0 for value in range(256)]

_UNITS = {
    "": 1.0,
    "px": 1.0,
    "pt": 4 / 3,
    "pc": 16.0,
    "mm": 96 / 25.4,
    "cm": 96 / 2.54,
    "in": 96.0,
    "em": 16.0,
    "ex": 8.0,
}


class UnfitError(Exception):
    """An image is left out; the message is the reason, short enough to be counted."""


def pixels(svg: str | None, path: Path | None) -> np.ndarray:
    """An image's pixels, on white, padded to a square: uint8 [SIZE, SIZE, 3].

    Raises:
        UnfitError: it cannot or must not be rendered, or nothing is to be seen.
    """
    if svg is None:
        assert path is not None
        if path.suffix.lower() != ".svg":
            return _checked(_from_file(path))
        size = path.stat().st_size
        if size > MAX_SVG_BYTES:
            raise UnfitError("drawing too large in bytes")
        svg = path.read_text(encoding="utf-8", errors="replace")
    elif len(svg) > MAX_SVG_BYTES:
        raise UnfitError("drawing too large in bytes")
    return _checked(_from_svg(svg, closer=path is not None))


def encoded(array: np.ndarray) -> bytes:
    """The pixels as a lossless WebP file. Equal pixels give equal bytes."""
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, format="WEBP", lossless=True, method=0, exact=False)
    return stream.getvalue()


def _checked(array: np.ndarray) -> np.ndarray:
    if float(array.std()) < MIN_SPREAD:
        raise UnfitError("blank")
    return array


def _from_file(path: Path) -> np.ndarray:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PIL warns of odd palettes; the decoder's errors are what counts
            image = open_image(path, max_pixels=MAX_FILE_PIXELS)
    except ImageError as error:
        reason = "too many pixels" if "pixels are over" in str(error) or "more pixels" in str(error) else "damaged file"
        raise UnfitError(reason) from None
    box = _drawn(image)
    return _square(image.crop(box) if box else image)


def _from_svg(svg: str, *, closer: bool) -> np.ndarray:
    svg = _safe(svg)
    root = re.search(r"<(?:\w+:)?svg\b[^>]*>", svg, re.DOTALL)
    if root is None:
        raise UnfitError("no svg element")
    view = _view(root[0])
    image = _render(svg, root, view)
    box = _drawn(image) if closer else None  # emoji sets are drawn to fill their page
    if box is None or view is None:
        return _square(image)
    left, top, right, bottom = box
    if max(right - left, bottom - top) < MIN_FILL * SIZE:
        # zoom in on what is drawn: clip art often sits in a corner of a printed page
        scale = max(view[2] / image.width, view[3] / image.height)
        rim = max(right - left, bottom - top) * scale * _MARGIN
        near = (
            view[0] + left * scale - rim, view[1] + top * scale - rim,
            (right - left) * scale + 2 * rim, (bottom - top) * scale + 2 * rim,
        )  # fmt: skip
        image = _render(svg, root, near)
    return _square(image)


def _safe(svg: str) -> str:
    """Refuse entity bombs, and cut every reference that leaves the file."""
    entities = re.findall(r"<!ENTITY\s+(?:%\s+)?([\w.-]+)\s+(\"[^\"]*\"|'[^']*'|SYSTEM|PUBLIC)", svg)
    if any("&" in value or "%" in value for _, value in entities):
        raise UnfitError("entities within entities")
    if any(value in ("SYSTEM", "PUBLIC") for _, value in entities):
        raise UnfitError("entities outside the file")
    if sum(svg.count(f"&{name};") * len(value) for name, value in entities) > MAX_ENTITY_BYTES:
        raise UnfitError("entities too large")
    if re.search(r"<(?:\w+:)?image\b", svg):
        svg = re.sub(r"(<(?:\w+:)?image\b[^>]*?\b(?:xlink:)?href\s*=\s*)([\"'])(?!data:|#)[^\"']*\2", r"\1\2\2", svg)
    return svg


def _view(root: str) -> tuple[float, float, float, float] | None:
    """The part of the plane that the root element shows: its viewBox, or else its width and height in pixels."""
    box = re.search(r"\bviewBox\s*=\s*[\"']([^\"']*)[\"']", root)
    if box:
        numbers = re.findall(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?", box[1])
        if len(numbers) == 4 and float(numbers[2]) > 0 and float(numbers[3]) > 0:
            x, y, width, height = map(float, numbers)
            return x, y, width, height
    sides = []
    for name in ("width", "height"):
        found = re.search(rf"(?<![\w-]){name}\s*=\s*[\"']\s*([\d.]+(?:[eE][-+]?\d+)?)\s*([a-z]*|%)\s*[\"']", root)
        if not found or found[2] not in _UNITS or not 0 < float(found[1]) < 1e7:
            return None
        sides.append(float(found[1]) * _UNITS[found[2]])
    return 0.0, 0.0, sides[0], sides[1]


def _render(svg: str, root: re.Match[str], view: tuple[float, float, float, float] | None) -> Image.Image:
    """Render what ``view`` shows to at most SIZE x SIZE, on white. Fonts are never loaded: they differ by machine."""
    if view is not None:
        width, height = view[2], view[3]
        if max(width, height) > 1000 * min(width, height):
            raise UnfitError("page too narrow")
        element = re.sub(
            r"(?<![\w-])(?:viewBox|width|height|preserveAspectRatio)\s*=\s*(?:\"[^\"]*\"|'[^']*')", " ", root[0]
        )
        closing = "/>" if element.endswith("/>") else ">"
        shown = " ".join(f"{value:.6g}" for value in view)
        element = f'{element[: -len(closing)]} viewBox="{shown}" width="{width:.6g}" height="{height:.6g}"{closing}'
        svg = svg[: root.start()] + element + svg[root.end() :]
    import resvg_py  # here, so that an OpenPics built elsewhere is read without it

    try:
        data = resvg_py.svg_to_bytes(
            svg_string=svg, width=SIZE, height=SIZE, dpi=96.0, background="#ffffff", skip_system_fonts=True
        )
        return Image.open(io.BytesIO(bytes(data))).convert("RGB")
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # the renderer raises ValueError, and for a panic a class outside Exception
        raise UnfitError("renderer: " + re.sub(r"[\d.:]+.*", "", str(error))[:60].strip()) from None


def _drawn(image: Image.Image) -> tuple[int, int, int, int] | None:
    """The box of what is not white: left, top, right, bottom; None where all is white."""
    return image.convert("L").point(_INK).getbbox()


def _square(image: Image.Image) -> np.ndarray:
    if max(image.size) != SIZE:
        scale = SIZE / max(image.size)
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        image = image.resize(
            size,
            Image.Resampling.BICUBIC
            if scale > 1
            else Image.Resampling.BOX
            if scale < 0.2
            else Image.Resampling.LANCZOS,
        )
    paper = Image.new("RGB", (SIZE, SIZE), (255, 255, 255))
    paper.paste(image, ((SIZE - image.width) // 2, (SIZE - image.height) // 2))
    return np.asarray(paper)
