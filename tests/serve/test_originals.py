"""/original: the file that an item was made of, and who may have it."""

import hashlib
import os

import pytest
from fastapi.testclient import TestClient

from puma.search import Searcher
from puma.serve import ServeSettings, create_app
from support.encoders import ToyEncoder
from support.served import png

FORMATS = {"a.png": "PNG", "b.jpg": "JPEG", "c.webp": "WEBP", "d.tif": "TIFF", 'e é#1 "q".png': "PNG"}


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "pictures"
    made.mkdir()
    for place, (name, kind) in enumerate(FORMATS.items()):
        (made / name).write_bytes(png((40 * place, 10, 10), (20, 10), kind))
    (tmp_path / "rows.jsonl").write_text(f'{{"id": "both", "text": "a red thing", "image": "{made}/a.png"}}\n')
    return made


@pytest.fixture
def searcher(folder, tmp_path):
    found = Searcher(ToyEncoder(), tmp_path / "my.index")
    found.add_paths([folder, tmp_path / "rows.jsonl"], progress=False)
    found.add(["words"], ["words"])
    found.add([{"image": png((1, 2, 3))}], ["bytes"])
    return found


def client_of(searcher, **settings):
    return TestClient(create_app(searcher, settings=ServeSettings(**settings)), base_url="http://localhost")


def items(client):
    return {item["file"]: item for item in client.get("/items").json()["items"] if item["id"] != "both"}


def test_every_file_comes_as_it_is(searcher, folder):
    client = client_of(searcher, originals=True)
    found = items(client)
    for name, kind in FORMATS.items():
        item = found[name]
        assert item["path"] == str(folder / name)
        assert item["metadata"] == {"folder": str(folder), "width": 20, "height": 10}
        answer = client.get(item["original"])
        assert answer.content == (folder / name).read_bytes()
        assert answer.headers["content-type"] == f"image/{kind.lower()}"
        assert "sandbox" in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["content-disposition"].startswith("inline; filename*=UTF-8''")
        again = client.get(item["original"], headers={"if-none-match": answer.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        saved = client.get(item["original"] + "&download=true")
        assert saved.headers["content-disposition"].startswith("attachment; ")
    assert "%C3%A9%231%20%22q%22.png" in saved.headers["content-disposition"]
    both = client.get("/item?id=both").json()
    assert client.get(both["original"]).content == (folder / "a.png").read_bytes()
    hits = client.post("/search", json={"text": "red", "modality": "image"}).json()["hits"]
    assert all(hit["original"] and hit["path"] for hit in hits if hit["id"] != "bytes")
    store = client.post("/v1/vector_stores/my/search", json={"query": "red"}).json()["data"]
    assert any(hit["attributes"].get("path") == str(folder / "a.png") for hit in store)


def test_by_default_a_service_tells_no_path_and_gives_out_no_file(searcher, folder):
    client = client_of(searcher)
    item = items(client)["a.png"]
    assert (item["path"], item["original"]) == (None, None)
    assert item["metadata"] == {"width": 20, "height": 10}
    answer = client.get("/original", params={"id": item["id"]})
    assert (answer.status_code, "--originals" in answer.json()["message"]) == (403, True)
    everything = client.post("/search", json={"text": "red", "k": 100}).text + client.get("/items").text
    everything += client.post("/v1/vector_stores/my/search", json={"query": "red", "max_num_results": 50}).text
    assert str(folder) not in everything
    # Nor can it be found out by asking for folders that begin with one letter or another.
    where = {"type": "and", "filters": [{"type": "gte", "key": "folder", "value": "/"}]}
    for path, key in (("/search", "where"), ("/v1/vector_stores/my/search", "filters")):
        body = {"text": "red"} if path == "/search" else {"query": "red"}
        answer = client.post(path, json=body | {key: where})
        assert (answer.status_code, "folder" in answer.json()["message"]) == (400, True)
    hits = client_of(searcher, originals=True).post("/search", json={"text": "red", "where": where}).json()["hits"]
    assert len(hits) == len(FORMATS) + 1


def test_only_what_was_indexed_is_given_out(searcher, folder, tmp_path):
    client = client_of(searcher, originals=True)
    found = items(client)
    (folder / "a.png").write_bytes(png((9, 9, 9), (20, 10)))
    (folder / "b.jpg").unlink()
    (tmp_path / "secret").write_text("secret")
    (folder / "c.webp").unlink()
    os.symlink(tmp_path / "secret", folder / "c.webp")
    (folder / "d.tif").unlink()
    (folder / "d.tif").mkdir()
    for name, words in (
        ("a.png", "has changed"),
        ("b.jpg", "not there"),
        ("c.webp", "changed"),
        ("d.tif", "not there"),
    ):
        answer = client.get(found[name]["original"])
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "original_not_found")
        assert words in answer.json()["message"]
        assert str(folder) not in answer.text
    for name in ("words", "bytes", "nowhere", "../../etc/passwd"):
        answer = client.get("/original", params={"id": name})
        assert answer.status_code == 404
        assert client.get("/item", params={"id": name}).json().get("original") is None
    assert client.get("/original", params={"id": "words", "index": "other"}).status_code == 404


def test_a_list_cannot_make_the_service_give_out_a_file_that_is_no_item(tmp_path):
    """What an index says is not believed: only a file with the digest that was embedded comes out."""
    searcher = Searcher(ToyEncoder(), tmp_path / "my.index")
    (tmp_path / "key.pem").write_text("secret")
    searcher.add([{"image": png()}], ["x"], [{"image": str(tmp_path / "key.pem")}])
    page = {"image": f"{tmp_path}/key.pem#page=1", "page": 1}
    searcher.add([{"image": png((5, 5, 5))}], ["y"], [page])
    client = client_of(searcher, originals=True)
    for name in ("x", "y"):
        answer = client.get("/original", params={"id": name})
        assert (answer.status_code, "secret" in answer.text) == (404, False)


def test_the_same_doors_as_everything_else(searcher):
    client = client_of(searcher, originals=True, token="correct-horse-battery-staple")
    assert client.get("/original", params={"id": "words"}).status_code == 401
    client = client_of(searcher, originals=True)
    for headers in ({"host": "evil.example"}, {"origin": "http://evil.example"}, {"sec-fetch-site": "cross-site"}):
        assert client.get("/original", params={"id": "words"}, headers=headers).status_code == 403


def test_a_pages_original_is_its_document(tmp_path):
    pypdfium2 = pytest.importorskip("pypdfium2")
    path = tmp_path / "paper.pdf"

    def write(sides):
        document = pypdfium2.PdfDocument.new()
        for side in sides:
            document.new_page(side, 200)
        document.save(path)

    write([300, 400])
    searcher = Searcher(ToyEncoder(), tmp_path / "my.index")
    searcher.add_paths([path], progress=False)
    client = client_of(searcher, originals=True)
    found = client.get("/items").json()["items"]
    assert {item["original"].partition("#")[2] for item in found} == {"page=1", "page=2"}
    answer = client.get(found[0]["original"].partition("#")[0])
    assert hashlib.sha256(answer.content).digest() == hashlib.sha256(path.read_bytes()).digest()
    assert answer.headers["content-type"] == "application/pdf"
    write([300, 500])
    assert client.get(found[0]["original"].partition("#")[0]).status_code == 404


def test_near_duplicates_are_one_hit_where_that_is_wanted(tmp_path):
    searcher = Searcher(ToyEncoder(), tmp_path / "my.index")
    for place in range(12):
        searcher.add([{"image": png((255 - place, 0, 0))}], [f"red{place}"], [{"image": f"/p/red{place}.png"}])
        searcher.add([f"red thing {place}"], [f"text{place}"])
    client = client_of(searcher, originals=True)
    plain = client.post("/search", json={"text": "red", "k": 20}).json()
    assert "duplicates" not in plain["hits"][0]
    for answer in (
        client.post("/search", json={"text": "red", "k": 5, "group": True}),
        client.get("/search", params={"text": "red", "k": 5, "group": True}),
    ):
        hits = answer.json()["hits"]
        assert len(hits) == 5
        assert answer.json()["more"] is True
        (picture,) = [hit for hit in hits if hit["modality"] == "image"]
        assert len(picture["duplicates"]) == 11
        assert picture["duplicates"][0]["path"].startswith("/p/red")
        assert all(set(one) == {"id", "score", "file", "path"} for one in picture["duplicates"])
        scores = [picture["score"], *(one["score"] for one in picture["duplicates"])]
        assert scores == sorted(scores, reverse=True)
    second = client.post("/search", json={"text": "red", "k": 5, "offset": 5, "group": True}).json()["hits"]
    assert not {hit["id"] for hit in second} & {hit["id"] for hit in hits}
