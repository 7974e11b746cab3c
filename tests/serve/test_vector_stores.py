"""/v1/vector_stores, called by the real openai client of a real server."""

import openai
import pytest

from puma.items import MODALITIES
from puma.search.queries import INSTRUCTIONS
from support.served import data_uri, png, served, toy_searcher


@pytest.fixture(scope="module")
def indexes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("indexes")
    first = toy_searcher(folder)
    return {"my": first, "other": toy_searcher(folder, "other.index", first.encoder)}


@pytest.fixture(scope="module")
def stores(indexes):
    with served(indexes) as address, openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0) as client:
        yield client.vector_stores


def ids(page):
    return [hit.file_id for hit in page]


def test_indexes_are_listed_page_by_page(stores):
    assert [store.id for store in stores.list()] == ["my", "other"]
    assert [store.id for store in stores.list(limit=1)] == ["my", "other"]  # the client asks for the second page
    store = stores.retrieve("other")
    assert (store.name, store.status, store.file_counts.completed) == ("other", "completed", 6)
    assert store.usage_bytes > 0
    with pytest.raises(openai.NotFoundError, match="'my', 'other'"):
        stores.retrieve("gone")


def test_a_text_finds_what_the_searcher_finds(stores, indexes):
    page = stores.search("my", query="blue whale", max_num_results=3)
    expected = indexes["my"].search("blue whale", 3)
    assert ids(page) == [hit.id for hit in expected]
    assert [hit.score for hit in page] == pytest.approx([hit.score for hit in expected], abs=1e-6)
    best = page.data[0]
    assert (best.filename, best.content[0].text) == ("whale", "blue whale")
    assert best.attributes == {"brand": "b2", "modality": "text"}


def test_filters_of_the_clients_types(stores, indexes):
    from openai.types.shared_params import ComparisonFilter, CompoundFilter

    image = ComparisonFilter(type="eq", key="modality", value="image")
    cheap = ComparisonFilter(type="lt", key="price", value=15)
    page = stores.search("my", query="green", filters=image)
    assert ids(page) == [hit.id for hit in indexes["my"].search("green", 10, "image")]
    assert page.data[0].filename == "green.png"
    assert page.data[0].content == []
    assert page.data[0].attributes["thumbnail"] == "/thumbnail?index=my&id=green"
    both = stores.search("my", query="green", filters=CompoundFilter(type="and", filters=[image, cheap]))
    assert set(ids(both)) == {"red", "green"}
    some = ComparisonFilter(type="in", key="brand", value=["b1", "b2"])
    either = stores.search("my", query="green", filters=CompoundFilter(type="or", filters=[some, cheap]))
    assert set(ids(either)) == {"green", "blue", "whale", "fox", "red"}
    hot = stores.search("my", query="tea", filters=ComparisonFilter(type="eq", key="hot", value=True))
    assert ids(hot) == ["tea"]


def test_the_instruction_is_that_of_the_modality_filtered_for(stores, indexes):
    seen = indexes["my"].encoder.seen_instructions
    for filters, wanted in (
        ({"type": "eq", "key": "modality", "value": "image"}, ["image"]),
        ({"type": "in", "key": "modality", "value": ["text"]}, ["text"]),
        ({"type": "in", "key": "modality", "value": ["text", "image"]}, ["text", "image"]),
        ({"type": "ne", "key": "modality", "value": "image"}, MODALITIES),
        ({"type": "eq", "key": "brand", "value": "image"}, MODALITIES),
    ):
        seen.clear()
        stores.search("my", query="red", filters=filters)
        assert sorted(seen) == sorted(INSTRUCTIONS["text", kind] for kind in wanted)


def test_one_query_over_several_modalities_keeps_the_searchers_order(stores, indexes):
    page = stores.search("my", query="red fox")
    assert ids(page) == [hit.id for hit in indexes["my"].search("red fox", 10)]


def test_several_queries_are_joined(stores):
    page = stores.search("my", query=["blue whale", "red fox"], max_num_results=4)
    assert set(ids(page)) >= {"whale", "fox"}
    assert len(set(ids(page))) == len(ids(page)) == 4
    scores = [hit.score for hit in page]
    assert scores == sorted(scores, reverse=True)
    assert page.search_query == ["blue whale", "red fox"]


def test_a_threshold_and_the_number_of_results(stores):
    everything = stores.search("my", query="red")
    best = everything.data[1].score
    page = stores.search("my", query="red", ranking_options={"score_threshold": best, "ranker": "auto"})
    assert ids(page) == ids(everything)[:2]
    first = stores.search("my", query="red", max_num_results=1, rewrite_query=False)
    assert (ids(first), first.has_more, everything.has_more) == (ids(everything)[:1], True, False)


def test_a_image_rides_in_the_extra_body(stores):
    blue = {"image": data_uri(png((0, 0, 255)))}
    assert ids(stores.search("my", query="whale", extra_body=blue))[0] == "whale"
    assert ids(stores.search("my", query=None, extra_body=blue))[0] == "blue"


@pytest.mark.parametrize(
    "bad",
    [
        {"query": ""},
        {"query": None},
        {"query": "a", "max_num_results": 51},
        {"query": "a", "filters": {"type": "like", "key": "a", "value": "b"}},
        {"query": "a", "filters": {"type": "eq", "key": "modality", "value": "video"}},
        {"query": "a", "ranking_options": {"score_threshold": 7}},
        {"query": "a", "extra_body": {"image": "https://example.org/a.png"}},
    ],
)
def test_what_cannot_be_searched(stores, bad):
    with pytest.raises((openai.BadRequestError, openai.UnprocessableEntityError)):
        stores.search("my", **bad)
