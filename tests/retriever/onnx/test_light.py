"""An exported folder is all that embedding, indexing, searching and serving need: neither torch nor transformers can
be imported here."""

import json
import subprocess
import sys
import urllib.request
from contextlib import contextmanager

import numpy as np
import pytest
from PIL import Image

from puma.retriever.model import Retriever
from support.exports import LIGHTLY, lightly, needs_onnx

needs_onnx()

TEXTS = ["a red fox", "a blue heart", "a cat in a hat"]


@pytest.fixture(scope="module")
def wanted(base):
    """The same vectors, of torch."""
    return Retriever.from_base(base, layers=2, prompt="short", device="cpu", dtype="fp32")


@pytest.fixture(scope="module")
def place(folder, tmp_path_factory):
    """A folder with things, and an index of them that was filled without torch."""
    path = tmp_path_factory.mktemp("light")
    (path / "texts.txt").write_text("\n".join(TEXTS) + "\n", encoding="utf-8")
    Image.new("RGB", (50, 32), (200, 30, 30)).save(path / "red.png")
    Image.new("RGB", (32, 70), (30, 30, 200)).save(path / "blue.png")
    done = lightly("index", "add", "my.index", "texts.txt", "red.png", "blue.png", "--model", folder, cwd=path)
    assert done.returncode == 0, done.stderr
    return path


def test_the_blocker_blocks(base, tmp_path):
    done = lightly("embed", "x.txt", "--out", "v.npz", "--model", base, cwd=tmp_path)
    assert done.returncode != 0
    (tmp_path / "x.txt").write_text("a\n")
    done = lightly("embed", "x.txt", "--out", "v.npz", "--model", base, cwd=tmp_path)
    assert done.returncode != 0
    assert "error: this needs torch, which is not installed: pip install puma-retrieval; " in done.stderr


def test_embed(folder, wanted, place):
    done = lightly("embed", "texts.txt", "red.png", "--out", "v.npz", "--model", folder, cwd=place)
    assert done.returncode == 0, done.stderr
    with np.load(place / "v.npz") as stored:
        assert str(stored["model"]) == wanted.fingerprint
        np.testing.assert_allclose(stored["vectors"], wanted.encode([*TEXTS, {"image": place / "red.png"}]), atol=1e-5)


@pytest.mark.parametrize("query", [["a red fox"], ["--image", "red.png"], ["at night", "--image", "blue.png"]])
def test_search_finds_what_torch_finds(query, folder, wanted, place):
    done = lightly("search", "my.index", *query, "--model", folder, "--json", "--merge", "single", cwd=place)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert len(found) == 5
    from puma.search import Searcher

    asked = {"text": query[0]} if query[0] != "--image" else {}
    asked |= {"image": place / query[-1]} if "--image" in query else {}
    hits = Searcher(wanted, place / "my.index").search(asked, 5, merge="single")  # the index takes torch's vectors, too
    np.testing.assert_allclose([hit["score"] for hit in found], [hit.score for hit in hits], atol=1e-4)


def test_a_folder_is_searched_without_an_index(folder, place):
    (place / "pictures").mkdir()
    Image.new("RGB", (40, 40), (0, 200, 0)).save(place / "pictures" / "green.png")
    done = lightly("search", "pictures", "a fox", "--model", folder, "--paths", cwd=place)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("green.png\n")


@contextmanager
def serving(place, *words):
    """``puma serve`` without torch; its address."""
    command = [sys.executable, "-c", LIGHTLY, "serve", *map(str, words), "--port", "0"]
    process = subprocess.Popen(command, cwd=place, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        line = process.stdout.readline().strip()
        assert " on http" in line, process.communicate()[1]
        yield line.rpartition(" ")[2]
    finally:
        process.terminate()
        process.communicate(timeout=60)
    assert process.returncode == 0


def ask(url, body):
    request = urllib.request.Request(url, json.dumps(body).encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def test_serve(folder, wanted, place):
    with serving(place, "my.index", "--model", folder) as url:
        body = {"model": folder.name, "input": ["a red fox", "b " * 600], "encoding_format": "float"}
        answer = ask(f"{url}/v1/embeddings", body)
        vectors = np.array([row["embedding"] for row in answer["data"]], np.float32)
        np.testing.assert_allclose(vectors, wanted.encode(body["input"]), atol=1e-5)
        counts = np.zeros(2, int)
        wanted.encode(body["input"], tokens=counts)
        assert answer["usage"]["total_tokens"] == counts.sum()
        assert answer["usage"]["truncated_inputs"] == [1]
        assert len(ask(f"{url}/search", {"text": "a fox", "k": 3})["hits"]) == 3
        added = ask(f"{url}/items", {"items": [{"id": "note", "text": "a green hat"}]})
        assert added["embedded"] == 1, added
        assert "note" in [hit["id"] for hit in ask(f"{url}/search", {"text": "a green hat", "k": 6})["hits"]]


def test_from_python(folder, place):
    code = (
        "import sys\n"
        "import puma\n"
        f"found = puma.Retriever.from_pretrained({str(folder)!r}).encode(['a fox', {{'image': 'red.png'}}])\n"
        f"assert found.shape == (2, {Retriever.from_pretrained(folder).dim})\n"
        f"searcher = puma.Searcher(puma.Retriever.from_pretrained({str(folder)!r}), 'my.index')\n"
        "assert searcher.search('a fox', 2)\n"
        "heavy = {'torch', 'transformers', 'onnx'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"  # nothing stops it here: it is not asked for
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=place, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
