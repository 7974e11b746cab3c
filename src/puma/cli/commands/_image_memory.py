"""``--image-memory``: what decoding one image may take, in this process and in the workers of a cluster."""

from __future__ import annotations

from typing import Annotated

import typer

ImageMemory = Annotated[
    int | None,
    typer.Option("--image-memory", min=1, metavar="MIB", help="Memory limit for decoding one image. Default: 2048."),
]


def use_image_memory(mib: int | None) -> None:
    """Set what ``--image-memory`` says; None leaves the default."""
    from puma.items.limits import set_image_memory

    if mib is not None:
        set_image_memory(mib * 2**20)
