"""The short way to the states at [RET] against the plain forward pass, in all eight families."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image

from puma.items import Item
from puma.retriever.encoding import ret_states
from puma.retriever.encoding.prefixes import Prefix, Recording, computed_prefix
from puma.retriever.encoding.ret_states import RetStates, allows_short_pass
from puma.retriever.encoding.short_pass import ret_rows
from puma.retriever.encoding.states import forward_states
from puma.retriever.model import Retriever
from support import families
from support.plain import plain_vectors

INSTRUCTION = "Find a picture that matches this sentence above, in one word, system user assistant helpful red fox."


@pytest.fixture(scope="module", params=families.FAMILIES)
def retriever(request, family_base):
    """Two of a tiny base's four layers, as a retriever has them."""
    return Retriever.from_base(family_base(request.param), layers=2, device="cpu")


def image(seed, size=(40, 24)):
    generator = torch.Generator().manual_seed(seed)
    return Image.fromarray(torch.randint(0, 256, (size[1], size[0], 3), generator=generator).byte().numpy())


BATCHES = {
    "one text": [Item(text="a red fox")],
    "texts of one length": [Item(text="red fox"), Item(text="blue dog")],
    "texts": [Item(text="a red fox"), Item(text="blue"), Item(text="heart cat dog " * 12)],
    "images": [Item(image=image(0)), Item(image=image(1, (24, 64)))],
    "images with texts": [Item(image=image(2), text="red"), Item(image=image(3), text="a blue heart in the house")],
    "one image": [Item(image=image(4))],
}


def head_of(retriever, items):
    head, _ = retriever.prompt.parts(items[0].modality, INSTRUCTION)
    before_image = head.split(retriever.prompt.image)[0]
    return tuple(retriever.inputs.tokenizer(before_image, add_special_tokens=False)["input_ids"])


@pytest.mark.parametrize("kind", BATCHES)
def test_the_short_way_gives_the_states_of_the_plain_one(retriever, kind):
    items = BATCHES[kind]
    features = retriever.inputs.features(items, INSTRUCTION)
    head = head_of(retriever, items)
    last = features["attention_mask"].sum(1) - 1
    with torch.inference_mode():
        plain = forward_states(retriever.model, features)
        assert plain.abs().max() > 0.1
        without = ret_rows(retriever.model, features, Prefix(), last)
        torch.testing.assert_close(without, plain, rtol=1e-5, atol=1e-5)
        whole = computed_prefix(retriever.model, torch.tensor(head))
        for length in (1, len(head) - 1):
            found = ret_rows(retriever.model, features, whole.first(length), last)
            torch.testing.assert_close(found, plain, rtol=1e-5, atol=1e-5)
        recording = Recording(len(head) - 1)
        torch.testing.assert_close(ret_rows(retriever.model, features, recording, last), plain, rtol=1e-5, atol=1e-5)
        learnt = recording.prefix()
        for pair, other in zip(learnt.states, whole.states, strict=True):
            for part, expected in zip(pair, other, strict=True):
                torch.testing.assert_close(part, expected[:, :, :-1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("instruction", [None, INSTRUCTION])
def test_encoding_the_short_way_is_encoding_item_by_item(retriever, instruction):
    items = [item for batch in BATCHES.values() for item in batch]
    names, state = list(vars(retriever.model)), {k: v.clone() for k, v in retriever.model.state_dict().items()}
    plain = plain_vectors(retriever, items, instruction)
    assert RetStates(retriever.model, {}).short
    for batch_size in (1, 3, 64):  # the later calls find the prefix in the memory
        found = retriever.encode(items, instruction, batch_size=batch_size)
        np.testing.assert_allclose(found, plain, atol=1e-5)
    assert np.abs(plain[0] - plain[-1]).max() > 0.01
    # Nothing of it is left in the model.
    assert [name for name in vars(retriever.model) if name != "rope_deltas"] == [n for n in names if n != "rope_deltas"]
    for key, value in retriever.model.state_dict().items():
        assert torch.equal(value, state[key])


@pytest.mark.parametrize("options", [{"fused": True}, {"foreach": True}, {"foreach": False}])
def test_what_an_optimiser_changes_in_place_is_seen(family_base, options):
    """A fused kernel leaves the weights' versions as they were; what was kept of the older weights must not be used."""
    retriever = Retriever.from_base(family_base("fast_vlm"), layers=2, device="cpu")
    texts, pictures = [Item(text=f"a red fox {n}") for n in range(9)], [Item(image=image(5)), Item(image=image(6))]
    before = retriever.encode(texts, INSTRUCTION), retriever.encode(pictures)
    weights = [weight.requires_grad_(True) for weight in retriever.model.parameters()]
    optimiser = torch.optim.AdamW(weights, lr=0.05, **options)
    for weight in weights:
        weight.grad = torch.ones_like(weight)
    optimiser.step()
    retriever.model.requires_grad_(False)
    found = retriever.encode(texts, INSTRUCTION), retriever.encode(pictures)
    expected = plain_vectors(retriever, texts, INSTRUCTION), plain_vectors(retriever, pictures, None)
    for ours, plain, older in zip(found, expected, before, strict=True):
        np.testing.assert_allclose(ours, plain, atol=1e-5)
        assert np.abs(plain - older).max() > 1e-3


def test_a_prefix_is_computed_once_and_kept(retriever, monkeypatch):
    computed = []
    assert allows_short_pass(retriever.model)  # tried now: what it computes is not counted
    monkeypatch.setattr(
        ret_states, "computed_prefix", lambda model, ids: computed.append(ids.tolist()) or computed_prefix(model, ids)
    )
    instruction = INSTRUCTION + " Again, and again."
    texts = [Item(text=f"a red fox {n}") for n in range(40)]
    first = retriever.encode(texts, instruction, batch_size=4)
    assert len(computed) == 1
    np.testing.assert_array_equal(retriever.encode(texts, instruction, batch_size=4), first)
    assert len(computed) == 1
    with torch.no_grad():
        weight = retriever.model.get_decoder().layers[0].input_layernorm.weight
        weight.mul_(1.5)
        try:
            changed = retriever.encode(texts, instruction, batch_size=4)
            assert len(computed) == 2
            np.testing.assert_allclose(changed, plain_vectors(retriever, texts, instruction), atol=1e-5)
        finally:
            weight.div_(1.5)


def test_one_query_leaves_its_prefix_to_the_next(retriever, monkeypatch):
    assert allows_short_pass(retriever.model)  # tried now, with the real one
    monkeypatch.setattr(ret_states, "computed_prefix", None)  # a pass of its own would not pay for one query
    used = []
    plain = ret_states.ret_rows
    monkeypatch.setattr(
        ret_states,
        "ret_rows",
        lambda model, features, prefix, last: used.append(prefix.length) or plain(model, features, prefix, last),
    )
    instruction = "Find the sentence that means the same. " + INSTRUCTION
    for text in ("a red fox", "blue", "a blue heart in the house"):
        vectors = retriever.encode([text], instruction)
        np.testing.assert_allclose(vectors, plain_vectors(retriever, [Item(text=text)], instruction), atol=1e-5)
    assert used[0] == 0
    assert min(used[1:]) > 20


def test_instructions_may_differ(retriever):
    items = [Item(text=f"fox {n}") for n in range(6)] + [Item(image=image(9), text="red")]
    asked = [INSTRUCTION, None, "Find a dog.", INSTRUCTION, INSTRUCTION, None, "Find a dog."]
    plain = np.concatenate([plain_vectors(retriever, [item], one) for item, one in zip(items, asked, strict=True)])
    np.testing.assert_allclose(retriever.encode(items, asked), plain, atol=1e-5)


def test_models_that_others_hold_go_the_plain_way(retriever):
    model, decoder = retriever.model, retriever.model.get_decoder()
    assert allows_short_pass(model)
    model.train()
    assert not allows_short_pass(model)
    model.eval()
    handle = decoder.layers[0].register_forward_hook(lambda *args: None)
    assert not allows_short_pass(model)
    handle.remove()
    decoder.forward = type(decoder).forward.__get__(decoder)
    assert not allows_short_pass(model)
    np.testing.assert_allclose(
        retriever.encode(["a red fox"]), plain_vectors(retriever, [Item(text="a red fox")], None), atol=1e-6
    )
    del decoder.forward
    assert allows_short_pass(model)


@pytest.mark.parametrize("fault", ["another state", "no cache", "an unknown argument"])
def test_decoders_of_another_kind_are_found_out(fault, family_base, monkeypatch):
    """By a trial, once: a last layer whose other rows matter, attention without a cache, a call of another shape."""
    retriever = Retriever.from_base(family_base("llava"), layers=2, device="cpu")
    model, decoder = retriever.model, retriever.model.get_decoder()
    layer = type(decoder.layers[-1])
    plain = layer.forward
    if fault == "another state":
        monkeypatch.setattr(
            layer, "forward", lambda self, hidden, **options: plain(self, hidden, **options) + hidden.mean(1, True)
        )
    elif fault == "no cache":
        monkeypatch.setattr(
            layer,
            "forward",
            lambda self, hidden, **options: plain(self, hidden, **{**options, "past_key_values": None}),
        )
    else:
        whole = type(decoder).forward
        monkeypatch.setattr(
            type(decoder),
            "forward",
            lambda self, inputs_embeds, attention_mask, use_cache, **options: whole(
                self, inputs_embeds=inputs_embeds, attention_mask=attention_mask, use_cache=use_cache
            ),
        )
    assert not allows_short_pass(model)
    items = [Item(text="a red fox"), Item(text="blue")]
    np.testing.assert_allclose(
        retriever.encode(items, INSTRUCTION, batch_size=1), plain_vectors(retriever, items, INSTRUCTION), atol=1e-5
    )


def test_half_precision_and_autocast_go_the_short_way_too(family_base):
    folder = family_base("qwen3_vl")
    plain = Retriever.from_base(folder, layers=2, device="cpu")
    items = [item for batch in BATCHES.values() for item in batch]
    expected = plain_vectors(plain, items, INSTRUCTION)
    half = Retriever.from_base(folder, layers=2, device="cpu", dtype="bf16")
    assert allows_short_pass(half.model)
    assert (half.encode(items, INSTRUCTION) * expected).sum(1).min() > 0.99
    plain.encode(items, INSTRUCTION)
    plain.autocast = torch.bfloat16  # keys and values in fp32 are not taken for those in bf16
    assert (plain.encode(items, INSTRUCTION) * expected).sum(1).min() > 0.99


def test_threads_may_share_a_model(retriever):
    texts = [Item(text=f"a red fox {n}") for n in range(12)]
    expected = plain_vectors(retriever, texts, INSTRUCTION)
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda n: retriever.encode(texts, INSTRUCTION, batch_size=n + 1), range(8)):
            np.testing.assert_allclose(found, expected, atol=1e-5)
