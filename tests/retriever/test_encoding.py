"""The loop of forward passes: whole whatever the batches, past images that cannot be read, and nothing left behind."""

import contextlib

import numpy as np
import pytest
import torch
from PIL import Image

from puma.errors import ImageError, InputError
from puma.items import Item
from puma.retriever.encoding import loop as encoding
from puma.retriever.encoding.loop import encode_batches
from puma.retriever.encoding.states import forward_states, token_states
from puma.retriever.model import Retriever


@pytest.fixture(scope="module")
def retriever(base):
    return Retriever.from_base(base, layers=1, prompt="open-quote", device="cpu")


def items(tmp_path):
    return [
        Item(text="a fox"),
        Item(image=Image.new("RGB", (32, 32), "red")),
        Item(image=tmp_path / "gone.png"),
        Item(text="a long text about a blue house"),
        Item(image=Image.new("RGB", (32, 48), "blue"), text="in blue"),
    ]


def batches(retriever, given, **options):
    return encode_batches(
        retriever.model, retriever.inputs, given, **{"batch_size": 2, "forward": forward_states, **options}
    )


@pytest.mark.parametrize("batch_size", [1, 2, 64])
def test_what_cannot_be_read_is_left_out_and_named(retriever, tmp_path, batch_size):
    given, faults, found = items(tmp_path), {}, {}
    for rows, features, states in batches(retriever, given, batch_size=batch_size, on_unreadable=faults.__setitem__):
        assert len(rows) == len(features["input_ids"]) == len(states) <= batch_size
        found.update(zip(rows, states.numpy(), strict=True))
    assert sorted(found) == [0, 1, 3, 4]
    assert list(faults) == [2]
    assert "gone.png" in faults[2]
    alone = {row: next(batches(retriever, [given[row]]))[2][0].numpy() for row in found}
    for row, state in alone.items():
        np.testing.assert_allclose(found[row], state, atol=1e-4)


def test_without_a_listener_the_first_unreadable_image_ends_it(retriever, tmp_path):
    with pytest.raises(ImageError, match=r"gone\.png"):
        list(batches(retriever, items(tmp_path)))


def test_the_tower_is_prepared_for_batches_with_images_only(retriever, monkeypatch):
    prepared = []
    monkeypatch.setattr(encoding, "fast_tower", lambda model: contextlib.nullcontext(prepared.append(model)))
    list(batches(retriever, [Item(text="a fox"), Item(text="a house")]))
    assert not prepared
    list(batches(retriever, [Item(image=Image.new("RGB", (32, 32), "red"))]))
    assert prepared == [retriever.model]


def test_arguments_are_checked(retriever, tmp_path):
    with pytest.raises(InputError, match="batch_size=0"):
        next(batches(retriever, [], batch_size=0))
    with pytest.raises(InputError, match="1 of them for 5 items"):
        next(batches(retriever, items(tmp_path), instructions=["Find it."]))


def test_between_batches_the_caller_is_where_it_was(retriever):
    """Neither inference mode nor autocast nor the tower's class outlives a forward pass, failed or not."""
    tower = type(retriever.model.get_encoder("image"))

    class Nothing:
        def lookup(self, item):
            return None

    given = [Item(text="a"), Item(text="b")]
    options = {"batch_size": 1, "vision": Nothing(), "autocast": torch.bfloat16}
    for _ in batches(retriever, given, **options):
        assert not torch.is_inference_mode_enabled()
        assert not torch.is_autocast_enabled("cpu")
        assert type(retriever.model.get_encoder("image")) is tower

    def fail(model, features):
        assert torch.is_inference_mode_enabled()
        assert type(model.get_encoder("image")) is not tower
        raise RuntimeError("no memory")

    with pytest.raises(RuntimeError, match="no memory"):
        next(batches(retriever, given, **{**options, "forward": fail}))
    assert type(retriever.model.get_encoder("image")) is tower


def test_token_states_hold_the_state_at_ret(retriever):
    features = retriever.inputs.features([Item(text="a fox")])
    with torch.no_grad():
        assert torch.equal(
            token_states(retriever.model, features)[:, -1].float(), forward_states(retriever.model, features)
        )


def test_what_is_given_twice_is_embedded_once(retriever, tmp_path, monkeypatch):
    picture = Image.new("RGB", (32, 32), "red")
    picture.save(tmp_path / "red.png")
    data = (tmp_path / "red.png").read_bytes()
    given = [
        "a fox",
        picture,
        data,
        "a fox",
        picture.copy(),
        bytes(bytearray(data)),
        {"image": picture, "text": "a fox"},
    ]
    rows = []
    plain = encoding.encode_batches
    monkeypatch.setattr(
        encoding,
        "encode_batches",
        lambda model, inputs, items, *a, **o: rows.extend(items) or plain(model, inputs, items, *a, **o),
    )
    tokens = np.full(7, -1)
    together = retriever.encode(given, tokens=tokens)
    assert len(rows) == 4
    assert len(set(tokens[[0, 3]])) == len(set(tokens[[1, 2, 4, 5]])) == 1
    for n, one in enumerate(given):
        alone = np.zeros(1, dtype=int)
        np.testing.assert_allclose(together[n], retriever.encode([one], tokens=alone)[0], atol=1e-5)
        assert alone[0] == tokens[n]
    asked = retriever.encode(["a fox", "a fox"], [None, "Find it."])
    assert np.abs(asked[0] - asked[1]).max() > 0.01


def test_a_repeated_image_that_cannot_be_read_is_named(retriever, tmp_path):
    with pytest.raises(ImageError, match=r"gone\.png"):
        retriever.encode(
            [tmp_path / "gone.png", "a", tmp_path / "gone.png", {"image": tmp_path / "gone.png", "text": "b"}]
        )


def test_nothing_is_embedded_to_nothing(retriever):
    assert retriever.encode([]).shape == (0, retriever.dim)
