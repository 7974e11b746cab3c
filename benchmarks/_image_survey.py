"""Mutated images through the decoder in a process of their own, with a ceiling on its memory; prints what happened.

    python benchmarks/_image_survey.py COUNT SEED MAX_PIXELS

Run by tests/items/test_fuzz_images.py and benchmarks/fuzz_images.py.
"""

from __future__ import annotations

import importlib.util
import json
import resource
import sys
import time
import warnings
from collections import Counter
from typing import Any

from _image_mutations import mutated
from puma.errors import ImageError
from puma.items import open_image

BYTES_A_PIXEL = 24
"""Of an image of the largest size allowed, everything made on the way counted; what the ceiling allows."""
ROOM = 96 * 2**20
"""For what does not grow with the pixels."""


def survey(count: int, seed: int, max_pixels: int) -> dict[str, Any]:
    """Open each, and make a thumbnail of each that is sound; count what comes out.

    Returns:
        ``opened`` and ``refused`` add up to ``images`` if all is well. ``escaped``: what was no ImageError;
        ``warned``: warnings that came out; ``starved``: images that met the ceiling.
    """
    thumbnail = _thumbnail_maker()
    escaped, warned, starved, times = [], [], [], []
    reasons: Counter[str] = Counter()
    opened = thumbnails = 0
    before = _peak()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for name, data in mutated(count, seed):
            start = time.perf_counter()
            try:
                size = open_image(data, max_pixels=max_pixels).size
                opened += 1
                if size[0] * size[1] > max_pixels:
                    escaped.append(f"{name}: {size} is over the limit")
                if thumbnail is not None:
                    thumbnail(data)
                    thumbnails += 1
            except ImageError as error:
                reasons[_kind(str(error))] += 1
                if "too large to decode in memory" in str(error):
                    starved.append(name)
            except BaseException as error:
                escaped.append(f"{name}: {type(error).__name__}: {error}")
            times.append(time.perf_counter() - start)
            if caught:
                warned += [f"{name}: {found.message}" for found in caught]
                caught.clear()
    times.sort()
    return {
        "pictures": len(times),
        "opened": opened,
        "refused": sum(reasons.values()),
        "thumbnails": thumbnails,
        "escaped": escaped,
        "warned": warned,
        "starved": starved,
        "reasons": dict(reasons.most_common(20)),
        "peak_growth_mib": round((_peak() - before) / 2**20, 1),
        "ceiling_mib": round((max_pixels * BYTES_A_PIXEL + ROOM) / 2**20, 1),
        "milliseconds": {
            "median": round(times[len(times) // 2] * 1e3, 3),
            "p99": round(times[int(len(times) * 0.99)] * 1e3, 2),
            "slowest": round(times[-1] * 1e3, 1),
        },
    }


def _thumbnail_maker() -> Any:
    if importlib.util.find_spec("puma.items.thumbnails") is None:
        return None
    from puma.items.thumbnails import make_thumbnail

    return make_thumbnail


def _kind(message: str) -> str:
    """Without names and numbers, so that equal reasons count together."""
    text = message.split(": ", 1)[-1]
    return "".join("#" if char.isdigit() else char for char in text)[:80]


def _peak() -> int:
    """Most memory resident so far, bytes. Not ru_maxrss on Linux: that one is inherited from the parent."""
    if sys.platform == "linux":
        with open("/proc/self/status") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM"))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _hold_down(max_pixels: int) -> None:
    """Let this process's address space grow by no more than the images may need."""
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    ceiling = used + max_pixels * BYTES_A_PIXEL + ROOM
    resource.setrlimit(resource.RLIMIT_AS, (ceiling, ceiling))


if __name__ == "__main__":
    asked = [int(value) for value in sys.argv[1:4]]
    if sys.platform == "linux":
        _hold_down(asked[2])
    print(json.dumps(survey(*asked)))
