"""Stored vectors in UniIR's layout, both ways: theirs scored by us, ours scored by them. Loads no torch.

The layout (github.com/TIGER-AI-Lab/UniIR, its embedder and retriever), under one folder::

    <split>/mbeir_<dataset>_task<id>_<split>_embed.npy   float16 [queries, dim], of any length
    <split>/mbeir_<dataset>_task<id>_<split>_ids.npy     int64 [queries]: dataset * 500,000 + number
    cand_pool/mbeir_<pool>_cand_pool_embed.npy           pool: <dataset>_task<id>, mscoco_task0_test, ..., union
    cand_pool/mbeir_<pool>_cand_pool_ids.npy             int64 [candidates]: dataset * 10,000,000 + number

As there, rows are brought to unit length in single precision before they are compared.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from puma.data.layout import label_of
from puma.data.mbeir import TaskName
from puma.errors import DataError, InputError
from puma.evaluation.counting import KS, Tables, check_ks, count
from puma.evaluation.judged import POOLS, Judged
from puma.evaluation.matrices import check_memory, matrix, release, scratch_folder
from puma.index.exact.sharded import ShardedSearch

QUERIES_PER_DATASET = 500_000
CANDIDATES_PER_DATASET = 10_000_000
UNION = "union"
"""The global pool's name in UniIR's files, whatever the split."""
ROWS_AT_ONCE = 2**14


def hash_qid(qid: str) -> int:
    """A query id as UniIR's integer.

    Raises:
        InputError: no "<dataset>:<number>", or a number of 500,000 or more, which would be another data set's.

    Examples:
        >>> hash_qid("9:12")
        4500012
        >>> unhash_qid(4500012)
        '9:12'
    """
    return _hashed(qid, QUERIES_PER_DATASET)


def unhash_qid(number: int) -> str:
    """The query id behind UniIR's integer."""
    return f"{number // QUERIES_PER_DATASET}:{number % QUERIES_PER_DATASET}"


def hash_did(did: str) -> int:
    """A candidate id as UniIR's integer. Raises InputError as :func:`hash_qid`, from 10,000,000 on.

    Examples:
        >>> hash_did("9:12")
        90000012
        >>> unhash_did(90000012)
        '9:12'
    """
    return _hashed(did, CANDIDATES_PER_DATASET)


def unhash_did(number: int) -> str:
    """The candidate id behind UniIR's integer."""
    return f"{number // CANDIDATES_PER_DATASET}:{number % CANDIDATES_PER_DATASET}"


def _hashed(name: str, room: int) -> int:
    parts = re.fullmatch(r"([0-9]+):([0-9]+)", name)
    if not parts or int(parts[2]) >= room:
        raise InputError(
            f'an id must be "<dataset>:<number>" with a number below {room:,} to have a hash, got {name!r}'
        )
    return int(parts[1]) * room + int(parts[2])


def query_stem(dataset: str, task: int, split: str) -> str:
    """The name of a task's query vectors, without ``_embed.npy``."""
    return f"mbeir_{label_of(dataset, task)}_{split}"


@dataclass(frozen=True)
class Part:
    """One pair of files: ``vectors`` [n, dim], a memory map, and ``ids`` int64 [n]."""

    path: Path
    vectors: np.ndarray
    ids: np.ndarray

    @cached_property
    def _order(self) -> np.ndarray:
        return np.argsort(self.ids, kind="stable")

    def rows(self, ids: np.ndarray) -> np.ndarray:
        """The row of each id, -1 where it is not here: int64 [ids]."""
        if not len(self.ids):
            return np.full(len(ids), -1, dtype=np.int64)
        place = np.searchsorted(self.ids, ids, sorter=self._order).clip(max=len(self.ids) - 1)
        found = self._order[place]
        return np.where(self.ids[found] == ids, found, -1)


@dataclass(frozen=True)
class Stored:
    """A folder of vectors, by id: what an encoder would have given.

    ``queries``: by the name of their file ("mbeir_visualnews_task0_test"); ``candidates``: all pools' files.
    """

    folder: Path
    split: str
    queries: dict[str, Part]
    candidates: list[Part]

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return int([*self.queries.values(), *self.candidates][0].vectors.shape[1])

    @property
    def fingerprint(self) -> str:
        """A short name of the files' names, shapes, ids and some of their rows."""
        digest = hashlib.sha256()
        for part in [*self.queries.values(), *self.candidates]:
            digest.update(f"{part.path.name} {part.vectors.dtype} {part.vectors.shape}".encode())
            digest.update(part.ids.tobytes())
            digest.update(np.ascontiguousarray(part.vectors[:: max(1, len(part.ids) // 64)]).tobytes())
        return f"stored-{digest.hexdigest()[:16]}"

    def query_vectors(self, dataset: str, task: int, qids: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Unit float32 [n, dim] of a task's queries, zero where there is none, and which of them are there: bool [n].

        Raises:
            DataError: the task's file is missing.
        """
        name = query_stem(dataset, task, self.split)
        if name not in self.queries:
            raise DataError(f"{self.folder}: no {self.split}/{name}_embed.npy; it has {sorted(self.queries)}")
        out = np.zeros((len(qids), self.dim), dtype=np.float32)
        there = _fill(out, [self.queries[name]], np.array([hash_qid(qid) for qid in qids], dtype=np.int64))
        return out, there

    def candidate_vectors(self, dids: Sequence[str], out: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """The same for candidates, from whichever pool has them.

        Args:
            out: float32 [n, dim], filled if given.
        """
        out = np.zeros((len(dids), self.dim), dtype=np.float32) if out is None else out
        return out, _fill(out, self.candidates, np.array([hash_did(did) for did in dids], dtype=np.int64))


def _fill(out: np.ndarray, parts: Sequence[Part], ids: np.ndarray) -> np.ndarray:
    there = np.zeros(len(ids), dtype=bool)
    for start in range(0, len(ids), ROWS_AT_ONCE):
        for part in parts:
            wanted = start + np.flatnonzero(~there[start : start + ROWS_AT_ONCE])
            rows = part.rows(ids[wanted])
            wanted, rows = wanted[rows >= 0], rows[rows >= 0]
            vectors = np.asarray(part.vectors[rows], dtype=np.float32)
            lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
            good = (np.isfinite(lengths) & (lengths > 0))[:, 0]
            out[wanted[good]] = vectors[good] / lengths[good]
            there[wanted[good]] = True
            release(part.vectors)
        release(out)
    return there


def read_embeddings(folder: str | os.PathLike[str], split: str = "test") -> Stored:
    """Open stored vectors in UniIR's layout (see the module); files lying in ``folder`` itself are taken, too.

    Raises:
        InputError: no such folder.
        DataError: no queries or no candidates, a file without its other half, of another shape or type than the layout
            says, an id twice in a file, or vectors of different lengths.
    """
    root = Path(folder)
    if not root.is_dir():
        raise InputError(f"{root}: no such folder of embeddings")
    queries = {path.name.removesuffix("_embed.npy"): _part(path) for path in _files(root, split, f"_{split}")}
    candidates = [_part(path) for path in _files(root, "cand_pool", "_cand_pool")]
    if not queries or not candidates:
        raise DataError(
            f"{root}: no {f'{split}/mbeir_*_{split}' if not queries else 'cand_pool/mbeir_*_cand_pool'}_embed.npy"
        )
    stored = Stored(root, split, queries, candidates)
    lengths = {part.vectors.shape[1] for part in [*queries.values(), *candidates]}
    if len(lengths) > 1:
        raise DataError(f"{root}: vectors of different lengths: {sorted(lengths)}")
    return stored


def _files(root: Path, below: str, end: str) -> list[Path]:
    found = [path for place in (root / below, root) for path in sorted(place.glob(f"mbeir_*{end}_embed.npy"))]
    return sorted(found, key=lambda path: path.name == f"mbeir_{UNION}_cand_pool_embed.npy")  # a pool's own file first


def _part(path: Path) -> Part:
    other = path.with_name(path.name.replace("_embed.npy", "_ids.npy"))
    try:
        vectors, ids = np.load(path, mmap_mode="r"), np.load(other)
    except FileNotFoundError:
        raise DataError(f"{path}: without its ids, {other.name}") from None
    except (ValueError, EOFError, OSError) as error:
        raise DataError(f"{path} or {other.name}: no array that can be read ({error})") from None
    if vectors.ndim != 2 or vectors.dtype.kind != "f" or ids.shape != (len(vectors),) or ids.dtype.kind not in "iu":
        raise DataError(
            f"{path}: expected floats [n, dim] and whole numbers [n] in {other.name}, got {vectors.dtype} "
            f"{list(vectors.shape)} and {ids.dtype} {list(ids.shape)}"
        )
    unique, counts = np.unique(ids, return_counts=True)
    if len(unique) < len(ids):
        first = int(unique[counts > 1][0])
        raise DataError(f"{other}: {len(ids) - len(unique)} ids occur twice, as {first}; every id must occur once")
    return Part(path, vectors, ids.astype(np.int64))


def evaluate_embeddings(
    folder: str | os.PathLike[str] | Stored,
    root: str | os.PathLike[str],
    *,
    dataset: str | None = None,
    split: str = "test",
    tasks: Iterable[TaskName] | None = None,
    pools: Sequence[str] = POOLS,
    ks: Sequence[int] = KS,
    run_dir: str | os.PathLike[str] | None = None,
    details: bool = False,
    memory: int | None = None,
    work: str | os.PathLike[str] | None = None,
    search: ShardedSearch | None = None,
) -> Tables:
    """Score stored vectors as :func:`puma.evaluation.mbeir.evaluate` scores an encoder's: same arguments, same tables.

    A query without a vector is a miss, a candidate without one is never found; both are counted as skipped. Vectors of
    candidates outside the pools are not looked at.

    Args:
        folder: what :func:`read_embeddings` takes, or gives.

    Raises:
        InputError: as ``evaluate``, or no such folder.
        DataError: as ``evaluate`` and :func:`read_embeddings`, or none of a task's queries or of the candidates has a
            vector.
    """
    check_ks(ks)
    check_memory(memory)
    stored = folder if isinstance(folder, Stored) else read_embeddings(folder, split)
    data = Judged.read(root, dataset, split, tasks, pools)
    with scratch_folder(memory, work) as scratch:
        source = _Read(stored, memory, scratch)
        options: dict[str, Any] = {"run_dir": run_dir, "details": details, "memory": memory, "search": search}
        return count(data, source, pools, ks, scratch=scratch, **options)


@dataclass(frozen=True)
class _Read:
    """Stored vectors as a :class:`puma.evaluation.counting.Source`."""

    stored: Stored
    memory: int | None
    scratch: Path | None

    def candidates(self, data: Judged) -> tuple[np.ndarray, np.ndarray, dict[str, str]]:
        dids = [candidate.did for candidate in data.candidates]
        vectors, _ = matrix(len(dids), self.stored.dim, self.memory, self.scratch)
        _, there = self.stored.candidate_vectors(dids, vectors)
        if not there.any():
            raise DataError(f"{self.stored.folder}: none of the {len(dids)} candidates has a vector, as {dids[0]}")
        return vectors, there, _lacking(dids, there)

    def queries(self, data: Judged, task: TaskName) -> list[tuple[np.ndarray, np.ndarray, dict[str, str]]]:
        qids = [query.qid for query in data.queries[task]]
        vectors, there = self.stored.query_vectors(*data.benchmark.split_name(task), qids)
        if not there.any():
            raise DataError(f"{self.stored.folder}: none of the {len(qids)} queries of task {task} has a vector")
        return [(vectors, there, _lacking(qids, there))]


def _lacking(names: Sequence[str], there: np.ndarray) -> dict[str, str]:
    return {names[place]: "no vector, or one without a direction" for place in np.flatnonzero(~there).tolist()}
