"""Request guard middleware: one plain ASGI layer around the whole application.

In this order: the Host header (against DNS rebinding), other sites' pages (Origin, Sec-Fetch-Site, CORS), the token,
the body's size while it streams in; the security headers; the answer to errors that no handler caught; counting and, if
switched on, logging.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import time
from collections.abc import Mapping

from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from puma.serve.auth import Token
from puma.serve.error_responses import answer_to, fault
from puma.serve.headers import HEADERS, preflight_headers
from puma.serve.metrics import Metrics
from puma.serve.served_model import CLIENT_GONE
from puma.serve.settings import ANY_ADDRESS, ANY_HOST, ServeSettings

log = logging.getLogger("puma.serve.access")

HEALTH = ("/healthz", "/health", "/livez", "/readyz", "/ping")
"""Where programs ask whether a service is alive; each has its habit."""

OPEN = frozenset({"/", *HEALTH, "/session", "/favicon.ico"})
"""What needs no token: the page, which asks for one, and whether the service is alive."""
OPEN_BELOW = "/page/"
BODY_WAIT_S = 30.0
"""How long the next piece of a body may take."""
BODY_LONGEST_S = 300.0
"""How long all of it may take."""


class BodyTooLargeError(HTTPException):
    """Raised inside the application where it reads the body, which FastAPI lets pass."""


class RequestGuard:
    """Wraps the application; shared by all requests, keeps nothing of any.

    Args:
        app: the application.
        settings: token, hosts, origins, limits of bodies.
        metrics: notified of each answer.
    """

    def __init__(self, app: ASGIApp, settings: ServeSettings, metrics: Metrics) -> None:
        self.app, self.settings, self.metrics = app, settings, metrics
        self.token = None if settings.token is None else Token(settings.token)
        self.hosts = frozenset(name.lower() for name in settings.hosts)
        self.origins = frozenset(origin.lower().rstrip("/") for origin in settings.cors_origins)
        self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        await _Exchange(self, scope, receive, send).run()

    def refusal(self, scope: Scope, headers: Mapping[bytes, bytes]) -> Response | None:
        """The answer to a request that is refused, or to a preflight request; None for all others."""
        host = headers.get(b"host", b"").decode("latin-1").lower()
        if not self._host_is_ours(host):
            message = f"this service is not to be addressed as {host!r}; its operator can allow it with --allow-host"
            return fault(403, message, code="host_refused")
        origin = headers.get(b"origin", b"").decode("latin-1").lower()
        if not self._may_call(scope["method"], origin, host, headers):
            message = "a page of another site may not call this service; its operator can allow it with --cors-origin"
            return fault(403, message, code="origin_refused")
        if scope["method"] == "OPTIONS" and origin and b"access-control-request-method" in headers:
            return Response(status_code=204)
        path = scope["path"]
        if self.token is not None and path not in OPEN and not path.startswith(OPEN_BELOW) and not self._known(headers):
            message = "a token is needed: send it as 'Authorization: Bearer TOKEN'"
            if b"authorization" in headers:
                message = "this is not the token; send it as 'Authorization: Bearer TOKEN'"
            return fault(401, message, code="token", headers={"WWW-Authenticate": "Bearer"})
        return None

    def allowed_origin(self, headers: Mapping[bytes, bytes]) -> bytes | None:
        """The value of Access-Control-Allow-Origin, None for none."""
        origin = headers.get(b"origin")
        if origin is None or not self.origins:
            return None
        if ANY_HOST in self.origins:
            return b"*"
        return origin if origin.decode("latin-1").lower() in self.origins else None

    def embeds(self, method: str, headers: Mapping[bytes, bytes]) -> bool:
        """Whether an allowed page shows an image of ours: a plain ``<img>`` sends no Origin, but a Referer."""
        if method not in ("GET", "HEAD") or b"origin" in headers or headers.get(b"sec-fetch-dest") != b"image":
            return False
        parts = headers.get(b"referer", b"").decode("latin-1").lower().split("/", 3)
        return ANY_HOST in self.origins or "/".join(parts[:3]) in self.origins

    def _host_is_ours(self, host: str) -> bool:
        if ANY_HOST in self.hosts:
            return True
        name = _without_port(host)
        return name in self.hosts or (ANY_ADDRESS in self.hosts and _is_address(name))

    def _may_call(self, method: str, origin: str, host: str, headers: Mapping[bytes, bytes]) -> bool:
        if origin:
            same = origin.partition("://")[2] == host and origin.startswith(("http://", "https://"))
            return same or origin in self.origins or ANY_HOST in self.origins
        site = headers.get(b"sec-fetch-site", b"none")
        if site in (b"none", b"same-origin") or self.embeds(method, headers):
            return True
        # A link on another site that leads here: the browser shows the answer, the other site does not see it.
        return (
            method in ("GET", "HEAD")
            and headers.get(b"sec-fetch-mode") == b"navigate"
            and (headers.get(b"sec-fetch-dest") == b"document")
        )

    def _known(self, headers: Mapping[bytes, bytes]) -> bool:
        assert self.token is not None
        kind, _, given = headers.get(b"authorization", b"").partition(b" ")
        if kind.lower() == b"bearer":
            return self.token.is_right(given.strip())
        for part in headers.get(b"cookie", b"").decode("latin-1").split(";"):
            name, _, value = part.strip().partition("=")
            if name == self.token.cookie_name:
                return self.token.is_cookie(value)
        return False

    def hold(self, count: int) -> bool:
        """Make room for so many more bytes of bodies; whether there is any."""
        if self._held + count > self.settings.max_held_bytes and self._held:
            return False
        self._held += count
        return True

    def release(self, count: int) -> None:
        """A request with so many bytes is done."""
        self._held -= count


class _Exchange:
    """One request and its answer."""

    __slots__ = ("body_done", "cors", "guard", "held", "receive", "requested", "scope", "send", "started", "status")

    def __init__(self, guard: RequestGuard, scope: Scope, receive: Receive, send: Send) -> None:
        self.guard, self.scope, self.receive, self.send = guard, scope, receive, send
        self.held = 0
        self.body_done = False
        self.status = 0
        self.cors: bytes | None = None
        self.requested: Mapping[bytes, bytes] = {}
        self.started = time.perf_counter()

    async def run(self) -> None:
        headers = dict(self.scope["headers"])
        self.cors = self.guard.allowed_origin(headers)
        self.requested = headers
        CLIENT_GONE.set(self._disconnected)
        try:
            answer = self.guard.refusal(self.scope, headers) or self._too_large(headers)
            if answer is not None:
                self._close_after(answer, headers)
                await answer(self.scope, self.receive, self._out)
            else:
                # HEAD is answered wherever GET is, as HTTP has it.
                inner = {**self.scope, "method": "GET"} if self.scope["method"] == "HEAD" else self.scope
                try:
                    await self.guard.app(inner, self._in, self._out)
                finally:
                    self.scope.setdefault("route", inner.get("route"))
        except Exception as error:  # what no handler knew
            if self.status:
                raise
            await answer_to(error)(self.scope, self.receive, self._out)
        finally:
            self.guard.release(self.held)
            self._count()

    def _too_large(self, headers: Mapping[bytes, bytes]) -> Response | None:
        declared = headers.get(b"content-length", b"0")
        size = int(declared[:20]) if declared.isdigit() else 0
        if size > self.guard.settings.max_body_bytes:
            return answer_to(self._over())
        if size and not self._held(size):
            return answer_to(self._crowded())
        return None

    def _held(self, size: int) -> bool:
        """Whether there is room for the body so far, ``size`` bytes of it."""
        more = size - self.held
        if more <= 0:
            return True
        if not self.guard.hold(more):
            return False
        self.held = size
        return True

    def _over(self) -> BodyTooLargeError:
        limit = self.guard.settings.max_body_bytes
        return BodyTooLargeError(413, f"the body is over the limit of {limit:,} bytes; send less at once")

    def _crowded(self) -> HTTPException:
        message = "requests that are being answered hold all memory there is for them; try again later"
        return HTTPException(429, message, {"Retry-After": "1"})

    @staticmethod
    def _close_after(answer: Response, headers: Mapping[bytes, bytes]) -> None:
        if headers.get(b"content-length", b"0") != b"0" or b"transfer-encoding" in headers:
            answer.headers["connection"] = "close"  # rather than read a body that nobody wants

    async def _in(self) -> Message:
        if self.body_done:
            return await self.receive()
        rest = self.started + BODY_LONGEST_S - time.perf_counter()
        try:
            async with asyncio.timeout(min(BODY_WAIT_S, rest)):
                message = await self.receive()
        except TimeoutError:
            raise HTTPException(408, "the body did not come in time; send less at once") from None
        if message["type"] != "http.request":
            self.body_done = True
            return message
        self.body_done = not message.get("more_body", False)
        self.scope["puma.body"] = size = self.scope.get("puma.body", 0) + len(message.get("body", b""))
        if size > self.guard.settings.max_body_bytes:
            raise self._over()
        if not self._held(size):
            raise self._crowded()
        return message

    async def _disconnected(self) -> None:
        """Completes when the client disconnects; only called when the body has been read."""
        while (await self.receive())["type"] != "http.disconnect":
            pass

    async def _out(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            own = list(message.get("headers", ()))
            names = {name.lower() for name, _ in own}
            own += [header for header in HEADERS if header[0] not in names]
            if self.guard.origins:
                own.append((b"vary", b"Origin, Referer, Access-Control-Request-Headers"))
            if self.cors is not None or self.guard.embeds(self.scope["method"], self.requested):
                own = [header for header in own if header[0] != b"cross-origin-resource-policy"]
                own.append((b"cross-origin-resource-policy", b"cross-origin"))
            if self.cors is not None:
                own += [
                    (b"access-control-allow-origin", self.cors),
                    (b"access-control-expose-headers", b"Retry-After, ETag, X-Puma-Truncated"),
                ]
                if self.scope["method"] == "OPTIONS":
                    own += preflight_headers(self.requested)
            if not self.body_done and self.status >= 400 and self.scope.get("puma.body"):
                own.append((b"connection", b"close"))  # an answer before the body's end: the rest is not wanted
            message = {**message, "headers": own}
        elif self.scope["method"] == "HEAD" and message["type"] == "http.response.body":
            message = {**message, "body": b""}
        await self.send(message)

    def _count(self) -> None:
        seconds = time.perf_counter() - self.started
        route = getattr(self.scope.get("route"), "path", None) or "other"
        self.guard.metrics.answered(self.scope["method"], route, self.status, seconds)
        if self.guard.settings.access_log:  # without the query: what people look for is nobody's business
            log.info("%s %s %d %.1f ms", self.scope["method"], self.scope["path"], self.status, 1000 * seconds)


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host.partition("]")[0] + "]"
    return host.partition(":")[0].rstrip(".")


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True
