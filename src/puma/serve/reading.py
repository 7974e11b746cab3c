"""Each request to the service as one read of the indexes: however often it looks into an index on a server, it waits
for that server's clock once.
"""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

from puma.index.reads import one_read


class OneReadEach:
    """A plain ASGI layer inside the request guard.

    Args:
        app: the application.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        with one_read():
            await self.app(scope, receive, send)
