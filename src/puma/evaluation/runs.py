"""TREC run files: ``qid Q0 did rank score tag``, one line per query and candidate. Loads no torch."""

from __future__ import annotations

import contextlib
import math
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from puma.errors import DataError, InputError
from puma.storage.folders import storage_errors


def write_run(path: str | os.PathLike[str], run: Mapping[str, Mapping[str, float]], tag: str = "puma") -> None:
    """Write a run, best candidate first; equal scores by document id. The file appears whole or not at all.

    Args:
        path: its folder is made if missing.
        run: ``{query id: {document id: score}}``; scores finite, ids without white space.
        tag: the run's name, without white space.

    Raises:
        InputError: an id, the tag or a score cannot be written in this format.
        StorageError: the disk is full or the folder cannot be written.
    """
    _check_word("tag", tag)
    target = Path(path)
    with storage_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
        try:
            with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as stream:
                stream.writelines(_lines(run, tag))
                stream.flush()
                os.fsync(stream.fileno())
            os.chmod(temporary, 0o644)  # mkstemp's 0600 would hide the file from the group
            os.replace(temporary, target)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
            raise


def _lines(run: Mapping[str, Mapping[str, float]], tag: str) -> Iterator[str]:
    for qid, scores in run.items():
        _check_word("query id", qid)
        ranked = sorted(scores.items(), key=lambda pair: (-float(pair[1]), pair[0]))
        for rank, (did, score) in enumerate(ranked, start=1):
            _check_word("document id", did)
            if not math.isfinite(score):
                raise InputError(f"run[{qid!r}][{did!r}]: the score {score!r} is not finite")
            yield f"{qid} Q0 {did} {rank} {float(score)!r} {tag}\n"


def read_run(path: str | os.PathLike[str]) -> dict[str, dict[str, float]]:
    """Read a run file. Ranks are checked to be integers and otherwise ignored: the scores decide. A seventh column that
    is an integer, the task as UniIR writes it, is ignored as well.

    Raises:
        InputError: there is no such file.
        DataError: a line does not follow the format, or names a document twice for a query.
    """
    run: dict[str, dict[str, float]] = {}
    try:
        with open(path, "rb") as stream:
            for number, raw in enumerate(stream, start=1):
                if not raw.strip():
                    continue
                try:
                    qid, _, did, rank, score, _, *task = raw.decode("utf-8").split()
                    for whole in (rank, *task):
                        int(whole)
                    if len(task) > 1:
                        raise ValueError
                    value = float(score)
                except ValueError:
                    raise DataError(
                        f"{os.fspath(path)}, line {number}: expected 'qid Q0 did rank score tag', got {raw[:120]!r}"
                    ) from None
                if not math.isfinite(value):
                    raise DataError(f"{os.fspath(path)}, line {number}: the score {score} is not finite")
                scores = run.setdefault(qid, {})
                if did in scores:
                    raise DataError(f"{os.fspath(path)}, line {number}: document {did} occurs twice for query {qid}")
                scores[did] = value
    except (FileNotFoundError, IsADirectoryError):
        raise InputError(f"{os.fspath(path)}: no such run file") from None
    return run


def _check_word(what: str, value: str) -> None:
    if not isinstance(value, str) or not value or value.split() != [value]:
        raise InputError(f"a {what} in a run file must be a string without white space, got {value!r}")
