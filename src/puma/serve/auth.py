"""The token, and the cookie a browser gets for it.

A cookie holds the time it ends and a signature made with the token, never the token itself: who reads a browser's
cookies cannot use the service through other clients, and a new token ends all sessions.
"""

from __future__ import annotations

import hashlib
import hmac
import time

LIFE_S = 30 * 24 * 3600


class Token:
    """The service's token: compares what clients send with it, and signs cookies.

    Args:
        secret: what the operator chose.
    """

    def __init__(self, secret: str) -> None:
        self._key = hashlib.sha256(secret.encode()).digest()
        self.cookie_name = f"puma_{self._signature('name')[:8]}"
        """Other services on this host, at other ports, see the same cookies: each token has a name of its own."""

    def is_right(self, given: str | bytes) -> bool:
        """Whether this is the token; takes as long whether it is nearly right or far off."""
        raw = given.encode("utf-8", "surrogatepass") if isinstance(given, str) else given
        return hmac.compare_digest(hashlib.sha256(raw).digest(), self._key)

    def cookie(self, now: float | None = None) -> str:
        """A cookie's value, good for thirty days."""
        ends = str(int(time.time() if now is None else now) + LIFE_S)
        return f"{ends}.{self._signature(ends)}"

    def is_cookie(self, value: str, now: float | None = None) -> bool:
        """Whether we made this cookie and it has not ended."""
        ends, _, signature = value.partition(".")
        if not hmac.compare_digest(signature.encode("latin-1", "replace"), self._signature(ends).encode()):
            return False
        return int(ends) > (time.time() if now is None else now)

    def _signature(self, text: str) -> str:
        return hmac.new(self._key, f"puma session {text}".encode("latin-1", "replace"), hashlib.sha256).hexdigest()
