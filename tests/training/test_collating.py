"""The tensors of a step: whose rows they are, keys that find false negatives, hard negatives, the transform."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from puma.errors import InputError
from puma.items import IMAGE, TEXT, Item
from puma.losses import false_negatives, mac_loss
from puma.retriever.encoding.states import forward_states
from puma.retriever.model import Retriever
from puma.retriever.sentence_transformers import sentence_transformer
from puma.training.collating import PairCollator, content_key, id_key, known_keys
from puma.training.objective import RetrievalObjective
from puma.training.pairs import Pair


def pair(name, known=(), negatives=(), candidate=None):
    did = f"1:{name}"
    return Pair(
        query=Item(text=f"query {name}"),
        candidate=candidate or Item(text=f"text {name}"),
        instruction="Find it.",
        task=1,
        query_id=f"q{name}",
        candidate_id=did,
        known=frozenset([did, *known]),
        negatives=tuple((f"1:{n}", item) for n, item in negatives),
    )


def red(size=48):
    return Image.new("RGB", (size, size), (200, 0, 0))


@pytest.fixture(scope="module")
def retriever(base):
    return Retriever.from_base(base, layers=2, prompt="open-quote", device="cpu")


def features_of(batch):
    numbers = sorted({int(key.split("_")[0].removeprefix("chunk")) for key in batch})
    return [
        {key.removeprefix(f"chunk{n}_"): v for key, v in batch.items() if key.startswith(f"chunk{n}_")} for n in numbers
    ]


def collate(retriever, pairs, **options):
    return features_of(PairCollator(pairs, retriever.inputs, **options)([{"row": n} for n in range(len(pairs))]))


def test_hard_negatives_follow_the_positives_once_each(retriever):
    """Known positives are no negatives; what is a candidate already is not added; at most two a query."""
    x, y, z = Item(text="x"), Item(image=red()), Item(text="z")
    pairs = [
        pair("a", known=["1:y"], negatives=[("y", y), ("x", x), ("b", x), ("z", z)]),
        pair("b", negatives=[("x", x), ("y", y)]),
        pair("c"),
    ]
    chunks = collate(retriever, pairs, chunks=2, hard_negatives=2)
    output = chunks[0]
    assert output["puma_candidate_key"].tolist() == [id_key(f"1:{n}") for n in "abcxy"]
    assert output["puma_candidate_modality"].tolist() == [0, 0, 0, 0, 1]
    assert output["puma_target_modality"].tolist() == [0, 0, 0]
    assert sorted(torch.cat([chunk["puma_rows"] for chunk in chunks]).tolist()) == list(range(3 + 5))
    plain = collate(retriever, pairs, chunks=2)[0]
    assert plain["puma_candidate_key"].tolist() == [id_key(f"1:{n}") for n in "abc"]
    assert plain["puma_known"].shape == (3, 2)
    with pytest.raises(InputError, match="hard_negatives=-1"):
        PairCollator(pairs, retriever.inputs, hard_negatives=-1)


def test_the_loss_of_a_collated_batch_is_that_of_its_items_one_by_one(retriever):
    """Images and texts, uneven hard negatives, a known positive and one content under two ids."""
    pairs = [
        pair("a", known=["1:b"], negatives=[("n", Item(text="a long negative of a")), ("m", Item(image=red(20)))]),
        pair("b", candidate=Item(image=red())),
        pair("c", candidate=Item(image=red())),
        pair("d", negatives=[("o", Item(text="text a")), ("m", Item(image=red(20)))]),
    ]
    candidates = [p.candidate for p in pairs] + [
        Item(text="a long negative of a"),
        Item(image=red(20)),
        Item(text="text a"),
    ]
    exclude = torch.zeros(4, 7, dtype=torch.bool)
    exclude[0, 1] = exclude[0, 2] = True  # known; and its twin in content
    exclude[1, 2] = exclude[2, 1] = True  # one image under two ids
    exclude[0, 6] = True  # the positive's text under another id
    chunks = collate(retriever, pairs, chunks=3, hard_negatives=2)
    objective = RetrievalObjective(sentence_transformer(retriever), temperature=0.1, decay=1.0)
    objective.progress = 0.5
    with torch.no_grad():
        loss = objective(chunks)["contrastive"]
        queries = torch.cat(
            [forward_states(retriever.model, retriever.inputs.features([p.query], "Find it.")) for p in pairs]
        )
        rows = torch.cat([forward_states(retriever.model, retriever.inputs.features([item])) for item in candidates])
    codes = torch.tensor([[TEXT, IMAGE].index(item.modality) for item in candidates])
    plain = mac_loss(
        queries, rows, codes[:4], codes, temperature=0.1, hard_temperature=0.1 * np.exp(-1.0), exclude=exclude
    )
    assert float(loss) == pytest.approx(float(plain), abs=1e-5)


def test_chunks_say_which_items_have_images_and_cached_gradients_agree(retriever):
    pairs = [pair(str(n), candidate=Item(image=red(20 + n)) if n % 2 else None) for n in range(6)]
    st = sentence_transformer(retriever)
    retriever.model.get_decoder().layers.requires_grad_(True)
    gradients = []
    for cache in (0, 2):
        chunks = collate(retriever, pairs, chunks=2)
        for chunk in chunks:
            shown = [row >= 6 and (row - 6) % 2 == 1 for row in chunk["puma_rows"].tolist()]
            assert chunk["puma_with_image"].tolist() == shown
        retriever.model.zero_grad()
        RetrievalObjective(st, temperature=0.1, grad_cache=cache)(chunks)["contrastive"].backward()
        gradients.append({n: p.grad.clone() for n, p in retriever.model.named_parameters() if p.grad is not None})
    retriever.model.requires_grad_(False)
    assert gradients[0].keys() == gradients[1].keys() != set()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-5, atol=1e-5, msg=name)


def test_transform_sees_pair_and_row(retriever):
    seen = []

    def upper(one, row):
        seen.append((one.query_id, row))
        return replace(one, query=Item(text=one.query.text.upper()), candidate_id=f"9:{row}")

    pairs = [pair("a"), pair("b")]
    collator = PairCollator(pairs, retriever.inputs, chunks=1, transform=upper)
    batch = collator([{"row": 1}, {"row": 0}])
    assert seen == [("qb", 1), ("qa", 0)]
    assert batch["chunk0_puma_candidate_key"].tolist() == [id_key("9:1"), id_key("9:0")]
    texts = retriever.inputs.tokenizer.batch_decode(batch["chunk0_input_ids"])
    assert sum("QUERY" in text for text in texts) == 2


def test_teacher_rows_cover_hard_negatives(retriever):
    def teacher(item, instruction):
        return None if item.text == "x" else np.full(3, len(item.text) + bool(instruction), dtype=np.float32)

    pairs = [pair("a", negatives=[("x", Item(text="x")), ("yy", Item(text="yy"))])]
    output = collate(retriever, pairs, chunks=1, hard_negatives=2, teacher=teacher)[0]
    assert output["puma_taught"].tolist() == [True, True, False, True]
    assert output["puma_teacher"][:, 0].tolist() == [8.0, 6.0, 0.0, 2.0]


def test_content_keys_tell_contents_apart(tmp_path):
    pixels = np.asarray(red())
    same = [
        (Item(text="a  fox\n"), Item(text="a fox")),
        (Item(image=red()), Item(image=red())),
        (Item(image=tmp_path / "a.png"), Item(image=str(tmp_path / "a.png"))),
        (Item(image=pixels), Item(image=pixels.copy())),
    ]
    for one, other in same:
        assert content_key(one) == content_key(other)
    different = [
        Item(text="a fox"),
        Item(text="A fox"),
        Item(image=red()),
        Item(image=red(), text="a fox"),
        Item(image=red(47)),
        Item(image=Path("a.png")),
        Item(text="a.png"),
        Item(image=b"a.png"),
        Item(image=pixels),
        Item(image=pixels.reshape(24, 96, 3)),
    ]
    keys = [content_key(item) for item in different]
    assert len(set(keys)) == len(keys)
    assert all(0 <= key < 2**63 for key in keys)
    assert id_key("1:2") == 1054511280395795335, "other machines, which share a batch, say so too"


def test_ids_alone_find_known_positives_and_repeats():
    pairs = [pair("a", known=["1:b"]), pair("b"), pair("a")]
    keys = torch.tensor([id_key(pair.candidate_id) for pair in pairs])
    assert false_negatives(known_keys(pairs), keys, keys).tolist() == [
        [False, True, True],
        [False, False, False],
        [True, False, False],
    ]
    keys = known_keys(pairs)
    assert (keys >= 0).sum(1).tolist() == [2, 1, 1]
    assert int(keys[1, 1]) == -1


def test_image_tensors_may_come_in_a_smaller_type(retriever):
    """Under autocast the vectors are the same to the bit."""
    pairs = [pair("a", candidate=Item(image=red())), pair("b")]
    full, half = (
        collate(retriever, pairs, chunks=1, pixel_type=kind, draft=False)[0] for kind in (None, torch.bfloat16)
    )
    assert (full["pixel_values"].dtype, half["pixel_values"].dtype) == (torch.float32, torch.bfloat16)
    states = []
    for chunk in (full, half):
        inputs = {key: value for key, value in chunk.items() if not key.startswith("puma_") and key != "modality"}
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
            states.append(forward_states(retriever.model, inputs))
    assert torch.equal(*states)
