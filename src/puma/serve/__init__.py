"""The HTTP service: an encoder and its indexes behind the shapes that clients send, and the page.

Here: the public names, imported when they are first asked for: a wrong flag of ``puma serve`` is told without waiting
for FastAPI. Loads no training code.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from puma.serve.app import create_app
    from puma.serve.settings import ServeSettings

__all__ = ["ServeSettings", "create_app"]


def __getattr__(name: str) -> Any:
    if name == "create_app":
        from puma.serve.app import create_app

        return create_app
    if name == "ServeSettings":
        from puma.serve.settings import ServeSettings

        return ServeSettings
    raise AttributeError(f"module 'puma.serve' has no attribute {name!r}")
