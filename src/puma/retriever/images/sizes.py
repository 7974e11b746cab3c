"""An image's size as its file says it, without decoding. Loads no torch."""

from __future__ import annotations

import io
import os
from typing import Any

import numpy as np
from PIL import Image

from puma.items.opening import _QUIET, FORMATS


def size_in_file(image: Any) -> tuple[int, int] | None:
    """Width and height in pixels as the file says, None if it cannot be read: whoever opens it will say why."""
    if isinstance(image, Image.Image):
        return image.size
    try:
        if isinstance(image, np.ndarray):
            return int(image.shape[1]), int(image.shape[0])
        if not isinstance(image, bytes) and not os.path.isfile(image):
            return None  # a pipe would be waited for without end
        with _QUIET, Image.open(io.BytesIO(image) if isinstance(image, bytes) else image, formats=FORMATS) as opened:
            return opened.size
    except Exception:  # Pillow raises almost anything on damaged files
        return None
