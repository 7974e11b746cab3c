"""Rendering many images in worker processes, in shards that survive a kill."""

from __future__ import annotations

import hashlib
import json
import os
import queue
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import PIL
from tqdm import tqdm

from puma.errors import StorageError
from puma.mini.openpics.raster import MIN_FILL, SIZE
from puma.mini.openpics.records import ImageRecord
from puma.storage.folders import storage_errors

SHARD = 200
"""Images in a shard: what a kill loses at most, per worker."""
LIMIT_S = 30.0
"""Longest that one image may take, in seconds; the slowest sound one takes under 2."""
RECIPE = 4
"""Raised whenever rendering changes, so that shards of an older recipe are not taken."""


def render(images: Sequence[ImageRecord], folder: Path, *, workers: int = 2, limit_s: float = LIMIT_S) -> list[Path]:
    """Render all images, each shard into one file of ``folder``; shards that are there already are kept.

    Args:
        images: what to render, in the order of the result.
        folder: where the shards go; made if missing.
        workers: processes at once.
        limit_s: seconds after which an image is given up.

    Returns:
        The shards' files, in order. :func:`read_shard` opens one.

    Raises:
        StorageError: the disk is full or cannot be written.
    """
    with storage_errors(f"folder {folder}"):
        folder.mkdir(parents=True, exist_ok=True)
        for scratch in folder.glob("*.tmp"):
            scratch.unlink(missing_ok=True)
    groups = [images[start : start + SHARD] for start in range(0, len(images), SHARD)]
    files = [folder / f"{number:04d}-{_fingerprint(group)}.zip" for number, group in enumerate(groups)]
    todo: queue.SimpleQueue[tuple[Sequence[ImageRecord], Path]] = queue.SimpleQueue()
    left = [(group, file) for group, file in zip(groups, files, strict=True) if not file.is_file()]
    for job in left:
        todo.put(job)
    done = len(images) - sum(len(group) for group, _ in left)
    errors: list[BaseException] = []
    stop = threading.Event()
    with tqdm(total=len(images), initial=done, desc="rendering images", unit="image", disable=not left) as bar:
        threads = [
            threading.Thread(target=_feed, args=(todo, bar, limit_s, errors, stop), daemon=True)
            for _ in range(min(workers, len(left)))
        ]
        for thread in threads:
            thread.start()
        try:
            for thread in threads:
                while thread.is_alive():
                    thread.join(0.2)
        except BaseException:
            stop.set()
            raise
    if errors:
        raise errors[0]
    return files


def read_shard(file: Path, *, images: bool = True) -> Iterator[tuple[dict, bytes | None]]:
    """The shard's entries, in order: ("key", and either "pixels" and "thumb" or "reason"), and the image's file (None
    where there is none, or ``images`` is False)."""
    with zipfile.ZipFile(file) as archive:
        for number, entry in enumerate(json.loads(archive.read("manifest.json"))):
            yield entry, None if "reason" in entry or not images else archive.read(f"{number}.webp")


def _fingerprint(group: Sequence[ImageRecord]) -> str:
    import resvg_py  # here, so that an OpenPics built elsewhere is read without it

    digest = hashlib.sha256(f"{RECIPE} {SIZE} {MIN_FILL} {resvg_py.__version__} {PIL.__version__}".encode())
    for image in group:
        size = image.path.stat().st_size if image.path is not None and image.path.is_file() else -1
        digest.update(f"\0{image.key}\0{size}\0{image.svg or ''}".encode())
    return digest.hexdigest()[:16]


class _Worker:
    """One worker process and the lines it says."""

    def __init__(self) -> None:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "puma.mini.openpics.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self.lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self.complaints: list[str] = []
        self.readers = [
            threading.Thread(target=self._read, daemon=True),
            threading.Thread(target=self._listen, daemon=True),
        ]
        for reader in self.readers:
            reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.put(line.strip())
        self.lines.put(None)

    def _listen(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.complaints = [*self.complaints[-20:], line.rstrip()]

    def send(self, task: dict) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(task) + "\n")
        self.process.stdin.flush()

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        for reader in self.readers:
            reader.join()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            try:
                if stream is not None:
                    stream.close()
            except OSError:
                pass


def _feed(
    todo: queue.SimpleQueue[tuple[Sequence[ImageRecord], Path]],
    bar: tqdm,
    limit_s: float,
    errors: list[BaseException],
    stop: threading.Event,
) -> None:
    worker: _Worker | None = None
    try:
        while not stop.is_set() and not errors:
            try:
                group, file = todo.get_nowait()
            except queue.Empty:
                return
            skip: dict[int, str] = {}
            counted = 0
            while not file.is_file() and not stop.is_set():
                worker = worker or _Worker()
                reached, ending = _run(worker, group, file, skip, limit_s, stop, bar, counted)
                counted = max(counted, reached)
                if ending is None:
                    break
                worker.end()
                if reached >= len(group) or reached in skip:
                    said = "\n".join(worker.complaints[-5:])
                    kind = "the disk is full" if "No space left" in said else f"rendering failed: {ending}"
                    raise StorageError(f"{file}: {kind}. {said}")
                skip[reached] = ending
                worker = None
    except BaseException as error:  # handed to the thread that waits
        errors.append(error)
    finally:
        if worker is not None:
            worker.end()


def _run(
    worker: _Worker,
    group: Sequence[ImageRecord],
    file: Path,
    skip: dict[int, str],
    limit_s: float,
    stop: threading.Event,
    bar: tqdm,
    counted: int,
) -> tuple[int, str | None]:
    """Have one shard rendered. Returns how many images are through, and why the worker ended (None: it did not)."""
    reached = 0
    jobs = [{"key": p.key, "svg": p.svg, "path": None if p.path is None else str(p.path)} for p in group]
    try:
        worker.send({"jobs": jobs, "skip": skip, "out": str(file)})
    except OSError:
        return reached, "renderer crashed"
    waited = 0.0
    while not stop.is_set():
        try:
            line = worker.lines.get(timeout=0.25)
        except queue.Empty:
            waited += 0.25
            if waited >= limit_s + (10 if reached == 0 else 0):  # the first line also waits for the process to start
                return reached, f"took longer than {limit_s:g} s"
            continue
        waited = 0.0
        if line is None:
            return reached, "renderer crashed"
        if line == "shard":
            return reached, None
        reached = int(line) + 1
        if reached > counted:
            bar.update(1)
    return reached, None
