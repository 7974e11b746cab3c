"""A real cluster of three nodes in a network of its own: both engines give the same rows, whoever is killed."""

import json
import os
import secrets
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from puma.search import Searcher
from support import plain
from support.encoders import ToyEncoder

pytest.importorskip("ray", reason="ray is not installed: pip install 'puma-retrieval[ray]'")
ISOLATED = ["unshare", "-n", "-p", "-f", "--mount-proc", "bash", "-c", 'ip link set lo up && exec "$@"', "-"]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(
        shutil.which("unshare") is None or subprocess.run([*ISOLATED, "true"], capture_output=True).returncode != 0,
        reason="a network namespace cannot be made here",
    ),
]


@pytest.fixture(scope="module")
def items(tmp_path_factory):
    """Images, one of them twice and one damaged; texts, some of them twice; a line without anything."""
    folder = tmp_path_factory.mktemp("items")
    for number in range(40):
        plain.image(number).save(folder / f"{number}.png")
    shutil.copy(folder / "3.png", folder / "three.png")
    (folder / "bad.png").write_bytes(b"no image")
    lines = [{"text": f"red fox {number % 90}", "n": number} for number in range(100)] + [{"text": " "}]
    (folder / "texts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def _rows(index):
    return {row.id: row for rows in index.scan() for row in rows}


@pytest.mark.parametrize("fault", ["none", "worker", "node", "bucket"])
def test_both_engines_give_the_same_rows(fault, items, tmp_path):
    here = Searcher(ToyEncoder(), tmp_path / "here")
    expected = here.add_paths([items], batch_size=8, progress=False)
    places = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", ""), *sys.path[1:]])
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    done = subprocess.run(
        [*ISOLATED, sys.executable, "-m", "support.ray_child", fault, str(items), str(tmp_path / "there")],
        env=os.environ | token | {"PYTHONPATH": places},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    root = "s3://bucket/items" if fault == "bucket" else str(items)
    output = json.loads(done.stdout.splitlines()[-1].replace(root, str(items)))
    assert output["first"] == expected.as_dict()
    assert output["again"]["embedded"] == 0
    assert output["again"]["present"] + output["again"]["repeated"] == len(_rows(here.index)) + expected.repeated
    assert output["fault"] == [fault]
    assert (output["deaths"] > 0) == (fault in ("worker", "node"))
    there = Searcher(ToyEncoder(), tmp_path / "there")
    assert there.index.verify() == []
    mine, theirs = _rows(here.index), _rows(there.index)
    assert mine.keys() == theirs.keys()
    for name, row in mine.items():
        other = theirs[name]
        np.testing.assert_allclose(row.vector, other.vector, atol=1e-5)
        for field in ("modality", "payload", "content", "thumbnail", "other_payloads"):
            said = json.loads(json.dumps(getattr(other, field)).replace(root, str(items)))
            assert json.loads(json.dumps(getattr(row, field))) == said, (name, field)
    sources = {(source.replace(root, str(items)), name) for source, name in there.index.sources([root])}
    assert here.index.sources([str(items)]) == sources
