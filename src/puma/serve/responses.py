"""Stored items and hits as JSON, written without validating what we made ourselves.

This is the only place that turns a payload into what a client may see: no folder of this machine is in it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import PureWindowsPath
from typing import Any
from urllib.parse import urlencode

from starlette.exceptions import HTTPException
from starlette.responses import Response

from puma.index import Hit, Row


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


def stored_item(row: Row | Hit, index: str) -> dict[str, Any]:
    """A stored item as clients see it; of a hit, with its score."""
    text = text_of(row.payload)
    shown: dict[str, Any] = {"id": row.id}
    if isinstance(row, Hit):
        shown["score"] = row.score
    image = "/thumbnail?" + urlencode({"index": index, "id": row.id}) if row.thumbnail else None
    return shown | {
        "modality": row.modality,
        "text": text,
        "file": file_of(row.payload),
        "metadata": metadata_of(row.payload),
        "thumbnail": image,
    }


def text_of(payload: Mapping[str, Any]) -> str | None:
    """The item's text."""
    text = payload.get("text")
    return text if isinstance(text, str) else None


def file_of(payload: Mapping[str, Any]) -> str | None:
    """The base name of the item's file; never its folder."""
    path = payload.get("image")
    return (PureWindowsPath(path).name or None) if isinstance(path, str) else None


def metadata_of(payload: Mapping[str, Any]) -> dict[str, Any]:
    """Everything but the item itself."""
    return {key: value for key, value in payload.items() if key not in RESERVED}
