"""The rendering process: reads shards of images as JSON lines, writes files, reports progress.

Run as ``python -m puma.mini.openpics.worker`` by :mod:`puma.mini.openpics.shards`. A drawing that crashes or hangs the
renderer takes this process with it, and nothing else.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from puma.mini.openpics.raster import UnfitError, encoded, pixels

MAX_MEMORY = 4 * 2**30
"""Address space that rendering may take, in bytes."""
THUMB = 16
"""Side of the grey thumbnail by which near-duplicates are found."""
_EPOCH = (1980, 1, 1, 0, 0, 0)


def main() -> None:
    """Render shard after shard until standard input ends."""
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY, MAX_MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    except (ImportError, ValueError, OSError):
        pass  # not on this system: the time limit still holds
    for line in sys.stdin:
        task = json.loads(line)
        _render_shard(task["jobs"], {int(k): v for k, v in task["skip"].items()}, Path(task["out"]))
        print("shard", flush=True)


def _render_shard(jobs: list[dict], skip: dict[int, str], out: Path) -> None:
    """Write one shard: a zip of WebP files and ``manifest.json``, under a scratch name until it is whole."""
    scratch = out.with_name(f"{out.name}.{os.getpid()}.tmp")
    manifest = []
    with zipfile.ZipFile(scratch, "w", zipfile.ZIP_STORED) as archive:
        for number, job in enumerate(jobs):
            entry: dict[str, object] = {"key": job["key"]}
            try:
                if number in skip:
                    raise UnfitError(skip[number])
                array = pixels(job.get("svg"), Path(job["path"]) if job.get("path") else None)
                entry["pixels"] = hashlib.sha256(array.tobytes()).hexdigest()
                entry["thumb"] = _thumb(array)
                archive.writestr(zipfile.ZipInfo(f"{number}.webp", _EPOCH), encoded(array))
            except UnfitError as error:
                entry["reason"] = str(error)
            except (MemoryError, OSError, ValueError) as error:
                entry["reason"] = f"{type(error).__name__}"
            manifest.append(entry)
            print(number, flush=True)
        archive.writestr(zipfile.ZipInfo("manifest.json", _EPOCH), json.dumps(manifest))
    with open(scratch, "rb") as stream:
        os.fsync(stream.fileno())
    os.replace(scratch, out)


def _thumb(array: np.ndarray) -> str:
    small = Image.fromarray(array).convert("L").resize((THUMB, THUMB), Image.Resampling.BOX)
    return small.tobytes().hex()


if __name__ == "__main__":
    main()
