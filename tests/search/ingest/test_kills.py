"""An ingest killed at random moments: nothing acknowledged is lost, little is done twice, the end is the same."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from puma.index import Index
from puma.search import Searcher
from support.encoders import ToyEncoder

BATCH = 8
ROOT = Path(__file__).parents[2] / "support"


@pytest.fixture
def things(tmp_path):
    """A function that makes a folder of ``n`` images and a list of ``n`` lines, all of them different."""

    def make(n):
        folder = tmp_path / "things"
        folder.mkdir()
        for i in range(n):
            Image.new("RGB", (12, 9), (i % 256, i // 256, 7)).save(folder / f"{i:04}.png")
        rows = [{"text": f"line {i}", "id": f"line-{i}", "n": i} for i in range(n)]
        (folder / "texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return folder

    return make


class Ingest:
    """The child program, and its diary."""

    def __init__(self, index, folder, diary, pause):
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        command = [sys.executable, ROOT / "ingest_child.py", index, folder, diary, str(pause), str(BATCH)]
        self.diary, self.before = diary, len(diary.read_text()) if diary.exists() else 0
        self.process = subprocess.Popen(
            command,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def lines(self):
        text = self.diary.read_text() if self.diary.exists() else ""
        return text[self.before :].splitlines()

    def wait_for(self, word):
        while not any(line.startswith(word) for line in self.lines()):
            if self.process.poll() not in (None, 0):
                raise AssertionError(self.process.communicate()[0])
            time.sleep(0.002)

    def end(self, how):
        if self.process.poll() is None:
            os.kill(self.process.pid, how)
        out, _ = self.process.communicate(timeout=60)
        return self.process.returncode, out


def everything(path):
    """Rows, thumbnails and sources, comparable."""
    index = Index(path, create=False)
    rows = {row.id: (row.modality, row.payload, row.content, row.vector) for batch in index.scan() for row in batch}
    small = {name: index.thumbnail(name) for name in sorted(rows)[:40]}
    return rows, small, index.sources(["/"])


def assert_same(found, expected):
    assert found[0].keys() == expected[0].keys()
    for name, row in found[0].items():
        assert row[:3] == expected[0][name][:3]
        np.testing.assert_array_equal(row[3], expected[0][name][3])
    assert found[1:] == expected[1:]


def run_with_kills(folder, tmp_path, kills, longest, pause, seed):
    chance, diary, index = random.Random(seed), tmp_path / "diary", tmp_path / "index"
    acknowledged, finished = set(), 0
    for _ in range(kills):
        run = Ingest(index, folder, diary, pause)
        run.wait_for("started")
        time.sleep(chance.uniform(0, longest))
        code, out = run.end(signal.SIGKILL)
        finished += code == 0
        assert code in (0, -signal.SIGKILL), out
        lines = run.lines()
        acknowledged |= {name for line in lines if line.startswith("stored") for name in line.split()[1:]}
        rows = Index(index)  # a kill before the first batch was stored leaves no index
        held = {row.id for batch in rows.scan(vectors=False) for row in batch}
        assert acknowledged <= held, "rows that were on the disk are gone"
    last = Ingest(index, folder, diary, 0)
    code, out = last.end(0)  # signal 0: waits
    assert code == 0, out
    embedded = sum(int(line.split()[1]) for line in diary.read_text().splitlines() if line.startswith("embedded"))
    total = len(everything(index)[0])
    assert embedded <= total + kills * BATCH, "more than one batch a kill was embedded again"
    assert last.lines()[-1].startswith("done")
    return index, finished, embedded - total


def uninterrupted(folder, tmp_path):
    path = tmp_path / "at-once"
    Searcher(ToyEncoder(), path).add_paths([folder, folder / "texts.jsonl"], progress=False)
    return everything(path)


def test_a_few_kills(things, tmp_path):
    folder = things(60)
    index, finished, again = run_with_kills(folder, tmp_path, kills=3, longest=0.3, pause=0.03, seed=1)
    assert finished < 3
    assert again <= 3 * BATCH
    assert_same(everything(index), uninterrupted(folder, tmp_path))
    assert Index(index).verify() == []


@pytest.mark.slow
def test_thirty_kills(things, tmp_path):
    folder = things(400)
    index, finished, again = run_with_kills(folder, tmp_path, kills=30, longest=0.5, pause=0.02, seed=2)
    assert finished < 10, "the runs are too short for the kills to hit them"
    assert again <= 30 * BATCH
    assert_same(everything(index), uninterrupted(folder, tmp_path))
    Index(index).compact()
    assert Index(index).verify() == []
    assert_same(everything(index), uninterrupted(folder, tmp_path))


def test_an_interrupt_keeps_what_was_finished(things, tmp_path):
    folder = things(60)
    run = Ingest(tmp_path / "index", folder, tmp_path / "diary", 0.05)
    run.wait_for("stored")
    code, out = run.end(signal.SIGINT)
    assert code == -signal.SIGINT
    assert "KeyboardInterrupt" in out
    kept = {row.id for row in Index(tmp_path / "index", create=False).page(1000)}
    stored = {name for line in run.lines() if line.startswith("stored") for name in line.split()[1:]}
    assert stored
    assert stored <= kept
    assert len(kept) < 120
    added = Searcher(ToyEncoder(), tmp_path / "index").add_paths([folder, folder / "texts.jsonl"], progress=False)
    assert (added.embedded, added.present) == (120 - len(kept), len(kept))
