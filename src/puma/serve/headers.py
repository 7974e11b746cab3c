"""Headers that do not depend on the route: security headers, and the answer to a browser's preflight request."""

from __future__ import annotations

import re
from collections.abc import Mapping

PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=()"),
    (b"content-security-policy", PAGE_POLICY.encode()),
    (b"cache-control", b"no-store"),
)
"""On every answer that does not set them itself (the documents page has a policy of its own)."""
METHODS = "GET, HEAD, POST, DELETE"
_HEADER_NAMES = re.compile(rb"[A-Za-z0-9!#$%&'*+.^_`|~-]+(\s*,\s*[A-Za-z0-9!#$%&'*+.^_`|~-]+)*")
MOST_HEADER_NAMES = 4_000
"""Bytes of the header names that a preflight request may ask for."""


def preflight_headers(requested: Mapping[bytes, bytes]) -> list[tuple[bytes, bytes]]:
    """What a preflight request of an allowed origin is answered with.

    Any header that it asks for is allowed: none opens a door here, and clients send their own (``x-stainless-*``).

    Args:
        requested: the request's headers.
    """
    names = requested.get(b"access-control-request-headers", b"").strip()
    if len(names) > MOST_HEADER_NAMES or not _HEADER_NAMES.fullmatch(names):
        names = b"authorization, content-type"
    answered = [
        (b"access-control-allow-methods", METHODS.encode()),
        (b"access-control-allow-headers", names),
        (b"access-control-max-age", b"600"),
    ]
    if requested.get(b"access-control-request-private-network") == b"true":
        # A page of the internet calls a service on this machine or its network.
        answered.append((b"access-control-allow-private-network", b"true"))
    return answered
