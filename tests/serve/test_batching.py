"""The queue and the batches: equal to single encoding, fair, bounded; what fails or leaves harms nobody else."""

import asyncio
import io
from collections.abc import Callable, Coroutine
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from puma.errors import ImageError, InputError
from puma.items import Item
from puma.serve import batching
from puma.serve.queue import (
    BusyError,
    ClientGoneError,
    ClosingError,
    EncoderFaultError,
    Request,
    WaitedTooLongError,
    image_pixels,
    next_batch,
)
from puma.serve.served_model import CLIENT_GONE
from puma.serve.service import Service
from puma.serve.settings import ServeSettings
from support.encoders import ToyEncoder
from support.serving import PATIENCE_S, GatedEncoder


def png(colour=(255, 0, 0), size=(8, 8)) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", size, colour).save(out, "PNG")
    return out.getvalue()


def served(test: Callable[[Service, GatedEncoder], Coroutine[Any, Any, None]], encoder=None, **options) -> None:
    """Run a test against a service; everything accepted is finished at the end."""
    encoder = encoder or GatedEncoder()

    async def run() -> None:
        own = Service({}, ServeSettings(**options), encoder)
        try:
            await test(own, encoder)
        finally:
            if isinstance(encoder, GatedEncoder):
                encoder.gate.set()
            await asyncio.to_thread(own.close)

    asyncio.run(run())


async def entered(encoder: GatedEncoder) -> None:
    assert await asyncio.to_thread(encoder.entered.acquire, timeout=PATIENCE_S)


async def held(own: Service, encoder: GatedEncoder) -> asyncio.Task:
    """Close the gate behind one request, so that all further ones queue."""
    encoder.gate.clear()
    first = asyncio.create_task(own.main.embed([Item("first")]))
    await entered(encoder)
    return first


async def queued(own: Service, *requests: list[Item]) -> list[asyncio.Task]:
    tasks = [asyncio.create_task(own.main.embed(items)) for items in requests]
    wanted = own.main.batcher.depth + sum(len(items) for items in requests)
    while own.main.batcher.depth < wanted:
        await asyncio.sleep(0.001)
    return tasks


@pytest.mark.parametrize("mixed", [True, False])
def test_batched_equals_single(mixed):
    requests = []
    for n in range(60):
        items = [Item(f"word{n} red {part}") for part in range(n % 4)]
        if n % 5 == 0:
            items.append(Item("green" if n % 2 else None, png((n, 200, 0))))
        requests.append((items, [None, "find it", f"ask {n % 3}"][n % 3]))

    async def test(own, encoder):
        encoder.mixed_instructions = own.main.batcher.encoding.mixed = mixed
        first = await held(own, encoder)
        tasks = [asyncio.create_task(own.main.embed(items, instructions)) for items, instructions in requests]
        while own.main.batcher.depth < sum(len(items) for items, _ in requests):
            await asyncio.sleep(0.001)
        encoder.gate.set()
        await first
        alone = GatedEncoder()
        for task, (items, instructions) in zip(tasks, requests, strict=True):
            got = await task
            assert got.dtype == np.float32
            assert got.shape == (len(items), 32)
            if items:
                assert np.array_equal(
                    got, np.concatenate([alone.encode([item], instruction=instructions) for item in items])
                )
        assert len(encoder.batches) < len(requests)

    served(test)


def test_requests_join_while_the_encoder_is_busy():
    async def test(own, encoder):
        first = await held(own, encoder)
        rest = await queued(own, *([Item(f"text {n}")] for n in range(10)))
        encoder.gate.set()
        await asyncio.gather(first, *rest)
        assert encoder.batches == [["first"], [f"text {n}" for n in range(10)]]

    served(test)


def test_a_batch_is_bounded_and_a_large_request_goes_in_parts():
    async def test(own, encoder):
        vectors = await own.main.embed([Item(f"text {n}") for n in range(50)])
        assert [len(batch) for batch in encoder.batches] == [16, 16, 16, 2]
        assert np.array_equal(vectors, ToyEncoder().encode([Item(f"text {n}") for n in range(50)]))

    served(test, max_batch=16, max_queue=20)


def test_a_large_request_lets_small_ones_pass():
    async def test(own, encoder):
        first = await held(own, encoder)
        large = await queued(own, [Item(f"large {n}") for n in range(300)])
        small = await queued(own, *([Item(f"small {n}")] for n in range(5)))
        encoder.gate.set()
        await asyncio.gather(first, *large, *small)
        assert set(encoder.batches[1]) >= {f"small {n}" for n in range(5)}
        assert len(encoder.batches[1]) == 16

    served(test, max_batch=16)


def test_a_full_queue_refuses_and_says_when():
    async def test(own, encoder):
        first = await held(own, encoder)
        waiting = await queued(own, [Item("a"), Item("b")], [Item("c")])
        own.main.batcher.encoding.rate = 0.5
        with pytest.raises(BusyError, match="queue holds 4") as caught:
            await own.main.embed([Item("d"), Item("e")])
        assert caught.value.retry_after == 6  # three items at half an item a second
        waiting += await queued(own, [Item("still fits")])
        encoder.gate.set()
        await asyncio.gather(first, *waiting)
        await own.main.embed([Item("d"), Item("e")])

    served(test, max_queue=4)


def test_who_waits_too_long_is_told_and_dropped():
    async def test(own, encoder):
        encoder.gate.clear()
        first = asyncio.create_task(own.main.embed([Item("first")]))
        await entered(encoder)
        with pytest.raises(TimeoutError, match=r"0\.05 s"):
            await own.main.embed([Item("late")])
        with pytest.raises(WaitedTooLongError):
            await first
        encoder.gate.set()
        await own.main.embed([Item("next")])
        assert encoder.batches == [["first"], ["next"]]

    served(test, timeout_s=0.05)


def test_a_result_renews_the_time_limit(monkeypatch):
    async def test(own, encoder):
        first = await held(own, encoder)
        (task,) = await queued(own, [Item("a"), Item("b")])
        (request,) = own.main.batcher._waiting
        started = request.touched
        request.touched = started + 20
        monkeypatch.setattr(batching.time, "monotonic", lambda: started + 31)
        own.main.batcher._late(request)
        assert not request.future.done()  # a part came at 20 s, so there is time until 50 s
        monkeypatch.setattr(batching.time, "monotonic", lambda: started + 51)
        own.main.batcher._late(request)
        monkeypatch.undo()
        encoder.gate.set()
        await first
        with pytest.raises(WaitedTooLongError):
            await task

    served(test, timeout_s=30)


def test_who_leaves_is_dropped_before_encoding():
    async def test(own, encoder):
        first = await held(own, encoder)
        leaver, stayer = await queued(own, [Item("leaver")], [Item("stayer")])
        leaver.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaver
        assert own.main.batcher.depth == 1
        hung_up = asyncio.Event()
        CLIENT_GONE.set(hung_up.wait)
        gone = asyncio.create_task(own.main.embed([Item("gone")]))
        CLIENT_GONE.set(None)
        await asyncio.sleep(0)
        hung_up.set()
        with pytest.raises(ClientGoneError):
            await gone
        encoder.gate.set()
        await asyncio.gather(first, stayer)
        assert encoder.batches == [["first"], ["stayer"]]

    served(test)


def test_who_leaves_half_way_gets_no_more():
    class StopsAfterTwo(GatedEncoder):
        def encode(self, items, *, instruction=None):
            vectors = super().encode(items, instruction=instruction)
            if len(self.batches) == 2:
                self.gate.clear()
            return vectors

    async def test(own, encoder):
        first = await held(own, encoder)
        (large,) = await queued(own, [Item(f"large {n}") for n in range(40)])
        encoder.gate.set()
        await first
        await entered(encoder)
        await entered(encoder)  # the second part of the large one waits at the gate
        large.cancel()
        with pytest.raises(asyncio.CancelledError):
            await large
        encoder.gate.set()
        await own.main.embed([Item("next")])
        assert [len(batch) for batch in encoder.batches] == [1, 2, 2, 1]

    served(test, StopsAfterTwo(), max_batch=2)


@pytest.mark.parametrize("word", ["poison", "glutton"])
def test_only_the_guilty_fail(word):
    async def test(own, encoder):
        first = await held(own, encoder)
        texts = [f"fine {n}" for n in range(20)]
        good = await queued(own, *([Item(text)] for text in texts[:10]))
        (bad,) = await queued(own, [Item("before"), Item(word), Item("after")])
        good += await queued(own, *([Item(text)] for text in texts[10:]))
        encoder.gate.set()
        rows = await asyncio.gather(first, *good)
        with pytest.raises(MemoryError if word == "glutton" else EncoderFaultError) as caught:
            await bad
        if word == "poison":
            assert isinstance(caught.value.__cause__, RuntimeError)
        assert np.array_equal(np.concatenate(rows[1:]), ToyEncoder().encode([Item(text) for text in texts]))
        assert own.main.batcher.depth == 0
        assert (await own.main.embed([Item("later")])).shape == (1, 32)

    served(test)


@pytest.mark.parametrize("wrong", [np.zeros((1, 7)), np.full((1, 32), np.nan)])
def test_a_senseless_result_is_the_models_fault(wrong):
    class Senseless(ToyEncoder):
        def encode(self, items, *, instruction=None):
            return wrong

    async def test(own, encoder):
        with pytest.raises(EncoderFaultError, match="finite"):
            await own.main.embed([Item("x")])

    served(test, Senseless())


def test_a_defect_in_the_thread_leaves_nobody_waiting(monkeypatch):
    async def test(own, encoder):
        def defect(model, modalities, seconds):
            raise SystemExit("from a place that never raises")

        monkeypatch.setattr(own.metrics, "batch", defect)
        for _ in range(2):
            with pytest.raises(EncoderFaultError, match="never raises"):
                await own.main.embed([Item("x"), Item("y")])
        monkeypatch.undo()
        assert (await own.main.embed([Item("x")])).shape == (1, 32)

    served(test)


def test_a_bad_image_fails_alone():
    async def test(own, encoder):
        first = await held(own, encoder)
        noise = io.BytesIO()
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (28, 28, 3), np.uint8)).save(noise, "PNG")
        damaged = noise.getvalue()[:1000]
        good, broken, none, text = await queued(
            own, [Item(image=png())], [Item(image=damaged)], [Item(image=b"no")], [Item("red")]
        )
        large = asyncio.create_task(own.main.embed([Item(image=png(size=(40, 40)))]))
        encoder.gate.set()
        await asyncio.gather(first, text)
        assert np.array_equal(await good, ToyEncoder().encode([Item(image=png())]))
        for task, message in ((broken, "cannot be decoded"), (none, "known format"), (large, "40 x 40 pixels")):
            with pytest.raises(ImageError, match=message):
                await task
        assert [None, None] not in encoder.batches  # what cannot be decoded never reached the encoder

    served(test, max_image_pixels=900)


def test_texts_go_before_images():
    async def test(own, encoder):
        first = await held(own, encoder)
        tasks = await queued(own, [Item(image=png())], [Item("text")])
        encoder.gate.set()
        await asyncio.gather(first, *tasks)
        assert encoder.batches == [["first"], ["text"], [None]]

    served(test)


def test_closing_finishes_what_was_accepted():
    async def test(own, encoder):
        first = await held(own, encoder)
        rest = await queued(own, *([Item(f"text {n}")] for n in range(5)))
        closing = asyncio.create_task(asyncio.to_thread(own.close))
        while not own.main.batcher._closing:
            await asyncio.sleep(0.001)
        with pytest.raises(ClosingError):
            await own.main.embed([Item("too late")])
        encoder.gate.set()
        assert len(await asyncio.gather(first, *rest)) == 6
        await closing

    served(test)


def test_what_cannot_be_embedded_is_refused_at_once():
    async def test(own, encoder):
        for items, instructions, message in (
            ([Item("x")] * 5, None, "5 inputs are over the limit of 4"),
            ([Item("x")], ["a", "b"], "2 of them for 1 items"),
            ([Item("half \ud800")], None, "input 0: holds half"),
            ([Item("x")], "\udfff", "instruction of input 0"),
        ):
            with pytest.raises(InputError, match=message):
                await own.main.embed(items, instructions)
        assert (await own.main.embed([])).shape == (0, 32)
        assert not encoder.batches

    served(test, max_inputs=4)


def test_blocking_calls_are_bounded_and_time_out():
    import threading

    async def test(own, encoder):
        gate = threading.Event()
        try:
            with pytest.raises(WaitedTooLongError):
                await own.blocking(gate.wait, PATIENCE_S)
            with pytest.raises(BusyError):
                await own.blocking(int)
        finally:
            gate.set()
        while own.workers._pending:
            await asyncio.sleep(0.001)
        assert await own.blocking(lambda a, b: a + b, 1, b=2) == 3
        with pytest.raises(ZeroDivisionError):
            await own.blocking(lambda: 1 / 0)

    served(test, max_queue=1, workers=1, timeout_s=0.05)


def test_pixels_are_told_from_the_header():
    items = [Item("x"), Item(image=png(size=(30, 20))), Item(image=b"no"), Item(image=Image.new("L", (5, 4)))]
    assert image_pixels(items, 500) == [0, 500, 1, 20]


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 50), min_size=1, max_size=30), min_size=1, max_size=12),
    st.integers(1, 20),
    st.integers(1, 6),
)
def test_shares(requests, max_batch, max_images):
    """Every item once and in order; bounds kept; nobody with a turn to come is passed over twice."""
    limits = ServeSettings(max_batch=max_batch, max_batch_images=max_images, max_batch_pixels=50)
    made = [Request([None] * len(pixels), [], pixels, 1, None, None, 0.0) for pixels in requests]
    waiting, seen = list(made), {request: [] for request in made}
    while waiting:
        batch, rest = next_batch(waiting, limits)
        assert 0 < len(batch.entries) <= max_batch
        images = [request.pixels[place] for request, place in batch.entries if request.pixels[place]]
        assert len(images) <= max_images
        assert sum(images) <= 50
        assert batch.entries[0][0] is waiting[0]
        for request, place in batch.entries:
            seen[request].append(place)
        assert [request for request in rest if request not in batch.served] == [
            request for request in waiting if request not in batch.served
        ]
        waiting = list(rest)
    assert all(places == list(range(len(request.items))) for request, places in seen.items())


def test_a_real_model_in_batches(base):
    """A tiny retriever: what requests get together is what each gets alone, up to rounding."""
    from puma.retriever.model import Retriever

    retriever = Retriever.from_base(base, prompt="short", device="cpu")
    wanted = [
        (Item("a red fox"), "Find a picture."),
        (Item("a much longer text about a blue whale in the sea"), None),
        (Item(image=png()), None),
        (Item("at night", png((0, 0, 255), (20, 30))), "Find a picture."),
        (Item("fox"), "Find a text that means the same."),
    ]

    async def test(own, encoder):
        assert own.main.batcher.encoding.mixed
        tasks = [own.main.embed([item], instructions) for item, instructions in wanted]
        together = np.concatenate(await asyncio.gather(*tasks))
        alone = np.concatenate([retriever.encode([item], instruction=instructions) for item, instructions in wanted])
        assert np.allclose(together, alone, atol=1e-5)
        assert not np.allclose(alone[0], alone[4], atol=1e-3)

    served(test, retriever)
