"""The two collections of an index on Milvus: its rows, and what is stored beside them. Loads no torch."""

from __future__ import annotations

import base64
import hashlib
import json
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from puma.errors import IndexMismatchError, InputError
from puma.index.interface import NewRow, Row
from puma.index.milvus.connection import Server
from puma.index.milvus.expressions import hexed, stored_fields, unhexed
from puma.index.milvus.names import companions_of
from puma.index.tables import checksum

FORMAT = 1
CELLS = 512
"""Cells of a segment's inverted file (IVF_FLAT); searched all, the search is exact."""
KEY, TEXT = 8192, 65_535
"""Bytes: 1,024 characters in hexadecimal digits of UTF-8, and the most that a server stores as text."""
ABOUT = "about"
"""The key of the companion that holds the index's format, dim and fingerprint."""
COMPANION_TEXTS = {
    "kind": ("VARCHAR", 8),
    "source": ("VARCHAR", KEY),
    "item": ("VARCHAR", KEY),
    "modality": ("VARCHAR", 16),
    "data": ("VARCHAR", TEXT),
}
ROW_FIELDS = ("modality", "payload", "content", "thumbnail")


def described(server: Server) -> dict[str, Any] | None:
    """What the server says of the index: its format, dim and fingerprint; None where there is none.

    Raises:
        InputError: a collection of this name is there, and it is no index.
        IndexMismatchError: an index of a newer format.
    """
    shown, name = server.address.shown, server.address.name
    if not server.call(lambda: server.client.has_collection(name, timeout=server.seconds)):
        return None
    beside = companions_of(name)
    has_companions = server.call(lambda: server.client.has_collection(beside, timeout=server.seconds))
    if has_companions:
        load(server, beside)
    about = noted(server, ABOUT) if has_companions else None
    if about is None:
        raise InputError(f"{shown}: the server has a collection {name!r} that is no index of PUMA; choose another name")
    found = json.loads(about)
    if found.get("format") != FORMAT:
        raise IndexMismatchError(
            f"{shown}: an index of format {found.get('format')!r} on Milvus; this PUMA reads format {FORMAT}. Update "
            "PUMA, or make the index anew under another name."
        )
    return dict(found)


def create(server: Server, dim: int, fingerprint: str | None, model: str = "") -> None:
    """Make both collections, that of the rows last: an index is there when it is.

    Args:
        model: what to load to search it, where a migration makes it.
    """
    name, beside = server.address.name, companions_of(server.address.name)
    text, number = "VARCHAR", "INT64"
    _create(server, beside, 2, {**COMPANION_TEXTS, "fields": ("JSON", 0)})
    load(server, beside)
    if noted(server, ABOUT) is None:
        about = {"format": FORMAT, "dim": dim, "fingerprint": fingerprint}
        note(server, ABOUT, json.dumps(about | ({"model": model} if model else {})))
    rows = {"modality": (text, 16), "payload": (text, TEXT), "content": (text, KEY), "thumbnail": ("BOOL", 0)}
    _create(server, name, dim, {**rows, "fields": ("JSON", 0), "draw": (number, 0), "checksum": (number, 0)})


def note(server: Server, key: str, data: str) -> None:
    """Store something about the whole index."""
    texts = dict.fromkeys(COMPANION_TEXTS, "") | {"kind": "a", "data": data}
    server.write(companions_of(server.address.name), [{"key": key, "vector": [0.0, 0.0], **texts, "fields": {}}])


def noted(server: Server, key: str) -> str | None:
    """What :func:`note` stored; None for nothing."""
    rows = server.query(companions_of(server.address.name), f'key == "{key}"', ["data"], 1)
    return str(rows[0]["data"]) if rows else None


def _create(server: Server, name: str, dim: int, columns: Mapping[str, tuple[str, int]]) -> None:
    from pymilvus import DataType

    client = server.client
    if server.call(lambda: client.has_collection(name, timeout=server.seconds)):
        return
    schema = client.create_schema(auto_id=False, enable_dynamic_field=False)
    schema.add_field("key", DataType.VARCHAR, max_length=KEY, is_primary=True)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=dim)
    for column, (kind, length) in columns.items():
        schema.add_field(column, DataType[kind], **({"max_length": length} if length else {}))
    index = client.prepare_index_params()
    index.add_index("vector", index_type="IVF_FLAT", metric_type="IP", params={"nlist": CELLS})
    server.call(
        lambda: client.create_collection(
            name, schema=schema, index_params=index, consistency_level="Strong", timeout=server.seconds
        )
    )


def load(server: Server, name: str) -> None:
    """Have a collection in the server's memory, where it can be searched."""
    state = server.call(lambda: server.client.get_load_state(name, timeout=server.seconds))
    if str(state.get("state")).rpartition(".")[2] != "Loaded":
        server.call(lambda: server.client.load_collection(name, timeout=server.seconds))


def row_entity(row: NewRow) -> dict[str, Any]:
    """A row as it is stored.

    Raises:
        InputError: its payload is longer than a server stores, even compressed.
    """
    fields = stored_fields(json.loads(row.payload))
    return {
        "key": hexed(row.id),
        "vector": row.vector.tolist(),
        "modality": row.modality,
        "payload": stored_text(row.payload, row.id),
        "content": hexed(row.content),
        "thumbnail": bool(row.thumbnail),
        "fields": within(fields, row.id),
        "draw": draw_of(row.id),
        "checksum": checksum(row.id, row.modality, row.vector, row.payload, row.content, row.thumbnail),
    }


def row_of(entity: Mapping[str, Any]) -> Row:
    """A stored row; without its vector where that was not requested."""
    vector = np.asarray(entity.get("vector", ()), dtype=np.float32)
    payload = json.loads(read_text(entity["payload"]))
    content, thumbnail = unhexed(entity["content"]), bool(entity["thumbnail"])
    return Row(unhexed(entity["key"]), vector, str(entity["modality"]), payload, content, thumbnail)


def draw_of(name: str) -> int:
    """A number in [0, 2**62) that the id decides: the smallest of them are a fixed random sample of the rows."""
    return int.from_bytes(hashlib.sha256(name.encode("utf-8")).digest()[:8], "big") >> 2


def stored_text(text: str, name: str) -> str:
    """A text as the column takes it: compressed where it is too long."""
    if len(text.encode("utf-8")) <= TEXT:
        return text
    packed = "z" + base64.b64encode(zlib.compress(text.encode("utf-8"), 9)).decode()
    if len(packed) > TEXT:
        raise InputError(
            f"the payload of {name!r} has {len(text):,} characters, and {len(packed):,} compressed; Milvus stores "
            f"{TEXT:,}. Shorten its fields"
        )
    return packed


def read_text(stored: str) -> str:
    """The text of :func:`stored_text`; JSON objects begin with a brace."""
    return zlib.decompress(base64.b64decode(stored[1:])).decode("utf-8") if stored.startswith("z") else stored


def within(fields: dict[str, str], name: str) -> dict[str, str]:
    """The fields, checked against what a server stores."""
    size = len(json.dumps(fields))
    if size > TEXT:
        raise InputError(
            f"the payload of {name!r} has fields of {size:,} bytes for filters; Milvus stores {TEXT:,}. Leave some out"
        )
    return fields
