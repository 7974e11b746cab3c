"""Checks of a whole index, down to every byte, which name what is wrong in plain words. Loads no torch."""

from __future__ import annotations

import json
import zlib
from collections import Counter
from typing import Any

import numpy as np

from puma.errors import StorageError
from puma.index.companions import Sources, Thumbnails
from puma.index.filters import filter_fields
from puma.index.interface import UNIT_TOLERANCE
from puma.index.places import Places
from puma.index.tables import ITEMS, PLACES, SOURCES, THUMBNAILS, Folder, checksum, connect, matrix, reading
from puma.items.item import MODALITIES

NAMED = 3
"""Ids named in one message; the others are counted."""
PROBED = 16


class Findings:
    """Kinds of faults with the ids that have them."""

    def __init__(self) -> None:
        self._found: dict[str, list[str]] = {}

    def add(self, what: str, names: list[str]) -> None:
        if names:
            self._found.setdefault(what, []).extend(names)

    def lines(self) -> list[str]:
        """One line a kind: how many, what, and the first few ids."""
        lines = []
        for what, names in self._found.items():
            named = ", ".join(map(repr, names[:NAMED])) + (", ..." if len(names) > NAMED else "")
            lines.append(f"{len(names)} {what}: {named}")
        return lines


def faults(folder: Folder, dim: int) -> list[str]:
    """Everything that is found wrong, read from the disk and not from memory; an empty list for a sound index."""
    table = reading(folder, lambda: connect(folder, fresh=True).open_table(ITEMS))
    thumbnails, sources = Thumbnails(folder, fresh=True), Sources(folder, fresh=True)
    findings = Findings()
    broken: list[str] = []
    # Images and sources without a row are no fault: a kill may leave them, nobody sees them, compact drops them.
    with_image: set[str] = set()
    several: set[tuple[str, str]] = set()
    try:
        several = _pairs_of_several(sources)
    except (StorageError, OSError, RuntimeError, ValueError) as error:
        broken.append(_unreadable(SOURCES, error))
    try:
        findings.add("items with a place that is not what was written", Places(folder, fresh=True).faults())
    except (StorageError, OSError, RuntimeError, ValueError) as error:
        broken.append(_unreadable(PLACES, error))
    try:
        with_image = _images(thumbnails, findings)
    except (StorageError, OSError, RuntimeError, ValueError) as error:
        broken.append(_unreadable(THUMBNAILS, error))
    try:
        wanted, probes = _items(table, dim, findings, several)
    except (StorageError, OSError, RuntimeError, ValueError) as error:
        return [_unreadable(ITEMS, error), *broken, *findings.lines()]
    if not any(THUMBNAILS in line for line in broken):
        missing = {content for _, content in wanted} - with_image
        missing -= thumbnails.present(sorted(missing))  # those of rows that were added meanwhile
        findings.add("rows whose thumbnail is lost", [name for name, content in wanted if content in missing])
    return [*broken, *findings.lines(), *_index_faults(folder, table, probes)]


def _unreadable(name: str, error: Exception) -> str:
    return f"the table of {name} cannot be read: {' '.join(str(error).split())[:300]}"


def _images(thumbnails: Thumbnails, findings: Findings) -> set[str]:
    found: set[str] = set()
    for part in thumbnails.columns(["content", "data", "checksum"], batch=256):
        found.update(content for content, _, _ in part)
        findings.add("thumbnails that are damaged", [name for name, data, kept in part if zlib.crc32(data) != kept])
    return found


def _pairs_of_several(sources: Sources) -> set[tuple[str, str]]:
    """Source and id, of the sources that gave more than one item."""
    first: dict[str, str] = {}
    found: set[tuple[str, str]] = set()
    for part in sources.columns(["source", "id"]):
        for source, name in part:
            if first.setdefault(source, name) != name:
                found |= {(source, first[source]), (source, name)}
    return found


def _items(
    table: Any, dim: int, findings: Findings, several: set[tuple[str, str]]
) -> tuple[list[tuple[str, str]], list[tuple[str, np.ndarray]]]:
    """Check every row; ``(id, content)`` of those with a thumbnail, and some rows to look for."""
    names = [name for name in table.schema.names if name != "vector"]
    seen: Counter[str] = Counter()
    wanted: list[tuple[str, str]] = []
    probes: list[tuple[str, np.ndarray]] = []
    overwritten: dict[str, list[str]] = {}
    for batch in table.search().select([*names, "vector"]).to_batches(2048):
        columns = {name: batch[name].to_pylist() for name in names}
        ids = columns["id"]
        vectors = matrix(batch["vector"], dim)
        seen.update(ids)
        finite = np.isfinite(vectors).all(axis=1)
        findings.add("rows whose vector holds NaN or infinity", [ids[n] for n in np.flatnonzero(~finite)])
        with np.errstate(all="ignore"):
            off = finite & (np.abs(np.linalg.norm(vectors, axis=1) - 1) > UNIT_TOLERANCE)
        findings.add("rows whose vector is not of length 1", [ids[n] for n in np.flatnonzero(off)])
        kinds = columns["modality"]
        findings.add(
            "rows of unknown modality", [name for name, kind in zip(ids, kinds, strict=True) if kind not in MODALITIES]
        )
        for place, name in enumerate(ids):
            _check_row(name, place, columns, vectors[place], findings)
            image = _image_path(columns["payload"][place]) if several else None
            if image is not None and (image, name) in several:
                overwritten.setdefault(image, []).append(name)
        if "thumbnail" in columns:
            wanted += [
                pair
                for pair, has in zip(zip(ids, columns["content"], strict=True), columns["thumbnail"], strict=True)
                if has
            ]
        if len(probes) < PROBED and finite.any():
            probes.append((ids[int(finite.argmax())], vectors[int(finite.argmax())]))
    ghosts = [name for names in overwritten.values() if len(names) > 1 for name in names]
    findings.add("rows of one image file, which was overwritten (add it again)", ghosts)
    findings.add("ids that occur more than once", sorted(name for name, count in seen.items() if count > 1))
    return wanted, probes


def _image_path(payload: str) -> str | None:
    try:
        image = json.loads(payload)["image"]
    except (ValueError, KeyError, TypeError):
        return None
    return image if isinstance(image, str) else None


def _check_row(name: str, place: int, columns: dict[str, list[Any]], vector: np.ndarray, findings: Findings) -> None:
    try:
        payload = json.loads(columns["payload"][place])
    except ValueError:
        payload = None
    if not isinstance(payload, dict):
        findings.add("rows whose payload is no JSON object", [name])
        return
    if "checksum" not in columns:
        return
    fields, tokens = filter_fields(payload)
    if json.loads(columns["fields"][place] or "null") != json.loads(fields) or columns["tokens"][place] != tokens:
        findings.add("rows that filters see otherwise than their payload", [name])
    stored = checksum(
        name,
        columns["modality"][place],
        vector,
        columns["payload"][place],
        columns["content"][place],
        columns["thumbnail"][place],
    )
    if stored != columns["checksum"][place]:
        findings.add("rows that are not what was written (checksum)", [name])


def index_faults(folder: Folder, dim: int) -> list[str]:
    """Only what is wrong with the search indexes."""
    table = reading(folder, lambda: connect(folder, fresh=True).open_table(ITEMS))
    found = reading(folder, lambda: table.search().select(["id", "vector"]).limit(PROBED).to_arrow())
    return _index_faults(folder, table, list(zip(found["id"].to_pylist(), matrix(found["vector"], dim), strict=True)))


def _index_faults(folder: Folder, table: Any, probes: list[tuple[str, np.ndarray]]) -> list[str]:
    """Look for stored rows through the search index and through the index of ids."""
    lost = []
    try:
        indexed = {index.columns[0] for index in table.list_indices()}
        for name, vector in probes:
            quoted = name.replace("'", "''")
            if "id" in indexed and not reading(folder, lambda: table.count_rows(f"id = '{quoted}'")):  # noqa: B023
                lost.append(name)
            elif "vector" in indexed:
                query = table.search(vector, vector_column_name="vector").distance_type("cosine").nprobes(160)
                best = query.refine_factor(10).limit(10).select(["id", "_distance"]).to_arrow()
                if not len(best) or min(best["_distance"].to_pylist()) > UNIT_TOLERANCE:
                    lost.append(name)
    except (StorageError, OSError, RuntimeError, ValueError) as error:
        return [f"the search index cannot be read (compact makes it anew): {' '.join(str(error).split())[:300]}"]
    return [f"{len(lost)} rows are not found by the search index: {lost[:NAMED]}"] if lost else []
