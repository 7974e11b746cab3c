"""``/metrics`` of a service of several models: each model's batches, busy time and queue have its fingerprint, and a
model that is released leaves no series behind."""

import asyncio
import time
from dataclasses import replace

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from puma.items import Item
from puma.search import Searcher
from puma.search.migrating import migrate
from puma.serve import ServeSettings, create_app, following
from puma.serve.service import Service
from support.encoders import ToyEncoder
from support.served import running
from support.serving import GatedEncoder

WAIT_S = 60.0


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr(following, "LOOK_SECONDS", 0.05)


def filled(encoder, path):
    searcher = Searcher(encoder, path)
    searcher.add(["a red fox"])
    return searcher


def by_model(text):
    """{sample: {model: value}} of the samples with the label."""
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if "model" in sample.labels and "le" not in sample.labels:
                found.setdefault(sample.name, {})[sample.labels["model"]] = sample.value
    return found


def until(condition):
    end = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.02)


def test_each_model_has_its_batches_and_its_busy_time(tmp_path):
    searchers = {
        "birds": filled(ToyEncoder(), tmp_path / "birds.index"),
        "trees": filled(ToyEncoder(48, "toy-2"), tmp_path / "trees.index"),
    }
    with running(create_app(searchers)) as address:
        before = by_model(httpx.get(f"{address}/metrics").text)
        for _ in range(3):
            assert httpx.post(f"{address}/search", json={"text": "a fox", "index": "trees"}).status_code == 200
        after = by_model(httpx.get(f"{address}/metrics").text)
    items, items_before = after["puma_batch_items_sum"], before["puma_batch_items_sum"]
    assert {model: count - items_before[model] for model, count in items.items()} == {"toy-1": 0, "toy-2": 3}
    busy, busy_before = after["puma_encoder_seconds_total"], before["puma_encoder_seconds_total"]
    assert busy["toy-1"] == busy_before["toy-1"]
    assert busy["toy-2"] > busy_before["toy-2"]


def test_each_model_has_its_queue(tmp_path):
    gated = GatedEncoder()
    searchers = {
        "birds": filled(gated, tmp_path / "birds.index"),
        "trees": filled(ToyEncoder(48, "toy-2"), tmp_path / "trees.index"),
    }

    async def run():
        own = Service(searchers, ServeSettings())
        entered = gated.entered
        while entered.acquire(blocking=False):
            pass  # what filled the index
        gated.gate.clear()
        try:
            held = asyncio.create_task(own.main.embed([Item("held")]))
            assert await asyncio.to_thread(entered.acquire, timeout=WAIT_S)
            waiting = asyncio.create_task(own.main.embed([Item("one"), Item("two")]))
            while not own.main.batcher.depth:
                await asyncio.sleep(0)
            assert by_model(own.metrics.text().decode())["puma_queue_items"] == {"toy-1": 2, "toy-2": 0}
            gated.gate.set()
            await asyncio.gather(held, waiting)
            assert by_model(own.metrics.text().decode())["puma_queue_items"] == {"toy-1": 0, "toy-2": 0}
        finally:
            gated.gate.set()
            await asyncio.to_thread(own.close)

    asyncio.run(run())


def test_a_model_that_is_released_leaves_the_metrics(tmp_path):
    app = create_app(filled(ToyEncoder(), tmp_path / "birds.index"), load=lambda name: ToyEncoder(48, name))
    own = app.state.service
    with running(app) as address:

        def models():
            found = by_model(httpx.get(f"{address}/metrics").text)
            return {model for values in found.values() for model in values}

        assert models() == {"toy-1"}
        migrate(tmp_path / "birds.index", ToyEncoder(48, "toy-2"), "toy-2", progress=False)
        until(lambda: own.main.fingerprint == "toy-2")
        assert models() == {"toy-1", "toy-2"}
        own.settings = replace(own.settings, timeout_s=0.1)  # nobody waits for an answer any more
        until(lambda: models() == {"toy-2"})


def test_a_new_model_that_cannot_be_warmed_leaves_no_metrics(tmp_path, caplog):
    class Blind(ToyEncoder):
        """Embeds texts, which counts as a batch, and fails at images."""

        def encode(self, items, *, instruction=None):
            if any(item.image is not None for item in items):
                raise RuntimeError("no eyes")
            return super().encode(items, instruction=instruction)

    app = create_app(filled(ToyEncoder(), tmp_path / "birds.index"), load=lambda name: Blind(48, name))
    with running(app) as address:
        migrate(tmp_path / "birds.index", ToyEncoder(48, "toy-2"), "toy-2", progress=False)
        until(lambda: "the old one goes on" in caplog.text)
        assert "no eyes" in caplog.text
        found = by_model(httpx.get(f"{address}/metrics").text)
    assert {model for values in found.values() for model in values} == {"toy-1"}


def test_a_release_keeps_the_metrics_of_another_model_with_the_same_fingerprint(tmp_path):
    searchers = {name: filled(ToyEncoder(), tmp_path / f"{name}.index") for name in ("birds", "trees")}
    own = Service(searchers, ServeSettings())
    first, second = own.models
    asyncio.run(second.embed([Item("one")]))
    own.models.remove(first)
    own.released([first])
    assert by_model(own.metrics.text().decode())["puma_batch_items_sum"] == {"toy-1": 1}
    own.models.remove(second)
    own.released([second])
    assert by_model(own.metrics.text().decode()) == {}
    for model in (first, second):
        model.close()
    own.close()
