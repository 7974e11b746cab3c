"""What tests of the service share: encoders that wait or fail on request, and ``puma serve`` in a process of its own.

Run as a script it is ``puma`` with such an encoder for a model; the folder in PUMA_TEST_GATES holds its gate as files.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from puma.items import Item
from support.encoders import ToyEncoder

PATIENCE_S = 120.0


class GatedEncoder(ToyEncoder):
    """Waits inside ``encode`` while its gate is closed, fails on the words poison and glutton, heeds instructions."""

    mixed_instructions = True

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Semaphore(0)
        self.batches: list[list[str | None]] = []

    def encode(self, items: Sequence[Item], *, instruction: str | Sequence[str | None] | None = None) -> np.ndarray:
        self.batches.append([item.text for item in items])
        self.entered.release()
        if not self.gate.wait(PATIENCE_S):
            raise TimeoutError("the test left the gate closed")
        for item in items:
            if "poison" in (item.text or ""):
                raise RuntimeError("poisoned /root/secret/model.bin")
            if "glutton" in (item.text or ""):
                raise MemoryError
        given = [instruction] * len(items) if instruction is None or isinstance(instruction, str) else instruction
        prefixed = [Item(f"{a or ''} {item.text or ''}", item.image) for item, a in zip(items, given, strict=True)]
        return super().encode(prefixed)


class FileGatedEncoder(ToyEncoder):
    """A text with the word hold keeps it until the file ``go`` is there; each text is noted in the file ``log``."""

    def encode(self, items: Sequence[Item], *, instruction: str | None = None) -> np.ndarray:
        folder = Path(os.environ["PUMA_TEST_GATES"])
        with open(folder / "log", "a") as log:
            log.writelines(f"{item.text}\n" for item in items)
        if any("hold" in (item.text or "") for item in items):
            (folder / "held").touch()
            wait_for(folder / "go")
        return super().encode(items)


def wait_for(path: Path) -> None:
    """Until this file is there."""
    end = time.monotonic() + PATIENCE_S
    while not path.exists():
        if time.monotonic() > end:
            raise TimeoutError(f"{path} never came")
        time.sleep(0.01)


class Serving:
    """A running ``puma serve``. ``url`` is where; ``line`` what it said when it was ready."""

    def __init__(self, process: subprocess.Popen[str], gates: Path) -> None:
        self.process, self.gates = process, gates
        assert process.stdout is not None
        self.line = process.stdout.readline().strip()
        self.url = self.line.rpartition(" ")[2]
        self.port = int(self.url.rpartition(":")[2]) if self.url else 0

    def end(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        """Send a signal and wait: the exit code, and what stood on stderr."""
        self.process.send_signal(number)
        return self.result()

    def result(self) -> tuple[int, str]:
        """Wait for the end: the exit code, and what stood on stderr."""
        _, err = self.process.communicate(timeout=PATIENCE_S)
        return self.process.returncode, err


@contextmanager
def puma_serve(gates: Path, *arguments: object, **environment: str) -> Iterator[Serving]:
    """``puma serve ARGUMENTS`` with a :class:`FileGatedEncoder`, at a free port unless one is given."""
    given = [str(argument) for argument in arguments]
    given += [] if "--port" in given else ["--port", "0"]
    inherited = {key: value for key, value in os.environ.items() if key not in ("PUMA_TOKEN", "PUMA_MODEL")}
    process = subprocess.Popen(
        [sys.executable, "-W", "error", __file__, "serve", *given],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**inherited, "PUMA_TEST_GATES": str(gates), **environment},
    )
    try:
        yield Serving(process, gates)
    finally:
        process.kill()
        process.communicate()


if __name__ == "__main__":
    from puma.cli import app as cli
    from puma.cli.commands import serve

    serve.load_retriever = lambda model, **_: FileGatedEncoder()
    cli.run()
