"""POST /items and DELETE /item: what is stored, what is left out and why, and who may."""

import threading

import httpx
import pytest

from puma.search import Searcher
from support.encoders import ToyEncoder
from support.served import data_uri, png, served

RED = png((255, 0, 0))


@pytest.fixture
def client(tmp_path):
    with served(Searcher(ToyEncoder(), tmp_path / "new.index")) as address, httpx.Client(base_url=address) as client:
        yield client


def add(client, *items, **extra):
    answer = client.post("/items", json={"items": items, **extra})
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_items_are_stored_found_and_removed(client):
    answer = add(
        client,
        {"id": "r", "image": data_uri(RED), "metadata": {"brand": "b3", "tags": ["a", 1], "box": {"x": 1.5}}},
        {"text": "blue whale"},
        {"id": "both", "text": "red fox", "image": data_uri(RED)},
    )
    assert (answer["index"], answer["embedded"], answer["skipped"]) == ("new", 3, [])
    assert answer["ids"][0] == "r"
    assert len(answer["ids"][1]) == 32
    hit = client.get("/search", params={"text": "red", "modality": "image"}).json()["hits"][0]
    assert (hit["id"], hit["metadata"]) == ("r", {"brand": "b3", "tags": ["a", 1], "box": {"x": 1.5}})
    assert client.get(hit["thumbnail"]).headers["content-type"] == "image/jpeg"
    found = client.get("/search", params={"text": "whale", "modality": "text"}).json()["hits"][0]
    assert (found["id"], found["text"]) == (answer["ids"][1], "blue whale")
    assert client.delete("/item", params={"id": "r"}).json()["deleted"] is True
    assert client.delete("/item", params={"id": "r"}).status_code == 404
    assert [item["id"] for item in client.get("/items").json()["items"]] == sorted(["both", answer["ids"][1]])


def test_metadata_comes_back_as_it_was(client):
    metadata = {"big": 2**70, "vast": 10**300, "small": 5e-324} | {"none": None, "é\U0001f98a": ["\0", False, 1.0]}
    add(client, {"id": "x", "text": "red", "metadata": metadata})
    assert client.get("/item", params={"id": "x"}).json()["metadata"] == metadata
    for where in ({"key": "big", "value": 2**70}, {"key": "vast", "value": 1e300}, {"key": "small", "value": 5e-324}):
        found = client.post("/search", json={"text": "red", "where": {"type": "eq"} | where}).json()["hits"]
        assert [hit["id"] for hit in found] == ["x"], where


def test_what_is_there_is_not_embedded_again(client):
    first = add(client, {"text": "red"}, {"id": "x", "text": "green"})
    again = add(client, {"text": "red"}, {"id": "x", "text": "green", "metadata": {"n": 1}}, {"text": "red"})
    assert again["ids"] == [*first["ids"], first["ids"][0]]
    assert (again["embedded"], again["present"], again["updated"], again["repeated"]) == (0, 2, 1, 1)
    assert client.get("/item", params={"id": "x"}).json()["metadata"] == {"n": 1}
    changed = add(client, {"id": "x", "text": "blue"})
    assert (changed["embedded"], client.get("/item", params={"id": "x"}).json()["text"]) == (1, "blue")


def test_what_cannot_be_used_is_left_out_with_its_reason(client):
    answer = add(
        client,
        {"text": "fine"},
        {"image": "https://example.org/a.png"},
        {"id": "cut", "image": data_uri(RED[:44])},
        {"text": "  "},
        {"id": "twice", "text": "one"},
        {"id": "twice", "text": "two"},
        {"image": data_uri(b"<svg/>", "image/svg+xml")},
    )
    assert [name is None for name in answer["ids"]] == [False, True, True, True, False, True, True]
    reasons = {skip["where"]: skip["reason"] for skip in answer["skipped"]}
    expected = {1: "never fetched", 2: "cannot be decoded", 3: "give text, image or both", 5: "items[4]", 6: "SVG"}
    assert set(reasons) == {f"items[{place}]" for place in expected}
    for place, words in expected.items():
        assert words in reasons[f"items[{place}]"]
    assert answer["embedded"] == len(client.get("/items").json()["items"]) == 2


@pytest.mark.parametrize(
    "item",
    [
        {"id": "", "text": "a"},
        {"id": "a\nb", "text": "a"},
        {"id": "x" * 1025, "text": "a"},
        {"text": "a", "metadata": {"text": "b"}},
        {"text": "a", "metadata": {"modality": "b"}},
        {"text": "a", "metadata": {"n": [{"deep": -(10**400)}]}},
        {"text": "a", "metadata": {"n": [[[[[[[[[1]]]]]]]]]}},
        {"text": "a", "metadata": [1]},
        {"text": "a", "typo": 1},
        {"text": 5},
    ],
)
def test_items_that_break_the_schema_are_refused_whole(client, item):
    answer = client.post("/items", json={"items": [{"text": "fine"}, item]})
    assert answer.status_code == 422
    assert "items[1]" in answer.json()["error"]["message"]
    assert client.get("/items").json()["items"] == []


def test_a_read_only_service_stores_and_removes_nothing(tmp_path):
    searcher = Searcher(ToyEncoder(), tmp_path / "index")
    searcher.add(["red"], ["r"])
    with served({"my": searcher}, writable=False) as address:
        for answer in (
            httpx.post(f"{address}/items", json={"items": [{"text": "a"}]}),
            httpx.delete(f"{address}/item", params={"id": "r"}),
        ):
            assert answer.status_code == 403
            assert "read-only" in answer.json()["message"]
        assert httpx.get(f"{address}/indexes").json()["writable"] is False
    assert len(searcher.index) == 1


def test_more_items_than_a_request_may_have(tmp_path):
    with served(Searcher(ToyEncoder(), tmp_path / "index"), max_inputs=3) as address:
        answer = httpx.post(f"{address}/items", json={"items": [{"text": str(n)} for n in range(4)]})
        assert answer.status_code == 400
        assert "at most 3" in answer.json()["message"]


def test_many_add_at_once_and_all_is_stored(tmp_path):
    searcher = Searcher(ToyEncoder(), tmp_path / "index")
    answers = []
    with served({"my": searcher}, max_batch=4, workers=1) as address:

        def client(number):
            items = [{"id": f"{number}-{n}", "image": data_uri(png((number, n, 9)))} for n in range(6)]
            answers.append(httpx.post(f"{address}/items", json={"items": items}, timeout=60).json())

        threads = [threading.Thread(target=client, args=(number,)) for number in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert [answer["embedded"] for answer in answers] == [6] * 5
    assert len(searcher.index) == 30


def test_one_content_with_two_metadata_is_one_item_that_both_find(client):
    answer = add(client, {"text": "red", "metadata": {"brand": "A"}}, {"text": "red", "metadata": {"brand": "B"}})
    assert (len(set(answer["ids"])), answer["embedded"]) == (1, 1)
    add(client, {"text": "red", "metadata": {"brand": "C"}})
    for brand in "ABC":
        where = {"type": "eq", "key": "brand", "value": brand}
        (hit,) = client.post("/search", json={"text": "red", "where": where}).json()["hits"]
        assert hit["metadata"] == {"brand": brand}
        others = [other["metadata"]["brand"] for other in hit["other_places"]]
        assert sorted([brand, *others]) == ["A", "B", "C"]
