"""A program that ingests with a slow encoder and keeps a diary, to be killed.

    python ingest_child.py INDEX FOLDER DIARY PAUSE BATCH

Every line of the diary is one system call: ``started``, ``embedded N`` before vectors are handed back, ``stored ID...``
when the index has said that rows are on the disk, ``done N`` at the end.
"""

import os
import sys
import time

from puma.search import Searcher
from support.encoders import ToyEncoder


class Slow(ToyEncoder):
    """``pause`` seconds a call."""

    def encode(self, items, *, instruction=None):
        time.sleep(pause)
        note(f"embedded {len(items)}")
        return super().encode(items, instruction=instruction)


def note(line):
    os.write(diary, f"{line}\n".encode())


if __name__ == "__main__":
    index, folder, written = sys.argv[1:4]
    pause, batch = float(sys.argv[4]), int(sys.argv[5])
    diary = os.open(written, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    searcher = Searcher(Slow(), index)
    plain = searcher.index.add

    def add(ids, *args, **kwargs):
        plain(ids, *args, **kwargs)
        note("stored " + " ".join(ids))

    searcher.index.add = add
    note("started")
    added = searcher.add_paths([folder, f"{folder}/texts.jsonl"], batch_size=batch, progress=False, sync=True)
    note(f"done {added.embedded}")
