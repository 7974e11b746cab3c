"""Checks of a whole index on Milvus, row by row, which name what is wrong in plain words. Loads no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from puma.errors import StorageError
from puma.index.interface import UNIT_TOLERANCE
from puma.index.milvus.collections import ROW_FIELDS, read_text, row_of
from puma.index.milvus.companions import Places, Thumbnails
from puma.index.milvus.connection import Server
from puma.index.milvus.expressions import stored_fields
from puma.index.tables import checksum
from puma.index.verifying import Findings
from puma.items.item import MODALITIES


def faults(server: Server, thumbnails: Thumbnails, places: Places) -> list[str]:
    """Everything that is found wrong; an empty list for a sound index."""
    findings = Findings()
    wanted: dict[str, str] = {}
    fields = [*ROW_FIELDS, "vector", "fields", "checksum"]
    try:
        for page in server.rows(server.address.name, "", fields):
            for entity in page:
                _check(entity, findings, wanted)
        images = thumbnails.values("content") if wanted else set()
        findings.add(
            "rows whose thumbnail is lost", [name for name, content in wanted.items() if content not in images]
        )
        findings.add("items with a place that is not what was written", places.faults())
    except StorageError as error:
        return [str(error), *findings.lines()]
    return findings.lines()


def _check(entity: Mapping[str, Any], findings: Findings, wanted: dict[str, str]) -> None:
    try:
        row = row_of(entity)
    except (ValueError, KeyError, TypeError) as error:
        findings.add(f"rows that cannot be read ({error})", [str(entity.get("key"))[:80]])
        return
    if not isinstance(row.payload, dict):
        findings.add("rows whose payload is no JSON object", [row.id])
        return
    if not np.isfinite(row.vector).all():
        findings.add("rows whose vector holds NaN or infinity", [row.id])
    elif abs(float(np.linalg.norm(row.vector)) - 1) > UNIT_TOLERANCE:
        findings.add("rows whose vector is not of length 1", [row.id])
    if row.modality not in MODALITIES:
        findings.add("rows of unknown modality", [row.id])
    if entity["fields"] != stored_fields(row.payload):
        findings.add("rows that filters see otherwise than their payload", [row.id])
    payload = read_text(entity["payload"])
    if entity["checksum"] != checksum(row.id, row.modality, row.vector, payload, row.content, row.thumbnail):
        findings.add("rows that are not what was written (checksum)", [row.id])
    if row.thumbnail:
        wanted[row.id] = row.content
