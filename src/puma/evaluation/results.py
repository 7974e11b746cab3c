"""Results documents: one evaluation as one JSON file that other programs, and ``puma compare``, read. Loads no torch.

::

    {"format": 1, "model": name, "fingerprint": str,
     "benchmark": {"root": the folder's name, "dataset": name or null, "split": .., "instruction": first, none or all},
     "tables": puma.evaluation.counting.Tables, without per_query,
     "per_query": {pool: {task: {query id: best rank of a positive, or null}}}}
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from puma.errors import DataError, InputError
from puma.evaluation.judged import POOLS
from puma.storage.folders import write_json

FORMAT = 1
BENCHMARK_FIELDS = ("root", "dataset", "split", "instruction")
Ranks = dict[str, dict[str, dict[str, int | None]]]
_FIELDS = {"model": str, "fingerprint": str, "benchmark": dict, "tables": dict, "per_query": dict}


def make_results(
    model: str,
    fingerprint: str,
    benchmark: Mapping[str, str | None],
    tables: Mapping[str, Mapping[str, Any]],
    **more: Any,
) -> dict[str, Any]:
    """The document of one evaluation.

    Args:
        model: its name, or its folder's.
        fingerprint: of the encoder; empty if unknown.
        benchmark: ``root`` (the folder's name), ``dataset``, ``split``, ``instruction``.
        tables: as :func:`puma.evaluation.mbeir.evaluate` gives them, with ``details=True`` if queries are to be
            compared.
        more: further fields, as ``machine`` and ``versions``.

    Raises:
        InputError: ``benchmark`` lacks a field or has another, or ``more`` has one of the document's own.
    """
    if set(benchmark) != set(BENCHMARK_FIELDS):
        raise InputError(f"benchmark must hold {', '.join(BENCHMARK_FIELDS)}, got {sorted(benchmark)}")
    taken = sorted({"format", *_FIELDS} & set(more))
    if taken:
        raise InputError(f"more must not hold the document's own fields, got {taken}")
    plain, ranks = split_details(tables)
    document = {"format": FORMAT, "model": model, "fingerprint": fingerprint, "benchmark": dict(benchmark)}
    return document | {"tables": plain, "per_query": ranks} | more


def write_results(path: str | os.PathLike[str], results: Mapping[str, Any]) -> None:
    """Write a document of :func:`make_results`, whole or not at all. Raises StorageError."""
    write_json(path, results)


def read_results(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a results document.

    Raises:
        InputError: there is no such file.
        DataError: it is not JSON, or not of this format; the message says what is wrong.
    """
    try:
        document = json.loads(Path(path).read_text(encoding="utf-8"))
    except (FileNotFoundError, IsADirectoryError):
        raise InputError(f"{os.fspath(path)}: no such results file; puma evaluate --json-out writes one") from None
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{os.fspath(path)}: not JSON ({error}); give a file that puma evaluate --json-out wrote"
        ) from None
    number = document.get("format") if isinstance(document, dict) else None
    if number != FORMAT:
        raise DataError(f"{os.fspath(path)}: not a results document of format {FORMAT} (its format: {number!r})")
    faults = [
        f"{name} must be {kind.__name__}" for name, kind in _FIELDS.items() if type(document.get(name)) is not kind
    ]
    faults = faults or _rank_faults(document["per_query"])
    if faults:
        raise DataError(f"{os.fspath(path)}: {'; '.join(faults)}")
    return document


def split_details(tables: Mapping[str, Mapping[str, Any]]) -> tuple[dict[str, Any], Ranks]:
    """Tables without ``per_query``, and ``{pool: {task: per_query}}``."""
    plain: dict[str, Any] = {}
    ranks: Ranks = {}
    for task, table in tables.items():
        for pool in POOLS:
            own = table if pool == "local" else table.get(pool, {})
            if "per_query" in own:
                ranks.setdefault(pool, {})[task] = dict(own["per_query"])
        plain[task] = {key: value for key, value in table.items() if key not in ("per_query", "global")}
        if "global" in table:
            plain[task]["global"] = {key: value for key, value in table["global"].items() if key != "per_query"}
    return plain, ranks


def _rank_faults(ranks: Mapping[str, Any]) -> list[str]:
    for pool, tasks in ranks.items():
        for task, queries in tasks.items() if isinstance(tasks, dict) else [("?", None)]:
            if not isinstance(queries, dict):
                return [f"per_query of {pool}, {task} must be an object of query ids"]
            for qid, rank in queries.items():
                if rank is not None and (type(rank) is not int or rank < 1):
                    return [f"per_query of {pool}, task {task}, query {qid} must be a rank of at least 1 or null"]
    return []
