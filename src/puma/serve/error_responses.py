"""HTTP answers to everything that is raised: a status, one shape of body, no path and no traceback.

The shape serves several clients at once: OpenAI's read ``error``, Cohere's read ``message``.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from puma.errors import DependencyError, ImageError, IndexMismatchError, InputError, PumaError, StorageError
from puma.serve.queue import BusyError, ClientGoneError, ClosingError, EncoderFaultError, WaitedTooLongError
from puma.serve.service import UnknownIndexError

log = logging.getLogger("puma.serve")

LONGEST_MESSAGE = 600
FAULTS_SHOWN = 3
GONE = 499
"""Nobody reads this answer; the number is for the log and the metrics."""
TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "overloaded_error",
}
OWN_FAULT = "something went wrong inside the service; its log says what"
_INSIDE = re.compile(
    r"(?<![\w/:.])/(?:" + "|".join(re.escape(name) for name in sorted(os.listdir("/"))) + r")/[^\s'\",;:)]*"
    if os.path.isdir("/")
    else r"(?!)"
)


def fault(
    status: int,
    message: str,
    *,
    code: str | None = None,
    param: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """An error's answer."""
    text = without_paths(" ".join(message.split()))[:LONGEST_MESSAGE]
    body = {
        "error": {"message": text, "type": TYPES.get(status, "invalid_request_error"), "param": param, "code": code},
        "message": text,
    }
    # In ASCII: a message may quote half of a surrogate pair, which UTF-8 cannot say.
    return Response(json.dumps(body), status, dict(headers or {}), "application/json")


def without_paths(message: str) -> str:
    """A message whose paths of this machine are cut to their last part."""
    return _INSIDE.sub(lambda found: os.path.basename(found.group().rstrip("/")), message)


def answer_to(error: BaseException) -> Response:
    """The answer to anything raised. What is not the client's doing is logged with its cause."""
    if isinstance(error, HTTPException):
        return _http(error)
    if isinstance(error, RequestValidationError):
        return _validation(error.errors())
    status, code = next(
        ((status, code) for kind, status, code in _STATUS if isinstance(error, kind)), (500, "internal")
    )
    if isinstance(error, MemoryError) or _out_of_memory(error):
        log.error("out of memory", exc_info=error)
        return fault(
            503, "not enough memory for this request now; send less at once", code="out_of_memory", headers=_retry()
        )
    if isinstance(error, (BusyError, WaitedTooLongError, ClosingError, TimeoutError)):
        after = error.retry_after if isinstance(error, BusyError) else 1
        return fault(status, str(error) or "it took too long", code=code, headers=_retry(after))
    if status < 500:
        text = str(error).replace("<bytes>", "the picture")
        named = _FIELD.match(text)
        return fault(status, text, code=code, param=named.group() if named else None)
    log.error("%s", error, exc_info=error)
    if status == 503:
        message = "the index cannot be read or written now; the service's log says why"
        return fault(status, message, code=code, headers=_retry())
    return fault(status, OWN_FAULT, code=code)


_STATUS: tuple[tuple[type[BaseException], int, str], ...] = (
    (UnknownIndexError, 404, "index_not_found"),
    (IndexMismatchError, 500, "internal"),  # the operator's doing, not the client's
    (ImageError, 400, "image_unusable"),
    (InputError, 400, "invalid_value"),
    (BusyError, 429, "queue_full"),
    (ClientGoneError, GONE, "client_gone"),
    (ClosingError, 503, "shutting_down"),
    (TimeoutError, 503, "timeout"),
    (StorageError, 503, "storage"),
    (DependencyError, 503, "storage"),
    (EncoderFaultError, 500, "encoder_failed"),
)
_CODES = {401: "token", 404: "not_found", 405: "method_not_allowed", 413: "too_large", 415: "unsupported_media_type"}


def _http(error: HTTPException) -> Response:
    detail = error.detail
    if isinstance(detail, Mapping):
        code, param = detail.get("code"), detail.get("param")
        detail = detail.get("message", "")
    else:
        code, param = getattr(error, "code", None), getattr(error, "param", None)
    if error.status_code == 404 and detail == "Not Found":
        detail = "no such address here; GET /docs lists them all"
    code = code or _CODES.get(error.status_code)
    return fault(error.status_code, str(detail), code=code, param=param, headers=error.headers)


def _validation(errors: Sequence[Any]) -> Response:
    if any(entry.get("type") == "json_invalid" for entry in errors):
        return fault(400, "the body is not JSON", code="json_invalid")
    if any(isinstance(entry.get("input"), bytes) for entry in errors):
        return fault(415, "the body must be JSON and say so: Content-Type: application/json", code=_CODES[415])
    faults = []
    for entry in errors[:FAULTS_SHOWN]:
        place = _place(entry["loc"][1:]) or str(entry["loc"][0])
        faults.append((place, f"{place}: {_WORDS.get(entry['msg'], entry['msg'])}"))
    more = f"; and {len(errors) - FAULTS_SHOWN} more" if len(errors) > FAULTS_SHOWN else ""
    message = "; ".join(text for _, text in faults) + more
    return fault(422, message, code="invalid_request", param=faults[0][0] if faults else None)


_WORDS = {"Extra inputs are not permitted": "unknown field; GET /docs lists those that there are"}
"""Pydantic's messages that do not say what to do."""
_FIELD = re.compile(r"[a-z_]+(?:\[\d+\])*(?:\.[a-z_]+)*(?=: )")
"""The field that a message begins with: ``input[1].image``."""
_KINDS = frozenset(("string", "list", "object", "number", "boolean", "tokens"))
"""Names of a union's members, which stand in the place of a fault though the client wrote no such thing."""


def _place(parts: Sequence[str | int]) -> str:
    """Where a fault is, as one would write it: ``input[1].image``."""
    named = ""
    for part in parts:
        if isinstance(part, int):
            named += f"[{part}]"
        elif part not in _KINDS:
            named += f".{part}" if named else part
    return named


def _out_of_memory(error: BaseException) -> bool:
    cause = error.__cause__ if isinstance(error, EncoderFaultError) else error
    return isinstance(cause, MemoryError) or "OutOfMemory" in type(cause).__name__


def _retry(after: int = 1) -> dict[str, str]:
    return {"Retry-After": str(after)}


async def _handler(request: Request, error: Exception) -> Response:
    return answer_to(error)


def install(app: FastAPI) -> None:
    """Make the app answer errors this way. What no handler knows is answered by :mod:`puma.serve.middleware`."""
    for kind in (HTTPException, RequestValidationError, PumaError, TimeoutError, MemoryError):
        app.add_exception_handler(kind, _handler)
