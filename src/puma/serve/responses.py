"""Stored items and hits as JSON, written without validating what we made ourselves.

This is the only place that turns a payload into what a client may see: no folder of this machine is in it, unless the
service gives out originals.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import PureWindowsPath
from typing import Any
from urllib.parse import urlencode

from starlette.exceptions import HTTPException
from starlette.responses import Response

from puma.index import Hit, Row
from puma.search.ingest.fields import FOLDER, file_of
from puma.search.originals import has_file


class NotFoundError(HTTPException):
    """No such item, image or model: 404. ``code`` names it for programs."""

    def __init__(self, message: str, code: str) -> None:
        super().__init__(404, message)
        self.code = code


RESERVED = ("text", "image")
"""Keys of a payload that are the item itself; all others are its metadata."""


TRUNCATED = "X-Puma-Truncated"
"""The header that names the inputs, by their places, of which the model did not read the end."""
_MOST_NAMED = 200


def json_answer(content: Any, truncated: Sequence[int] = ()) -> Response:
    """A JSON response. ``content`` holds only what JSON can say; NaN is a defect of ours and raises ValueError.

    Args:
        truncated: places of inputs that were too long; the first of them go into the header :data:`TRUNCATED`.
    """
    headers = {TRUNCATED: ", ".join(map(str, truncated[:_MOST_NAMED]))} if truncated else None
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Response(text.encode("utf-8"), headers=headers, media_type="application/json")


def tagged(data: bytes, media_type: str, headers: Mapping[str, str], known: str | None) -> Response:
    """Bytes with an ETag; 304 instead of them where the client has them already.

    Args:
        known: the request's ``If-None-Match``.
    """
    tag = f'"{hashlib.sha256(data).hexdigest()[:32]}"'
    headers = {"ETag": tag, **headers}
    if known is not None and tag in known:
        return Response(status_code=304, headers=headers)
    return Response(data, media_type=media_type, headers=headers)


def stored_item(row: Row | Hit, index: str, originals: bool = False) -> dict[str, Any]:
    """A stored item as clients see it; of a hit, with its score.

    Args:
        originals: whether the client may know the path of its file, and have the file.
    """
    text = text_of(row.payload)
    shown: dict[str, Any] = {"id": row.id}
    if isinstance(row, Hit):
        shown["score"] = row.score
    address = urlencode({"index": index, "id": row.id})
    image = f"/thumbnail?{address}" if row.thumbnail else None
    original = f"/original?{address}" if originals and has_file(row.payload) else None
    if original is not None and isinstance(row.payload.get("page"), int):
        original += f"#page={row.payload['page']}"
    return shown | {
        "modality": row.modality,
        "text": text,
        **_place(row.payload, originals),
        "thumbnail": image,
        "original": original,
        "other_places": [_place(payload, originals) for payload in row.other_payloads],
    }


def _place(payload: Mapping[str, Any], originals: bool) -> dict[str, Any]:
    """Where an item was found, and what was said of it there."""
    return {
        "file": name_of(payload),
        "path": path_of(payload) if originals else None,
        "metadata": metadata_of(payload, originals),
    }


def text_of(payload: Mapping[str, Any]) -> str | None:
    """The item's text."""
    text = payload.get("text")
    return text if isinstance(text, str) else None


def name_of(payload: Mapping[str, Any]) -> str | None:
    """The base name of the item's file; never its folder."""
    path = payload.get("image")
    return (PureWindowsPath(path).name or None) if isinstance(path, str) else None


def path_of(payload: Mapping[str, Any]) -> str | None:
    """The whole path of the item's file, with ``#`` and the place inside it where it is in another file."""
    path = payload.get("image")
    return path if isinstance(path, str) else None


def metadata_of(payload: Mapping[str, Any], originals: bool = False) -> dict[str, Any]:
    """Everything but the item itself; its file's folder only with ``originals``."""
    shown = {key: value for key, value in payload.items() if key not in RESERVED}
    path = path_of(payload)
    if not originals and FOLDER in shown and path is not None and shown[FOLDER] == os.path.dirname(file_of(path)):
        del shown[FOLDER]
    return shown
