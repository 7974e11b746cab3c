"""Images with the spectrum of photographs, as JPEG files: decoding and resizing them costs what photographs cost."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image


def jpeg(generator: np.random.Generator, width: int, height: int) -> bytes:
    """Colour with the spectrum of photographs (amplitude 1/f) and noise."""
    pitch = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    pitch[0, 0] = 1 / max(width, height)
    plane = np.fft.irfft2(np.fft.rfft2(generator.normal(size=(height, width))) / pitch, (height, width))
    pixels = np.stack([np.roll(plane, 40 * n, 1) / plane.std() * 50 + 128 for n in range(3)], -1)
    stream = io.BytesIO()
    noisy = (pixels + generator.normal(0, 5, pixels.shape)).clip(0, 255).astype(np.uint8)
    Image.fromarray(noisy).save(stream, "JPEG", quality=90)
    return stream.getvalue()
