"""Rows of features on disk under keys: append-only shards, whole after any kill, read by memory map.

A shard is one safetensors file (``keys`` uint8 [n, 16], ``rows`` float16 [n, dim]) that is renamed into place when it
is on disk, and never touched again; beside the shards ``store.json`` tells what the rows were computed with.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import struct
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from puma.errors import InputError, StorageError
from puma.storage.folders import storage_errors, write_json

KEY_BYTES = 16
DESCRIPTION = "store.json"
FORMAT = 1
_NAME = "shard-{:05d}.safetensors"
_PATTERN = re.compile(r"shard-(\d{5,})\.safetensors")


class Shards:
    """A store of rows [dim] by key of 16 bytes.

    Several processes may read while one writes; writers take turns shard by shard.

    Args:
        folder: made at the first :meth:`append`.
        facts: what the rows depend on, by name, each one short string. A folder with other facts is refused.
        dim: length of a row.

    Raises:
        InputError: the folder holds rows of other facts; the message says which differ, and how.
        StorageError: a shard is damaged.
    """

    def __init__(self, folder: str | os.PathLike[str], facts: Mapping[str, str], dim: int) -> None:
        self.folder, self.facts, self.dim = Path(folder), dict(facts), int(dim)
        self._place: dict[bytes, tuple[int, int]] = {}
        self._rows: dict[int, np.ndarray] = {}
        self._compare()
        self.refresh()

    def __len__(self) -> int:
        return len(self._place)

    def __contains__(self, key: bytes) -> bool:
        return key in self._place

    def refresh(self) -> None:
        """Take in the shards that were written since, by this process or another."""
        if not self.folder.is_dir():
            return
        for path in sorted(self.folder.iterdir()):
            found = _PATTERN.fullmatch(path.name)
            if found and int(found[1]) not in self._rows:
                if not (self.folder / DESCRIPTION).is_file():
                    raise StorageError(
                        f"{self.folder}: has shards but no {DESCRIPTION}, which tells what they were computed with; "
                        "remove the folder and compute it anew"
                    )
                number = int(found[1])
                keys, self._rows[number] = _open_shard(path, self.dim)
                for row, key in enumerate(keys):
                    self._place.setdefault(key, (number, row))

    def rows(self, keys: Sequence[bytes]) -> np.ndarray:
        """The rows of keys, float16 [n, dim], in their order; only those rows are read.

        Raises:
            InputError: a key is not in the store; see ``in``.
        """
        missing = sum(key not in self._place for key in keys)
        if missing:
            raise InputError(f"{self.folder}: {missing} of {len(keys)} items are not in the store: compute them first")
        out = np.empty((len(keys), self.dim), np.float16)
        for i, key in enumerate(keys):
            number, row = self._place[key]
            out[i] = self._rows[number][row]
        return out

    def append(self, keys: Sequence[bytes], rows: np.ndarray) -> None:
        """Add a shard; when this returns it is on disk. Keys that are there already keep their first row.

        Args:
            keys: n keys of 16 bytes.
            rows: [n, dim], finite in float16.

        Raises:
            InputError: the shapes or the keys do not fit, or a value is too large for float16 or not a number.
            StorageError: the disk is full, or the folder cannot be written.
        """
        rows = np.asarray(rows)
        if rows.shape != (len(keys), self.dim) or any(len(key) != KEY_BYTES for key in keys):
            raise InputError(
                f"rows {list(rows.shape)} for {len(keys)} keys: give [n, {self.dim}] and keys of {KEY_BYTES} bytes"
            )
        with np.errstate(over="ignore"):
            half = rows.astype("<f2")
        if not np.isfinite(half).all():
            raise InputError(
                f"rows: a value is not a number or beyond float16 (largest {np.abs(rows).max():g}): "
                "the model overflows in its type; compute in bf16 or fp32"
            )
        if not len(keys):
            return
        with storage_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            with FileLock(self.folder / "lock"):
                self._compare()
                for left in self.folder.glob(".shard.*.part"):  # by a killed writer: we hold the lock
                    left.unlink()
                if not (self.folder / DESCRIPTION).is_file():
                    write_json(self.folder / DESCRIPTION, {"format": FORMAT, "dim": self.dim, "facts": self.facts})
                # Behind every number in use, also where one in between was removed by hand.
                found = [int(m[1]) for path in self.folder.iterdir() if (m := _PATTERN.fullmatch(path.name))]
                path = self.folder / _NAME.format(max(found, default=-1) + 1)
                _write(path, np.frombuffer(b"".join(keys), np.uint8).reshape(-1, KEY_BYTES), half)
        self.refresh()

    def _compare(self) -> None:
        path = self.folder / DESCRIPTION
        if not path.is_file():
            return
        try:
            held: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            facts, form = dict(held["facts"]), (held["format"], held["dim"])
        except (ValueError, KeyError, TypeError):
            raise StorageError(f"{path}: is damaged; remove the folder {self.folder} and compute it anew") from None
        wanted = {**self.facts, "format": str(FORMAT), "length of a row": str(self.dim)}
        there = {**facts, "format": str(form[0]), "length of a row": str(form[1])}
        names = [name for name in dict.fromkeys([*wanted, *there]) if wanted.get(name) != there.get(name)]
        if names:
            differences = "; ".join(f"{name} (there {there.get(name)}, here {wanted.get(name)})" for name in names)
            raise InputError(f"{self.folder}: made with other {differences}; give another folder, or remove this one")


def _write(path: Path, keys: np.ndarray, rows: np.ndarray) -> None:
    from safetensors.numpy import save

    handle, temporary = tempfile.mkstemp(prefix=".shard.", suffix=".part", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(save({"keys": keys, "rows": np.ascontiguousarray(rows)}))
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # or the name itself may be lost with the power
        finally:
            os.close(folder)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def _open_shard(path: Path, dim: int) -> tuple[list[bytes], np.ndarray]:
    """Keys in memory, rows mapped. safetensors' own numpy reader would copy the rows."""
    try:
        size = path.stat().st_size
        with path.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            header = json.loads(stream.read(min(length, size)))
            start = 8 + length
            keys, rows = header["keys"], header["rows"]
            count = keys["shape"][0]
            sound = (
                keys["dtype"] == "U8"
                and rows["dtype"] == "F16"
                and keys["shape"] == [count, KEY_BYTES]
                and rows["shape"] == [count, dim]
                and size == start + count * (KEY_BYTES + 2 * dim)
            )
            if not sound:
                raise ValueError
            stream.seek(start + keys["data_offsets"][0])
            data = stream.read(count * KEY_BYTES)
        mapped = np.memmap(path, "<f2", "r", offset=start + rows["data_offsets"][0], shape=(count, dim))
    except (ValueError, KeyError, TypeError, IndexError, struct.error):
        raise StorageError(f"{path}: is damaged (cut off?); remove it, and what it held is computed anew") from None
    return [data[i * KEY_BYTES : (i + 1) * KEY_BYTES] for i in range(count)], mapped
