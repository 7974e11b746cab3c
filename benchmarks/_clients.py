"""Many light HTTP clients, in a process of their own so that they do not sit in the server's or the measurer's.

Here: keep-alive connections over raw asyncio streams (:class:`Connection`), a closed loop of many of them
(:func:`load`), and the process around it: the plan comes as JSON on stdin, the figures go as JSON to stdout. Not here:
what is asked, and why.
"""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
import time
from collections import Counter
from typing import Any

import numpy as np


class Connection:
    """One kept-alive connection to the service on this machine."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, path: str, body: str | None = None) -> tuple[int, bytes]:
        """The status and the body of a GET, or of a POST of JSON. A connection the server closed is opened anew."""
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self.port, limit=2**20)
        reader, writer = self._streams
        data = b"" if body is None else body.encode()
        kind = "GET" if body is None else "POST"
        head = f"{kind} {path} HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\n"
        if body is not None:
            head += f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n"
        writer.write(head.encode() + b"\r\n" + data)
        lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:] if line)}
        if "chunked" in fields.get("transfer-encoding", ""):
            answer = await _chunks(reader)
        else:
            answer = await reader.readexactly(int(fields.get("content-length", "0")))
        if fields.get("connection", "").lower() == "close":
            self.close()
        return int(lines[0].split()[1]), answer

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
        self._streams = None


async def _chunks(reader: asyncio.StreamReader) -> bytes:
    parts = []
    while size := int((await reader.readline()).split(b";")[0], 16):
        parts.append(await reader.readexactly(size))
        await reader.readexactly(2)
    await reader.readline()
    return b"".join(parts)


async def load(port: int, clients: int, seconds: float, asks: list[list[Any]], seed: int = 0) -> dict[str, Any]:
    """Clients that ask, wait for the answer and ask again, each in an order of its own.

    Args:
        asks: ``[path, JSON body or None, items in it]``, taken at random.

    Returns:
        items answered a second, latencies of good answers in milliseconds, answers by status, and what else went
        wrong by kind.
    """
    end = time.monotonic() + seconds
    times: list[float] = []
    statuses: Counter[str] = Counter()
    broken: Counter[str] = Counter()
    items = 0

    async def client(number: int) -> None:
        nonlocal items
        chance = random.Random(seed * 1_000_003 + number)
        connection = Connection(port)
        while time.monotonic() < end:
            path, body, count = chance.choice(asks)
            start = time.perf_counter()
            try:
                status, _ = await connection.ask(path, body)
            except (OSError, EOFError, ValueError) as error:
                broken[type(error).__name__] += 1
                connection.close()
                await asyncio.sleep(0.05)
                continue
            statuses[str(status)] += 1
            if status == 200:
                times.append(time.perf_counter() - start)
                items += count
            elif status in (429, 503):
                await asyncio.sleep(0.2)  # what a polite client does, shorter
        connection.close()

    began = time.monotonic()
    await asyncio.gather(*(client(number) for number in range(clients)))
    took = time.monotonic() - began
    return {
        "clients": clients,
        "seconds": round(took, 2),
        "items": items,
        "items_per_second": round(items / took, 2),
        "answers": dict(statuses),
        "broken": dict(broken),
        **latencies(times),
    }


def latencies(times: list[float]) -> dict[str, Any]:
    """``p50_ms``, ``p95_ms``, ``p99_ms`` and ``max_ms`` of seconds."""
    if not times:
        return {}
    values = np.percentile(np.array(times) * 1e3, [50, 95, 99, 100])
    return {
        name: round(float(value), 2)
        for name, value in zip(("p50_ms", "p95_ms", "p99_ms", "max_ms"), values, strict=True)
    }


def start_load(port: int, clients: int, seconds: float, asks: list[list[Any]], seed: int = 0) -> subprocess.Popen[str]:
    """:func:`load` in a process of its own; :func:`result_of` waits for its figures."""
    process = subprocess.Popen([sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    json.dump({"port": port, "clients": clients, "seconds": seconds, "asks": asks, "seed": seed}, process.stdin)
    process.stdin.close()
    return process


def result_of(process: subprocess.Popen[str]) -> dict[str, Any]:
    """What :func:`start_load`'s process found."""
    assert process.stdout is not None
    with process.stdout:
        said = process.stdout.read()
    if process.wait() != 0:
        raise SystemExit(f"the clients ended with {process.returncode}")
    found: dict[str, Any] = json.loads(said)
    return found


if __name__ == "__main__":
    print(json.dumps(asyncio.run(load(**json.load(sys.stdin)))))
