"""``puma serve`` as a user starts it, for the benchmarks: started, waited for, looked at, ended.

Here: :class:`Served`, the model's folder, and texts of the lengths people send. Not here: load (:mod:`_clients`).
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from _clients import Connection
from puma.cli.commands._shared import DEFAULT_MODEL, default_folder
from puma.data.mbeir import Benchmark

PATIENCE = 180
"""Seconds to wait for the service."""


class Served:
    """A running ``puma serve``; ends it on leaving.

    Args:
        indexes: folders of indexes.
        model: a model's folder; None for the default one.
        options: further options of the command.
    """

    def __init__(self, indexes: Sequence[Path], model: Path | None = None, options: Sequence[str] = ()) -> None:
        self.port = _free_port()
        command = [sys.executable, "-c", "from puma.cli import main; main()", "serve", *map(str, indexes)]
        command += ["--port", str(self.port), *options]
        if model is not None:
            command += ["--model", str(model)]
        self.log = tempfile.TemporaryFile()  # noqa: SIM115 (closed on leaving)
        self.started = time.perf_counter()
        self.process = subprocess.Popen(command, stdout=self.log, stderr=subprocess.STDOUT)

    def __enter__(self) -> Served:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.log.close()

    def wait(self, path: str = "/healthz", body: str | None = None) -> float:
        """Seconds from the start to the first 200 of this request, asked over and over."""
        while time.perf_counter() - self.started < PATIENCE:
            if self.process.poll() is not None:
                self.log.seek(0)
                raise SystemExit(f"puma serve ended: {self.log.read().decode()[-2000:]}")
            try:
                if self.ask(path, body)[0] == 200:
                    return time.perf_counter() - self.started
            except (OSError, EOFError):
                pass
            time.sleep(0.02)
        raise SystemExit(f"puma serve gave no answer in {PATIENCE} s")

    def ask(self, path: str, body: str | None = None) -> tuple[int, bytes]:
        """One request on a connection of its own."""

        async def once() -> tuple[int, bytes]:
            connection = Connection(self.port)
            try:
                return await connection.ask(path, body)
            finally:
                connection.close()

        return asyncio.run(once())

    def memory_mib(self) -> float:
        """Resident memory of the service now."""
        with open(f"/proc/{self.process.pid}/status") as file:
            return next(round(int(line.split()[1]) / 1024, 1) for line in file if line.startswith("VmRSS"))


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def model_folder(given: Path | None) -> Path:
    """The folder of the model to measure: the one given, PUMA_MODEL's, or the default one."""
    chosen = given or os.environ.get("PUMA_MODEL") or DEFAULT_MODEL
    return default_folder() if str(chosen) == DEFAULT_MODEL else Path(chosen)


def captions(root: Path, split: str = "test") -> list[str]:
    """Every text of a benchmark's questions and pools, once, in a fixed order."""
    benchmark = Benchmark(root)
    found = {query.text for task in benchmark.tasks(split) for query in benchmark.queries(task, split) if query.text}
    found |= {row.text for row in benchmark.global_pool(split) if row.text}
    return sorted(found)


def realistic(texts: Sequence[str], count: int, seed: int = 0) -> list[str]:
    """Texts of the lengths that are sent: six in ten a question of one to ten words, three a few sentences' worth, one
    a long paragraph (120 words)."""
    chance = random.Random(seed)
    made = []
    for place in range(count):
        wanted = (0, 0, 0, 30, 0, 0, 40, 0, 25, 120)[place % 10]
        words = chance.choice(texts).split()
        while len(words) < wanted:
            words += [*chance.choice(texts).split(), "and"]
        made.append(" ".join(words[: wanted or 10]))
    chance.shuffle(made)
    return made


def search_body(text: str, k: int = 10, **more: Any) -> str:
    """The body of a ``POST /search``."""
    return json.dumps({"text": text, "k": k, **more})
