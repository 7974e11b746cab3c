"""Writing M-BEIR's files: queries, candidate pools, qrels, instructions, each whole or not at all. Loads no torch."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from puma.data.records import Candidate, Query
from puma.errors import DataError


def write_queries(path: str | os.PathLike[str], queries: Iterable[Query]) -> None:
    """Write a query file, whole or not at all. Equal queries give equal bytes."""
    _write(
        path,
        (
            _json(
                qid=query.qid,
                query_txt=query.text,
                query_img_path=query.image_path,
                query_modality=query.modality,
                query_src_content=query.src,
                pos_cand_list=list(query.positives),
                neg_cand_list=list(query.negatives),
                **({} if query.task_id is None else {"task_id": query.task_id}),
            )
            for query in queries
        ),
    )


def write_pool(path: str | os.PathLike[str], candidates: Iterable[Candidate]) -> None:
    """Write a candidate pool, whole or not at all.

    Raises:
        DataError: a did occurs twice.
    """
    seen: set[str] = set()

    def lines() -> Iterator[str]:
        for candidate in candidates:
            if candidate.did in seen:
                raise DataError(f"{os.fspath(path)}: the did {candidate.did} would be written twice")
            seen.add(candidate.did)
            yield _json(
                did=candidate.did,
                txt=candidate.text,
                img_path=candidate.image_path,
                modality=candidate.modality,
                src_content=candidate.src,
            )

    _write(path, lines())


def write_qrels(path: str | os.PathLike[str], qrels: Mapping[str, Mapping[str, int]], task: int) -> None:
    """Write relevance judgements in M-BEIR's five columns, in the order given."""
    _write(path, (f"{qid} 0 {did} {grade} {task}" for qid, dids in qrels.items() for did, grade in dids.items()))


def write_instructions(path: str | os.PathLike[str], rows: Iterable[tuple[str, str, str, int, Sequence[str]]]) -> None:
    """Write query instructions: rows of (query modality, candidate modality, data set's name, its number, prompts)."""
    rows = list(rows)
    most = max((len(row[4]) for row in rows), default=1)
    header = ["query_modality", "cand_modality", "dataset_name", "dataset_id"]
    lines = ["\t".join(header + [f"prompt_{n}" for n in range(1, most + 1)])]
    for query, candidate, name, number, prompts in rows:
        if any("\t" in prompt or "\n" in prompt for prompt in prompts):
            raise DataError(f"{os.fspath(path)}: a prompt of {name} holds a tab or a line break: {prompts!r}")
        lines.append("\t".join([query, candidate, name, str(number), *prompts]))
    _write(path, lines)


def _json(**fields: Any) -> str:
    return json.dumps(fields, ensure_ascii=False)


def _write(path: str | os.PathLike[str], lines: Iterable[str]) -> None:
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = target.with_name(f"{target.name}.{os.getpid()}.tmp")
    try:
        with open(scratch, "w", encoding="utf-8", newline="\n") as stream:
            for line in lines:
                stream.write(line + "\n")
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(scratch, target)
    finally:
        scratch.unlink(missing_ok=True)
