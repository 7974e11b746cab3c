"""A child process that runs ``puma`` commands with a toy encoder, which can kill its process after so many calls."""

from __future__ import annotations

import json
import os
import signal
import sys

import numpy as np

from puma.cli import app as cli
from support.encoders import ToyEncoder


class Batched(ToyEncoder):
    """Its vectors depend on what is embedded together, as rounding makes a real model's."""

    def __init__(self, left: int = -1) -> None:
        super().__init__()
        self.left = left

    def encode(self, items, *, instruction=None):
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        self.left -= 1
        rows = super().encode(items, instruction=instruction)
        rows[:, 10] += 1e-3 * rows[:, :4].mean()
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def main(left: int, batch: int, log: str, commands: list[list[str]]) -> int:
    """Run commands one after the other; a line a command with this process's number and the items it embedded goes
    into ``log``."""
    import puma.evaluation.stored.resumable
    import puma.retriever.model

    puma.evaluation.stored.resumable.BATCH = batch
    for arguments in commands:
        encoder = Batched(left)
        puma.retriever.model.Retriever.from_pretrained = lambda *_, encoder=encoder, **__: encoder
        if code := cli.main(arguments):
            return code
        with open(log, "a") as stream:
            line = {"command": arguments[0], "rank": os.environ.get("RANK"), "calls": encoder.calls}
            stream.write(json.dumps(line) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], json.loads(sys.argv[4])))
