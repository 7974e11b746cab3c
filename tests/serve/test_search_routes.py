"""/search in its three forms, /indexes, /items, /item and /thumbnail, over a real server and real small indexes."""

import base64
import io

import httpx
import pytest
from PIL import Image

from puma.search.queries import INSTRUCTIONS
from support.served import data_uri, png, served, toy_searcher

RED, BLUE = png((255, 0, 0)), png((0, 0, 255))


@pytest.fixture(scope="module")
def indexes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("indexes")
    first = toy_searcher(folder)
    second = toy_searcher(folder, "other.index", first.encoder)
    second.index.delete(["red", "tea"])
    return {"my": first, "other": second}


@pytest.fixture(scope="module")
def client(indexes):
    with served(indexes) as address, httpx.Client(base_url=address) as client:
        yield client


def found(answer):
    assert answer.status_code == 200, answer.text
    return [hit["id"] for hit in answer.json()["hits"]]


def message(answer, *statuses):
    assert answer.status_code in (statuses or (400, 422)), answer.text
    body = answer.json()
    assert body["message"] == body["error"]["message"]
    return body["message"]


def same_hits(hits, expected):
    assert [hit["id"] for hit in hits] == [hit.id for hit in expected]
    assert [hit["score"] for hit in hits] == pytest.approx([hit.score for hit in expected], abs=1e-6)


def test_the_same_hits_as_the_searchers(client, indexes):
    mine = indexes["my"]
    for body, query, options in (
        ({"text": "red"}, "red", {}),
        ({"text": "red fox", "modality": "text"}, "red fox", {"modality": "text"}),
        ({"text": "red", "modality": ["text", "image,text"]}, "red", {"modality": ("text", "image,text")}),
        ({"image": data_uri(BLUE), "modality": "image"}, BLUE, {"modality": "image"}),
        ({"image": base64.b64encode(RED).decode(), "text": "fox"}, {"image": RED, "text": "fox"}, {}),
        ({"text": "red fox", "minus": ["fox"]}, "red fox", {"minus": ["fox"]}),
        ({"text": "red", "instruction": "Find it."}, "red", {"instruction": "Find it."}),
    ):
        answer = client.post("/search", json=body).json()
        same_hits(answer["hits"], mine.search(query, 10, **options))
    expected = mine.search("whale", 2, "text", where={"type": "eq", "key": "brand", "value": "b2"})
    answer = client.post(
        "/search",
        json={"text": "whale", "k": 2, "where": {"type": "eq", "key": "brand", "value": "b2"}, "modality": "text"},
    )
    same_hits(answer.json()["hits"], expected)


def test_the_answer_says_how_the_query_was_understood(client):
    answer = client.post("/search", json={"text": "red", "modality": "image", "index": "other", "k": 1}).json()
    assert answer["index"] == "other"
    assert answer["query"] == {
        "modality": "text",
        "instruction": INSTRUCTIONS["text", "image"],
        "truncated": False,
    }
    assert (answer["offset"], answer["more"]) == (0, True)
    assert answer["took_ms"] >= 0
    assert client.post("/search", json={"text": "red", "instruction": ""}).json()["query"]["instruction"] is None
    assert (
        client.post("/search", json={"text": "red", "instruction": "Mine."}).json()["query"]["instruction"] == "Mine."
    )
    # One kind in a list is that kind; several are asked for one by one, each with its own instruction.
    for modality, said in ((["image"], INSTRUCTIONS["text", "image"]), (["text", "image", "image,text"], None)):
        query = client.post("/search", json={"text": "red", "modality": modality}).json()["query"]
        assert query["instruction"] == said


def test_every_modality_is_embedded_within_the_limit_of_inputs_of_one_query(tmp_path):
    mine = toy_searcher(tmp_path)
    with served({"my": mine}, max_inputs=2) as address, httpx.Client(base_url=address) as client:
        answer = client.post("/search", json={"text": "red fox", "minus": ["fox"]}).json()
        same_hits(answer["hits"], mine.search("red fox", 10, minus=["fox"]))
        refused = client.post("/search", json={"text": "red fox", "minus": ["fox", "whale"]})
        assert "limit of 2" in message(refused, 400, 413, 422)


def test_hits_show_the_item_and_no_folder(client):
    answer = client.post("/search", json={"text": "green", "modality": "image", "k": 1})
    assert answer.json()["hits"][0] == {
        "id": "green",
        "score": pytest.approx(1, abs=0.1),
        "modality": "image",
        "text": None,
        "file": "green.png",
        "metadata": {"brand": "b1", "price": 10},
        "thumbnail": "/thumbnail?index=my&id=green",
        "path": None,
        "original": None,
        "weak": None,
        "other_places": [],
    }
    assert "someone" not in answer.text
    text = client.get("/search", params={"text": "blue whale", "modality": "text", "k": 1}).json()["hits"][0]
    assert (text["text"], text["file"], text["thumbnail"]) == ("blue whale", None, None)


def test_pages_follow_each_other(client):
    everything = found(client.post("/search", json={"text": "red", "k": 100}))
    pages, more = [], []
    for offset in (0, 2, 4):
        answer = client.get("/search", params={"text": "red", "k": 2, "offset": offset})
        pages += found(answer)
        more.append(answer.json()["more"])
    assert pages == everything
    assert len(everything) == 6
    assert more == [True, True, False]
    assert found(client.get("/search", params={"text": "red", "offset": 6})) == []


def test_a_whole_number_may_be_written_with_a_point(client):
    body = '{"text": "red", "k": 2.0, "offset": 1.0}'
    assert found(client.post("/search", content=body, headers={"Content-Type": "application/json"})) == found(
        client.post("/search", json={"text": "red", "k": 2, "offset": 1})
    )


def test_search_with_a_result(client, indexes):
    answer = client.post("/search", json={"item": "red", "k": 2}).json()
    hits = [hit["id"] for hit in answer["hits"]]
    assert answer["query"]["modality"] == "image"
    assert len(hits) == 2
    assert "red" not in hits
    everything = found(client.get("/search", params={"item": "red", "k": 5}))
    assert len(everything) == 5
    assert everything[:2] == hits
    pages = [found(client.get("/search", params={"item": "red", "k": 3, "offset": offset})) for offset in (0, 3)]
    assert pages[0] + pages[1] == everything
    mixed = client.post("/search", json={"item": "red", "text": "whale", "k": 6})
    assert mixed.json()["query"]["modality"] == "image,text"
    assert "red" in found(mixed)
    text = client.post("/search", json={"item": "fox", "text": "whale"})
    assert text.json()["query"]["modality"] == "text"
    assert "gone" in message(client.post("/search", json={"item": "gone"}), 404)
    assert "one of them" in message(client.post("/search", json={"item": "red", "image": data_uri(RED)}))


def test_links_take_lists(client):
    answer = client.get("/search?text=red&modality=text&modality=image,text&minus=fox&minus=tea")
    body = {"text": "red", "modality": ["text", "image,text"], "minus": ["fox", "tea"]}
    assert found(answer) == found(client.post("/search", json=body))


def test_an_uploaded_file_is_the_image(client):
    for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM"):
        files = {"image": ("../../etc/passwd", png((0, 0, 255), kind=kind))}
        answer = client.post("/search/upload", files=files, data={"modality": ["image"], "k": "2"})
        assert found(answer)[0] == "blue"
        assert len(answer.json()["hits"]) == 2
    both = client.post("/search/upload", files={"image": RED}, data={"text": "fox", "minus": ["tea", "whale"]})
    body = {"image": data_uri(RED), "text": "fox", "minus": ["tea", "whale"]}
    assert found(both) == found(client.post("/search", json=body))
    assert "SVG" in message(client.post("/search/upload", files={"image": b"<svg xmlns='x'/>"}))
    assert message(client.post("/search/upload", data={"text": "fox"}), 422)
    assert message(client.post("/search/upload", files={"image": RED}, data={"k": "0"}), 422)


@pytest.mark.parametrize(
    ("method", "address", "name"),
    [
        ("GET", "/search?text=red&where=price", "where"),
        ("GET", "/search?text=red&modalty=image", "modalty"),
        ("POST", "/search?k=1", "k"),
        ("GET", "/items?indx=other", "indx"),
        ("DELETE", "/item?id=red&indx=other", "indx"),
    ],
)
def test_a_parameter_that_a_route_does_not_have_is_refused(client, method, address, name):
    body = {"json": {"text": "red"}} if method == "POST" else {}
    answer = client.request(method, address, **body)
    assert message(answer, 422).startswith(f"{name}: unknown parameter")
    assert answer.json()["error"]["param"] == name
    assert client.get("/item?id=red").status_code == 200  # nothing was deleted


def test_a_form_field_that_an_upload_does_not_have_is_refused(client):
    answer = client.post("/search/upload", files={"image": RED}, data={"k": "1", "wher": "{}"})
    text = message(answer, 422)
    assert text.startswith("wher: unknown parameter; known are drop_weak, group, image,")
    assert found(client.post("/search/upload", files={"image": RED, "text": (None, "fox")}))
    assert "must be JSON" in message(client.post("/search", data={"text": "red"}), 415)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, "nothing to search for"),
        ({"text": " "}, "nothing to search for"),
        ({"text": "red", "k": 0}, "k"),
        ({"text": "red", "k": 1001}, "k"),
        ({"text": "red", "k": "5"}, "k"),
        ({"text": "red", "k": True}, "k"),
        ({"text": "red", "k": 2.5}, "k"),
        ({"text": "red", "offset": 10**30}, "offset"),
        ({"text": "red", "modality": "video"}, "modality"),
        ({"text": "red", "modality": []}, "modality"),
        ({"text": "red", "tpyo": 1}, "tpyo: unknown field"),
        ({"text": "red", "where": {"type": "eq", "key": "modality", "value": "video"}}, "'video'"),
        ({"text": "red", "where": {"type": "gt", "key": "price", "value": True}}, "where"),
        ({"text": "red", "where": {"type": "in", "key": "brand", "value": "b1"}}, "where"),
        ({"image": "https://example.org/a.png"}, "never fetched"),
        ({"image": "not base64!"}, "base64"),
        ({"image": data_uri(b"\x89PNG\r\n\x1a\nnonsense")}, "picture"),
        ({"image": data_uri(RED[:44])}, "picture"),
        ({"text": "red", "minus": ["x"] * 17}, "minus"),
    ],
)
def test_bad_searches(client, body, words):
    assert words in message(client.post("/search", json=body))


def test_an_unknown_index_is_not_found_and_the_names_are_told(client):
    for answer in (
        client.post("/search", json={"text": "red", "index": "gone"}),
        client.get("/items", params={"index": "gone"}),
        client.get("/item", params={"index": "gone", "id": "x"}),
    ):
        text = message(answer, 404)
        assert "my" in text
        assert "other" in text


def test_indexes_are_listed(client):
    answer = client.get("/indexes").json()
    assert (answer["model"], answer["writable"]) == ("puma-mini", True)
    mine, other = answer["indexes"]
    assert mine == {
        "name": "my",
        "rows": 6,
        "modalities": {"text": 2, "image": 3, "image,text": 1},
        "dim": 32,
        "fingerprint": "toy-1",
    }
    assert (other["name"], other["rows"], other["modalities"]["image"]) == ("other", 4, 2)


def test_items_page_by_page(client):
    first = client.get("/items", params={"limit": 4}).json()
    second = client.get("/items", params={"limit": 4, "after": first["after"]}).json()
    assert [item["id"] for item in first["items"] + second["items"]] == sorted(
        ["red", "green", "blue", "whale", "fox", "tea"]
    )
    assert (first["more"], second["more"], second["after"]) == (True, False, None)
    texts = client.get("/items?modality=text&modality=image,text").json()["items"]
    assert [item["id"] for item in texts] == ["fox", "tea", "whale"]
    assert client.get("/item", params={"id": "tea"}).json() == {
        "id": "tea",
        "modality": "image,text",
        "text": "green tea",
        "file": None,
        "metadata": {"hot": True},
        "thumbnail": "/thumbnail?index=my&id=tea",
        "path": None,
        "original": None,
        "other_places": [],
    }
    assert "gone" in message(client.get("/item", params={"id": "gone"}), 404)
    assert message(client.get("/item", params={"id": "a\x00b"}), 422)


def test_thumbnails_come_from_the_index_by_id(client):
    hit = client.get("/search", params={"text": "red", "modality": "image", "k": 1}).json()["hits"][0]
    answer = client.get(hit["thumbnail"])
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "image/jpeg"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert Image.open(io.BytesIO(answer.content)).getpixel((4, 4))[0] > 240
    again = client.get(hit["thumbnail"], headers={"If-None-Match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert client.get(hit["thumbnail"], headers={"If-None-Match": '"other"'}).status_code == 200
    for name in ("whale", "gone", "../../etc/passwd", "/etc/passwd"):
        assert message(client.get("/thumbnail", params={"id": name}), 404)


def test_what_is_no_jpeg_is_never_shown_as_a_image(client, indexes):
    index = indexes["my"].index
    row = index.get(["red"])["red"]
    index.add(["odd"], row.vector[None], ["image"], thumbnails=[b"<script>alert(1)</script>"])
    assert message(client.get("/thumbnail", params={"id": "odd"}), 404)
    index.delete(["odd"])


def test_ids_of_any_letters_work_in_every_place(client, indexes):
    name = "a b&c=d/é'\"%\U0001f98a;--"
    index = indexes["my"].index
    row, small = index.get(["red"])["red"], index.thumbnail("red")
    index.add([name], row.vector[None], ["image"], thumbnails=[small])
    hits = client.get("/search", params={"text": "red", "modality": "image"}).json()["hits"]
    address = next(hit["thumbnail"] for hit in hits if hit["id"] == name)
    assert client.get(address).status_code == 200
    assert client.get("/item", params={"id": name}).json()["id"] == name
    assert client.delete("/item", params={"id": name}).json() == {"index": "my", "id": name, "deleted": True}
