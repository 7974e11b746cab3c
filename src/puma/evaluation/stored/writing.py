"""Writing a benchmark's vectors in UniIR's layout, so that its tools index and score them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from puma.data.layout import pool_path, shared_pool_path
from puma.data.mbeir import TaskName
from puma.errors import InputError
from puma.evaluation.judged import POOLS, Judged
from puma.evaluation.stored.reading import ROWS_AT_ONCE, UNION, hash_did, hash_qid, query_stem
from puma.items.encoder import BATCH, Encoder, embed_readable
from puma.storage.folders import written_folder

DTYPES = ("float16", "float32")
INSTRUCTIONS = ("first", "none")


@dataclass(frozen=True)
class Written:
    """What :func:`write_embeddings` wrote: rows by file name, and {id: reason} of the zero rows."""

    files: dict[str, int]
    skipped: dict[str, str]


def write_embeddings(
    encoder: Encoder,
    root: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    dataset: str | None = None,
    split: str = "test",
    tasks: Iterable[TaskName] | None = None,
    pools: Sequence[str] = POOLS,
    instruction: str = "first",
    dtype: str = "float16",
    batch_size: int = BATCH,
    progress: bool = True,
) -> Written:
    """Embed a benchmark's queries and candidates, each candidate once, and write them as UniIR's embedder does.

    Args:
        folder: must be absent or empty; it appears whole or not at all. Its name under UniIR's ``embed`` folder is what
            UniIR's configurations call the experiment's path.
        pools: which pools' files are written.
        instruction: ``first`` or ``none``.
        dtype: ``float16``, as UniIR writes, or ``float32``, which UniIR reads as well.

    The other arguments are as in :func:`puma.evaluation.mbeir.evaluate`. A query or candidate whose image cannot be
    read is a row of zeros: left out, a query would vanish from UniIR's mean.

    Raises:
        InputError: an unknown instruction, dtype, task or pool; a folder that is not empty; an id that has no hash.
        DataError: the benchmark's files are at fault.
        StorageError: the disk is full or the folder cannot be written.
    """
    if instruction not in INSTRUCTIONS or dtype not in DTYPES:
        raise InputError(
            f"instruction must be one of {INSTRUCTIONS} and dtype one of {DTYPES}, got {instruction!r} and {dtype!r}"
        )
    data = Judged.read(root, dataset, split, tasks, pools)
    files: dict[str, int] = {}
    skipped: dict[str, str] = {}
    with written_folder(folder) as out:
        for name in (split, "cand_pool"):
            (out / name).mkdir()
        for task in data.tasks:
            queries = data.queries[task]
            vectors, _, faults = embed_readable(
                encoder,
                [query.item(data.benchmark.root) for query in queries],
                instruction=data.benchmark.instruction(task) if instruction == "first" else None,
                batch_size=batch_size,
                progress=f"queries, task {task}" if progress else None,
            )
            skipped |= {queries[place].qid: reason for place, reason in faults}
            name = query_stem(*data.benchmark.split_name(task), split)
            np.save(out / split / f"{name}_embed.npy", vectors.astype(dtype))
            _write_ids(out / split / f"{name}_ids.npy", [hash_qid(query.qid) for query in queries])
            files[f"{split}/{name}_embed.npy"] = len(queries)
        scratch = out / "cand_pool" / "all.part.npy"
        every = _embedded(encoder, data, scratch, dtype, batch_size, progress, skipped)
        for (_, local), places in data.pools.items():
            name = f"mbeir_{UNION}_cand_pool" if local is None else _pool_stem(data, local)
            _write_rows(out / "cand_pool" / f"{name}_embed.npy", every, places)
            _write_ids(
                out / "cand_pool" / f"{name}_ids.npy", [hash_did(data.candidates[place].did) for place in places]
            )
            files[f"cand_pool/{name}_embed.npy"] = len(places)
        del every
        scratch.unlink()
    return Written(files, skipped)


def _embedded(
    encoder: Encoder,
    data: Judged,
    path: Path,
    dtype: str,
    batch_size: int,
    progress: bool,
    skipped: dict[str, str],
) -> np.ndarray:
    size = len(data.candidates)
    every = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=(size, encoder.dim))
    for start in range(0, size, ROWS_AT_ONCE):
        part = data.candidates[start : start + ROWS_AT_ONCE]
        vectors, _, faults = embed_readable(
            encoder,
            [candidate.item(data.benchmark.root) for candidate in part],
            batch_size=batch_size,
            progress=f"candidates from {start:,} of {size:,}" if progress else None,
        )
        every[start : start + len(part)] = vectors
        skipped |= {part[place].did: reason for place, reason in faults}
    return every


def _pool_stem(data: Judged, task: TaskName) -> str:
    """The pool's file in the benchmark, without its suffix: UniIR keeps that name."""
    dataset, number = data.benchmark.split_name(task)
    own = pool_path(data.benchmark.root, dataset, number, data.split)
    return (own if own.is_file() else shared_pool_path(data.benchmark.root, dataset, number)).stem


def _write_rows(path: Path, every: np.ndarray, places: np.ndarray) -> None:
    out = np.lib.format.open_memmap(path, mode="w+", dtype=every.dtype, shape=(len(places), every.shape[1]))
    for start in range(0, len(places), ROWS_AT_ONCE):
        out[start : start + ROWS_AT_ONCE] = every[places[start : start + ROWS_AT_ONCE]]
    out.flush()


def _write_ids(path: Path, ids: Sequence[int]) -> None:
    np.save(path, np.array(ids, dtype=np.int64))
