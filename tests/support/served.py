"""A real service on a free loopback port: uvicorn in a thread, over small real indexes. For tests of real clients."""

from __future__ import annotations

import base64
import contextlib
import io
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import uvicorn
from fastapi import FastAPI
from PIL import Image

from puma.search import Searcher
from puma.search.cutoffs import Cutoffs
from puma.serve import ServeSettings, create_app
from support.encoders import ToyEncoder

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}


def png(colour: object = (255, 0, 0), size: tuple[int, int] = (8, 8), kind: str = "PNG") -> bytes:
    """An encoded image of one colour."""
    stream = io.BytesIO()
    Image.new("RGB", size, colour).save(stream, kind)  # type: ignore[arg-type]
    return stream.getvalue()


def data_uri(data: bytes, media_type: str = "image/png") -> str:
    """Bytes as data URI."""
    return f"data:{media_type};base64," + base64.b64encode(data).decode()


def toy_searcher(folder: Path, name: str = "my.index", encoder: ToyEncoder | None = None) -> Searcher:
    """Three images, two texts, one captioned image, with metadata."""
    searcher = Searcher(encoder or ToyEncoder(), folder / name)
    items = [*({"image": png(colour)} for colour in COLOURS.values()), "blue whale", "red fox"]
    payloads: list[dict | None] = [
        {"image": f"/home/someone/pictures/{colour}.png", "brand": f"b{place}", "price": place * 10}
        for place, colour in enumerate(COLOURS)
    ]
    payloads += [{"text": "blue whale", "brand": "b2"}, {"text": "red fox", "price": 5}]
    searcher.add(items, [*COLOURS, "whale", "fox"], payloads)
    searcher.add([{"text": "green tea", "image": png((0, 250, 0))}], ["tea"], [{"text": "green tea", "hot": True}])
    return searcher


@contextlib.contextmanager
def served(
    searchers: object,
    encoder: ToyEncoder | None = None,
    cutoffs: Cutoffs | None = None,
    load: object = None,
    **settings: object,
) -> Iterator[str]:
    """The address of a running service."""
    alone = {} if searchers else {"encoder": encoder or ToyEncoder()}
    app = create_app(searchers, settings=ServeSettings(**settings), cutoffs=cutoffs, load=load, **alone)  # type: ignore[arg-type]
    with running(app) as address:
        yield address


@contextlib.contextmanager
def running(app: FastAPI) -> Iterator[str]:
    """The address of an application under a server."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="on"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]}, daemon=True)
        thread.start()
        for _ in range(500):
            if server.started or not thread.is_alive():
                break
            time.sleep(0.01)
        try:
            assert server.started
            yield f"http://127.0.0.1:{bound.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(20)
