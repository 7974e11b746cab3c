"""Both stages in order: each kind of teacher, and hard negatives from the data."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from puma.data import mbeir
from puma.errors import InputError
from puma.items import Item
from puma.retriever.model import Retriever
from puma.training.config import TrainConfig
from puma.training.two_stages import train_two_stages
from support.text_models import text_model

RETRIEVE = TrainConfig(steps=2, batch_size=4, lora_rank=2, lora_alpha=4, precision="fp32", lora_dropout=0.0)
DISTIL = replace(RETRIEVE, stage="distil", distillation_weight=1.0, decay=0.0)


def texts(root):
    """A benchmark of text pairs, each query with two negatives."""
    names = [f"20:{n}" for n in range(1, 21)]
    pool = [mbeir.Candidate(did, f"text {did}", None, "text") for did in names]
    queries = [
        mbeir.Query(did, f"query {did}", None, "text", (did,), (names[n - 3], names[n - 7]), 1)
        for n, did in enumerate(names)
    ]
    mbeir.write_queries(mbeir.query_path(root, "tiny", 1, "train"), queries)
    mbeir.write_pool(mbeir.pool_path(root, "tiny", 1, "train"), pool)
    mbeir.write_qrels(mbeir.qrels_path(root, "tiny", 1, "train"), {q.qid: {q.positives[0]: 1} for q in queries}, 1)
    mbeir.write_instructions(mbeir.instructions_path(root), [("text", "text", "tiny", 20, ["Find it."])])
    return root


def two_stages(base, data, out, batch_size=4, **distil):
    retrieve = replace(RETRIEVE, hard_negatives=2, batch_size=batch_size)
    distil = replace(DISTIL, batch_size=batch_size, **distil)
    return train_two_stages(base, data, out, layers=2, prompt="open-quote", distil=distil, retrieve=retrieve)


def test_a_shared_teacher_and_a_stored_one_make_the_same_retriever(base, tmp_path):
    data = texts(tmp_path / "data")
    vectors = []
    for kind in ("store", "shared"):
        logs = two_stages(base, data, tmp_path / kind, teacher=kind)
        assert "distillation" in logs["distil"][0]
        assert "distillation" not in logs["retrieve"][0]
        made = Retriever.from_pretrained(tmp_path / kind, device="cpu")
        assert made.model.config.get_text_config().num_hidden_layers == 2
        assert made.instructions == {("text", "text"): "Find it."}
        vectors.append(made.encode([Item(text="text 3")]))
    np.testing.assert_allclose(*vectors, atol=2e-3)  # the store keeps fp16
    untrained = Retriever.from_base(base, layers=2, prompt="open-quote", device="cpu").encode([Item(text="text 3")])
    assert np.abs(vectors[0] - untrained).max() > 1e-4
    assert not (tmp_path / "shared.work" / "teacher").exists()


def test_a_stage_that_asks_no_teacher_needs_none(base, tmp_path):
    data = texts(tmp_path / "data")
    two_stages(base, data, tmp_path / "out", distillation_weight=0.0)
    assert not (tmp_path / "out.work" / "teacher").exists()
    with pytest.raises(InputError, match="exists"):
        two_stages(base, data, tmp_path / "out")


def test_a_trained_retriever_teaches_both_stages(base, tmp_path):
    data = texts(tmp_path / "data")
    Retriever.from_base(base, prompt="open-quote", device="cpu").save_pretrained(tmp_path / "deep")
    taught = {"teacher": str(tmp_path / "deep"), "distillation": "row-softmax"}
    distil = replace(DISTIL, **taught, items_only=True, contrastive_weight=0.0)
    retrieve = replace(RETRIEVE, **taught, distillation_weight=1.0)
    options = {"layers": 2, "prompt": "open-quote"}
    logs = train_two_stages(base, data, tmp_path / "out", distil=distil, retrieve=retrieve, **options)
    assert logs["distil"][0].keys().isdisjoint({"contrastive"})
    assert {"distillation", "contrastive"} <= logs["retrieve"][0].keys()
    # 20 texts and 20 queries with no instruction, 20 queries with one
    (store,) = (tmp_path / "out.work" / "teacher").iterdir()
    assert 8 < sum(len(load_file(shard)["keys"]) for shard in store.glob("shard-*")) <= 60


def test_a_retriever_is_cut_and_taught_by_its_whole_depth(base, tmp_path):
    data, deep = texts(tmp_path / "data"), tmp_path / "deep"
    train_two_stages(base, data, deep, prompt="open-quote", retrieve=RETRIEVE)
    still = replace(RETRIEVE, lora_rank=0, learning_rate=1e-12, weight_decay=0.0)
    logs = train_two_stages(deep, data, tmp_path / "cut", layers=2, retrieve=still)
    assert set(logs) == {"retrieve"}
    whole, kept = (load_file(folder / "model.safetensors") for folder in (deep, tmp_path / "cut"))
    assert kept.keys() < whole.keys()
    for name, tensor in kept.items():
        torch.testing.assert_close(tensor, whole[name])
    untrained = Retriever.from_base(base, layers=2, prompt="open-quote", device="cpu").model.state_dict()
    assert any((untrained[name].float() - tensor.float()).abs().max() > 1e-5 for name, tensor in kept.items())

    own = {"items_only": True, "contrastive_weight": 0.0, "distillation": "row-softmax", "teacher": str(deep)}
    distil = replace(DISTIL, **own)
    logs = train_two_stages(deep, data, tmp_path / "out", layers=2, distil=distil, retrieve=still)
    assert logs["distil"][0]["distillation"] > 0
    made = Retriever.from_pretrained(tmp_path / "out", device="cpu")
    assert made.model.config.get_text_config().num_hidden_layers == 2
    last = load_file(tmp_path / "out" / "model.safetensors")
    assert max((last[name].float() - tensor.float()).abs().max() for name, tensor in kept.items()) > 1e-5


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"distil": DISTIL}, "its untrained base is not there to teach it"),
        ({"distil": replace(DISTIL, teacher="shared")}, "its untrained base is not there to teach it"),
        ({"layers": 99}, "layers=99: give a whole number from 1 to"),
    ],
)
def test_what_a_retriever_as_base_cannot_do(base, tmp_path, options, said):
    data = texts(tmp_path / "data")
    Retriever.from_base(base, prompt="open-quote", device="cpu").save_pretrained(tmp_path / "deep")
    with pytest.raises(InputError, match=said):
        train_two_stages(tmp_path / "deep", data, tmp_path / "out", retrieve=RETRIEVE, **options)
    assert not (tmp_path / "out").exists()


def test_a_model_of_texts_teaches_items_without_pairs(base, tmp_path):
    data, teacher = texts(tmp_path / "data"), text_model(tmp_path / "texts")
    logs = two_stages(
        base,
        data,
        tmp_path / "out",
        teacher=str(teacher),
        distillation="row-softmax",
        items_only=True,
        contrastive_weight=0.0,
    )
    assert logs["distil"][0]["distillation"] > 0


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"teacher": "all-minilm-l6-v2"}, "fetched for base: mini alone"),
        ({}, "retrieve.teacher='store': stage 2 distils from a trained model alone"),
    ],
)
def test_teachers_that_stage_2_cannot_have(base, tmp_path, changes, said):
    retrieve = replace(RETRIEVE, distillation_weight=1.0, **changes)
    with pytest.raises(InputError, match=said):
        train_two_stages(base, tmp_path, tmp_path / "out", layers=2, prompt="open-quote", retrieve=retrieve)
