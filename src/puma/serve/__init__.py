"""The HTTP service: an encoder and its indexes behind the shapes that clients send, and the page.

The public names are imported when they are first used, so that ``puma serve`` reports a wrong flag without waiting for
FastAPI. Loads no training code.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from puma.errors import require

if TYPE_CHECKING:
    from puma.serve.app import create_app
    from puma.serve.settings import ServeSettings

__all__ = ["ServeSettings", "create_app"]


def __getattr__(name: str) -> Any:
    if name == "create_app":
        require("the HTTP service", "serve")
        from puma.serve.app import create_app

        return create_app
    if name == "ServeSettings":
        from puma.serve.settings import ServeSettings

        return ServeSettings
    raise AttributeError(f"module 'puma.serve' has no attribute {name!r}")
