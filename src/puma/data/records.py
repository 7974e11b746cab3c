"""M-BEIR's records and the reading of their files: queries, candidates, qrels, instructions, with every fault named.

Here: one file at a time. Not here: writing them (:mod:`puma.data.writing`), and which files make up a benchmark
(:mod:`puma.data.mbeir`, which also offers all names of both). Nothing in this module loads torch.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from puma.errors import DataError
from puma.items import IMAGE, IMAGE_TEXT, MODALITIES, TEXT, Item

TASKS: dict[tuple[str, str], int] = {
    (TEXT, IMAGE): 0,
    (TEXT, TEXT): 1,
    (TEXT, IMAGE_TEXT): 2,
    (IMAGE, TEXT): 3,
    (IMAGE, IMAGE): 4,
    (IMAGE_TEXT, TEXT): 6,
    (IMAGE_TEXT, IMAGE): 7,
    (IMAGE_TEXT, IMAGE_TEXT): 8,
}
"""Task id by (query modality, candidate modality). 5 (image to image,text) is numbered in M-BEIR but unused."""
TASK_MODALITIES: dict[int, tuple[str, str]] = {task: pair for pair, task in TASKS.items()}
MAX_FAULTS = 20
"""Most faults of one file that a message lists."""

_ID = re.compile(r"\d+:\d+")
Record = TypeVar("Record")


@dataclass(frozen=True, slots=True)
class Query:
    """One line of a query file. ``image_path`` is relative to the root; ``src`` is ``query_src_content`` as stored (in
    M-BEIR a JSON string). ``task_id`` is None where neither the file nor the modalities tell it."""

    qid: str
    text: str | None
    image_path: str | None
    modality: str
    positives: tuple[str, ...] = ()
    negatives: tuple[str, ...] = ()
    task_id: int | None = None
    src: str | None = None

    def item(self, root: str | os.PathLike[str]) -> Item:
        """The query as an Item, its picture named by a path under ``root``."""
        return _item(self.text, self.image_path, root)


@dataclass(frozen=True, slots=True)
class Candidate:
    """One line of a candidate pool. ``image_path`` is relative to the root; ``src`` is ``src_content`` as stored."""

    did: str
    text: str | None
    image_path: str | None
    modality: str
    src: str | None = None

    def item(self, root: str | os.PathLike[str]) -> Item:
        """The candidate as an Item, its picture named by a path under ``root``."""
        return _item(self.text, self.image_path, root)


def _item(text: str | None, image_path: str | None, root: str | os.PathLike[str]) -> Item:
    return Item(text=text, image=None if image_path is None else Path(root) / image_path)


class _Faults:
    """Gathers the faults of one file, to be raised together."""

    def __init__(self, path: str | os.PathLike[str], what: str) -> None:
        self.path, self.what, self.count = os.fspath(path), what, 0
        self.found: list[str] = []

    def add(self, line: int, message: str) -> None:
        self.count += 1
        if len(self.found) < MAX_FAULTS:
            self.found.append(f"  line {line}: {message}")

    def check(self) -> None:
        if not self.count:
            return
        more = f"\n  ... and {self.count - len(self.found)} more" if self.count > len(self.found) else ""
        plural = "s" if self.count > 1 else ""
        raise DataError(f"{self.path}: {self.count} fault{plural} in {self.what}:\n" + "\n".join(self.found) + more)


def _lines(path: str | os.PathLike[str], faults: _Faults) -> Iterator[tuple[int, str]]:
    try:
        with open(path, "rb") as stream:
            for number, raw in enumerate(stream, 1):
                try:
                    line = raw.decode("utf-8-sig" if number == 1 else "utf-8").strip("\r\n")
                except UnicodeDecodeError as error:
                    faults.add(number, f"is not UTF-8 (byte {error.start}: {raw[error.start]:#04x})")
                    continue
                if line.strip():
                    yield number, line
    except FileNotFoundError:
        raise DataError(f"{os.fspath(path)}: no such file") from None
    except IsADirectoryError:
        raise DataError(f"{os.fspath(path)}: is a folder, expected a file") from None
    except PermissionError:
        raise DataError(f"{os.fspath(path)}: may not be read; check its permissions") from None


class _Fields:
    """One JSON object, whose fields are asked for by name and kind; faults are gathered."""

    def __init__(self, value: dict[str, Any], line: int, faults: _Faults) -> None:
        self.value, self.line, self.faults, self.good = value, line, faults, True

    def fault(self, message: str) -> None:
        self.good = False
        self.faults.add(self.line, message)

    def text(self, name: str) -> str | None:
        value = self.value.get(name)
        if value is None or isinstance(value, str):
            return value if value and value.strip() else None
        self.fault(f"{name} must be a string or null, got {_shown(value)}")
        return None

    def identity(self, name: str) -> str:
        value = self.value.get(name)
        if isinstance(value, str) and _ID.fullmatch(value):
            return value
        self.fault(f'{name} must be "<dataset>:<number>", got {_shown(value)}')
        return ""

    def identities(self, name: str) -> tuple[str, ...]:
        values = self.value.get(name)
        if values is None:
            return ()
        if not isinstance(values, list) or not all(isinstance(v, str) and _ID.fullmatch(v) for v in values):
            self.fault(f'{name} must be a list of "<dataset>:<number>", got {_shown(values)}')
            return ()
        if len(set(values)) < len(values):
            self.fault(f"{name} names a candidate twice: {_shown(values)}")
        return tuple(values)

    def source(self, name: str) -> str | None:
        value = self.value.get(name)
        return value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False)

    def image(self, name: str) -> str | None:
        path = self.text(name)
        if path is not None and (os.path.isabs(path) or ".." in path.replace("\\", "/").split("/")):
            self.fault(f"{name} must be relative to the root and stay under it, got {path!r}")
        return path

    def modality(self, name: str, text: str | None, image: str | None) -> str:
        """The modality, which must agree with what the record holds (M-BEIR's own spelling of both is accepted)."""
        value = self.value.get(name)
        if value == "text,image":
            value = IMAGE_TEXT
        if value not in MODALITIES:
            self.fault(f"{name} must be one of {', '.join(map(repr, MODALITIES))}, got {_shown(value)}")
            return TEXT
        has = {TEXT: (True, False), IMAGE: (False, True), IMAGE_TEXT: (True, True)}[value]
        if self.good and has != (text is not None, image is not None):
            holds = (
                " and ".join(w for w, v in (("a text", text), ("a picture", image)) if v) or "neither text nor picture"
            )
            self.fault(f"{name} is {value!r}, but the record holds {holds}")
        return value


def _shown(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 80 else shown[:77] + "..."


def _read_jsonl(
    path: str | os.PathLike[str], what: str, make: Callable[[_Fields], Record], identity: Callable[[Record], str]
) -> list[Record]:
    faults = _Faults(path, what)
    records: list[Record] = []
    seen: dict[str, int] = {}
    for number, line in _lines(path, faults):
        try:
            value = json.loads(line)
        except ValueError as error:
            faults.add(number, f"is not JSON ({error}): {line[:60]!r}")
            continue
        except RecursionError:
            faults.add(number, f"is JSON nested too deeply: {line[:60]!r}")
            continue
        if not isinstance(value, dict):
            faults.add(number, f"must be a JSON object, got {_shown(value)}")
            continue
        fields = _Fields(value, number, faults)
        record = make(fields)
        if not fields.good:
            continue
        name = identity(record)
        if name in seen:
            faults.add(number, f"the id {name} was already used in line {seen[name]}")
            continue
        seen[name] = number
        records.append(record)
    faults.check()
    return records


def _query(fields: _Fields) -> Query:
    text, image = fields.text("query_txt"), fields.image("query_img_path")
    task = fields.value.get("task_id")
    if task is not None and (isinstance(task, bool) or task not in (*TASK_MODALITIES, 5)):
        fields.fault(f"task_id must be one of {sorted(TASK_MODALITIES)}, got {_shown(task)}")
    return Query(
        qid=fields.identity("qid"),
        text=text,
        image_path=image,
        modality=fields.modality("query_modality", text, image),
        positives=fields.identities("pos_cand_list"),
        negatives=fields.identities("neg_cand_list"),
        task_id=task,
        src=fields.source("query_src_content"),
    )


def _candidate(fields: _Fields) -> Candidate:
    text, image = fields.text("txt"), fields.image("img_path")
    return Candidate(
        did=fields.identity("did"),
        text=text,
        image_path=image,
        modality=fields.modality("modality", text, image),
        src=fields.source("src_content"),
    )


def read_queries(path: str | os.PathLike[str]) -> list[Query]:
    """Read a query file.

    Raises:
        DataError: the file is missing, or has faults; the message names each line (the first 20).
    """
    return _read_jsonl(path, "the queries", _query, lambda query: query.qid)


def read_pool(path: str | os.PathLike[str]) -> list[Candidate]:
    """Read a candidate pool. Raises DataError as :func:`read_queries`; a did that occurs twice is a fault."""
    return _read_jsonl(path, "the candidate pool", _candidate, lambda candidate: candidate.did)


def read_qrels(path: str | os.PathLike[str]) -> dict[str, dict[str, int]]:
    """Read relevance judgements: {qid: {did: grade}}. Grades of 0 are kept. Four columns (TREC) are taken, too.

    Raises:
        DataError: as :func:`read_queries`; a pair judged twice is a fault.
    """
    faults = _Faults(path, "the qrels")
    qrels: dict[str, dict[str, int]] = {}
    for number, line in _lines(path, faults):
        parts = line.split()
        if len(parts) not in (4, 5):
            faults.add(number, f"must have 5 columns (qid 0 did grade task), got {len(parts)}: {line[:60]!r}")
        elif not (_ID.fullmatch(parts[0]) and _ID.fullmatch(parts[2]) and re.fullmatch(r"-?\d+", parts[3])):
            faults.add(number, f'must be "<qid> 0 <did> <whole-number grade> <task>", got {line[:60]!r}')
        elif parts[2] in qrels.get(parts[0], {}):
            faults.add(number, f"judges query {parts[0]} and candidate {parts[2]} a second time")
        else:
            qrels.setdefault(parts[0], {})[parts[2]] = int(parts[3])
    faults.check()
    return qrels


def read_instructions(path: str | os.PathLike[str]) -> dict[tuple[int, str, str], list[str]]:
    """Read query instructions: {(data set's number, query modality, candidate modality): prompts}. The first line is a
    header, and empty prompts are left out, as M-BEIR's own reader does.

    Raises:
        DataError: as :func:`read_queries`.
    """
    faults = _Faults(path, "the instructions")
    prompts: dict[tuple[int, str, str], list[str]] = {}
    for position, (number, line) in enumerate(_lines(path, faults)):
        if position == 0:
            continue
        parts = [part.strip() for part in line.split("\t")]
        if len(parts) < 5 or not parts[3].isdigit() or parts[0] not in MODALITIES or parts[1] not in MODALITIES:
            faults.add(number, "must be: query modality, candidate modality, name, number, prompts, split by tabs")
            continue
        found = [part for part in parts[4:] if part]
        if not found:
            faults.add(number, "has no prompt")
        key = (int(parts[3]), parts[0], parts[1])
        if key in prompts:
            faults.add(number, f"gives the prompts of data set {key[0]}, {key[1]} to {key[2]}, a second time")
        prompts[key] = found
    faults.check()
    return prompts
