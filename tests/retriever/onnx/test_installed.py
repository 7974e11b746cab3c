"""The installation that docs/export.md describes: without torch it embeds, indexes, searches and serves."""

import json
import re
import subprocess
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import puma
from puma.retriever.model import Retriever
from support import installs
from support.exports import exported, needs_onnx

needs_onnx()
pytestmark = pytest.mark.slow

ROOT = Path(puma.__file__).parents[2]


def named_packages():
    """What the document tells to install, beside PUMA without its dependencies."""
    lines = re.findall(r"^pip install (.+)$", (ROOT / "docs/export.md").read_text(encoding="utf-8"), re.M)
    assert lines[0] == "--no-deps puma-retrieval"
    return [name for line in lines[1:] for name in line.split()]


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    """The programs' folder of such an environment."""
    folder = tmp_path_factory.mktemp("light")
    wheel = installs.built_wheel(ROOT, folder)
    distributions = installs.needed(named_packages())
    assert {"torch", "transformers", "sentence-transformers", "onnx"}.isdisjoint(distributions)
    python = installs.environment(folder / "venv", list(distributions.values()))
    pip = [*installs.PIP, "--python", str(python), "install", "--quiet", "--no-index", "--no-deps", str(wheel)]
    subprocess.run(pip, env=installs.clean_environment(folder), check=True)
    return python.parent


def test_an_exported_folder_embeds_indexes_searches_and_serves(programs, base, tmp_path):
    folder = exported(base, tmp_path / "onnx")
    wanted = Retriever.from_base(base, layers=2, prompt="short", device="cpu", dtype="fp32")
    (tmp_path / "texts.txt").write_text("a red fox\na blue heart\n", encoding="utf-8")
    Image.new("RGB", (32, 50), (200, 30, 30)).save(tmp_path / "red.png")
    environment = installs.clean_environment(tmp_path)

    def run(*words, code=0):
        command = [programs / "puma", *map(str, words)]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stderr
        return done

    there = subprocess.run(
        [programs / "python", "-c", "import torch"], env=environment, capture_output=True, check=False
    )
    assert there.returncode == 1
    run("embed", "texts.txt", "red.png", "--out", "v.npz", "--model", folder)
    with np.load(tmp_path / "v.npz") as stored:
        expected = wanted.encode(["a red fox", "a blue heart", {"image": tmp_path / "red.png"}])
        np.testing.assert_allclose(stored["vectors"], expected, atol=1e-5)
    run("index", "add", "my.index", "texts.txt", "red.png", "--model", folder)
    for query in (["a red fox"], ["--image", "red.png"]):
        assert len(json.loads(run("search", "my.index", *query, "--model", folder, "--json").stdout)) == 3
    command = [programs / "puma", "serve", "my.index", "--model", folder, "--port", "0"]
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            url = process.stdout.readline().strip().rpartition(" ")[2]
            with urllib.request.urlopen(f"{url}/search?text=a+red+fox&k=2", timeout=60) as answer:
                assert len(json.load(answer)["hits"]) == 2
        finally:
            process.terminate()
            assert process.wait(60) == 0
    said = run("train", "--model", base, "--data", "texts.txt", "--out", "m", code=1).stderr
    assert "pip install" in said
