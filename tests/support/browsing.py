"""A real Chromium for tests of the page: starting it, a visitor with all its requests, something to find."""

from __future__ import annotations

import base64
import contextlib
import io
import random
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from puma.items import Encoder
from puma.search import Searcher
from support.encoders import ToyEncoder
from support.served import COLOURS, png

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]
ROWS = 60


@contextlib.contextmanager
def launched() -> Iterator[Any]:
    """The machine's Chromium, driven by Playwright; skips where there is none."""
    from playwright.sync_api import expect, sync_playwright

    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        pytest.skip("no Chromium on this machine (chromium, chromium-browser or google-chrome)")
    expect.set_options(timeout=20_000)  # a busy machine is not a fault of the page
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


def noise(width: int, height: int) -> bytes:
    """A PNG that does not compress."""
    stream = io.BytesIO()
    Image.frombytes("RGB", (width, height), random.Random(5).randbytes(width * height * 3)).save(stream, "PNG")
    return stream.getvalue()


def shelf(path: Path, rows: int = ROWS, encoder: Encoder | None = None) -> Searcher:
    """An index of so many images, texts and captioned images in three colours, by turns; all of other names."""
    items: list[dict[str, Any]] = []
    ids, payloads = [], []
    for place in range(rows):
        colour = list(COLOURS)[place % 3]
        shade = tuple(max(0, part - 2 * place) for part in COLOURS[colour])
        text = f"{colour} thing number {place} in the <b>bold</b> sea"
        kind = ("picture", "text", "captioned")[place // 3 % 3]
        item: dict[str, Any] = {} if kind == "text" else {"image": png(shade, (60 + place, 90))}
        if kind != "picture":
            item["text"] = text
        payload = {"image": f"/home/someone/{colour}-{place}.png", "brand": colour} if "image" in item else {}
        items.append(item)
        ids.append(f"{kind}-{place // 9 * 3 + place % 3}")
        payloads.append(payload | ({"text": text} if "text" in item else {}))
    searcher = Searcher(encoder or ToyEncoder(), path)
    searcher.add(items, ids, payloads)
    return searcher


class Visitor:
    """A browser's window on a service. On leaving, it fails if anything was requested of another origin, if the console
    showed an error that ``expected`` does not allow, or if the page broke its own security policy."""

    rows = ROWS

    def __init__(self, browser: Any, address: str, expected: str | None = None, **options: Any) -> None:
        self.address, self.expected = address, expected
        self.requests: list[Any] = []
        self.messages: list[str] = []
        self.context = browser.new_context(
            reduced_motion="reduce", **({"viewport": {"width": 1280, "height": 800}} | options)
        )
        self.context.set_default_timeout(20_000)
        self.page = self.context.new_page()
        self.context.on("request", lambda request: self.requests.append(request))
        self.page.on(
            "console",
            lambda message: self.messages.append(message.text) if message.type in ("error", "warning") else None,
        )
        self.page.on("pageerror", lambda error: self.messages.append(f"uncaught: {error}"))

    def __enter__(self) -> Visitor:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        outside = [
            request.url for request in self.requests if not request.url.startswith((self.address, "blob:", "data:"))
        ]
        unexpected = [text for text in self.messages if not (self.expected and re.search(self.expected, text))]
        self.context.close()
        if kind is None:
            assert outside == []
            assert unexpected == []

    def open(self, path: str) -> Any:
        """Go there, and wait until the page stands."""
        self.page.goto(self.address + path)
        self.settled()
        return self.page

    def settled(self) -> None:
        """Nothing is being waited for."""
        from playwright.sync_api import expect

        expect(self.page.locator("[aria-busy]")).to_have_count(0)
        expect(self.page.locator("#status")).to_have_text(re.compile(r"[^…]$"))

    def searches(self) -> list[Any]:
        """The searches sent so far."""
        return [request for request in self.requests if request.method == "POST" and request.url.endswith("/search")]

    def results(self, heading: str) -> re.Pattern[str]:
        """The status line of results."""
        return re.compile(rf"^{re.escape(heading)}, in [\d,]+ ms$")

    def caption(self, item: str) -> str:
        """The text of an item."""
        answer = self.context.request.get(f"{self.address}/item", params={"id": item})
        return str(answer.json()["text"])

    def drag(self, event: str, name: str | None, kind: str, data: bytes) -> None:
        """A drag event over the page that carries a file, or without a name a text of this kind."""
        self.page.evaluate(
            """([event, name, type, text]) => {
              const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
              const carried = new DataTransfer();
              if (name) carried.items.add(new File([bytes], name, { type }));
              else carried.setData(type, new TextDecoder().decode(bytes));
              const options = { dataTransfer: carried, bubbles: true, cancelable: true };
              document.querySelector("main").dispatchEvent(new DragEvent(event, options));
            }""",
            [event, name, kind, base64.b64encode(data).decode()],
        )
