"""Elastic depth: an exit is what a cut model gives, the loss is the mean over depths, and a trained retriever loads at
its exits and nowhere else."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from puma.errors import ConfigError, InputError
from puma.items import Item
from puma.losses.distillation import row_softmax_loss
from puma.pruning import decoder_of
from puma.retriever.encoding.states import forward_states
from puma.retriever.model import Retriever
from puma.retriever.sentence_transformers import sentence_transformer
from puma.training import train
from puma.training.collating import PairCollator
from puma.training.config import TrainConfig
from puma.training.exits import states_at_depths
from puma.training.objective import RetrievalObjective
from support import families
from training.test_stage import FULL, both, difference, make_pairs, weights

ELASTIC = replace(FULL, steps=3, loss="split-mac", exits=(1, 2), exit_weight=0.5, exit_distillation=0.2)


def three_layers(base):
    return Retriever.from_base(base, layers=3, prompt="open-quote", device="cpu")


def features_of(retriever, pairs):
    batch = PairCollator(pairs, retriever.inputs, chunks=2)([{"row": n} for n in range(len(pairs))])
    prefixes = [f"chunk{number}_" for number in range(2)]
    return [{k.removeprefix(p): v for k, v in batch.items() if k.startswith(p)} for p in prefixes]


@pytest.mark.parametrize("family", families.FAMILIES)
def test_an_exit_is_what_the_cut_model_gives(family, family_base):
    whole = Retriever.from_base(family_base(family), dtype="fp32", device="cpu")
    depths = range(1, len(decoder_of(whole.model).layers))
    items = [Item(text="a red fox"), Item(image=Image.new("RGB", (40, 40), "red")), Item(text="blue heart cat dog")]
    inputs = whole.inputs.features(items, None)

    def forward():
        return whole.model(**inputs).last_hidden_state

    with torch.no_grad():
        found = states_at_depths(whole.model, depths, forward, inputs["attention_mask"]).split(whole.dim, 1)
        for depth, states in zip((None, *depths), found, strict=True):
            cut = Retriever.from_base(family_base(family), layers=depth, dtype="fp32", device="cpu")
            assert torch.allclose(states, forward_states(cut.model, cut.inputs.features(items, None)), atol=1e-5)
    assert len(found) > 1


@pytest.mark.parametrize("dimensions", [(), (4, 8)])
def test_the_loss_is_the_weighted_mean_over_depths_and_so_is_its_gradient(base, dimensions):
    retriever, pairs = three_layers(base), make_pairs(5)
    options = {"temperature": 0.1, "decay": 0.5, "loss": "split-mac", "symmetric": True, "dimensions": dimensions}
    model = retriever.model.requires_grad_(True)
    pipeline, decoder = sentence_transformer(retriever), decoder_of(model)
    elastic = RetrievalObjective(pipeline, **options, exits=(1, 2), exit_weight=0.5)
    losses = elastic(features_of(retriever, pairs))
    losses["contrastive"].backward()
    fast = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
    model.zero_grad()

    layers, by_depth = decoder.layers, {}
    for depth, weight in ((3, 1.0), (1, 0.5), (2, 0.5)):  # one forward pass each, of the same weights
        decoder.layers = nn.ModuleList(layers[:depth])
        loss = RetrievalObjective(pipeline, **options)(features_of(retriever, pairs))["contrastive"]
        (weight * loss / 2).backward()
        by_depth[depth] = float(loss.detach())
    decoder.layers = layers
    slow = (by_depth[3] + 0.5 * by_depth[1] + 0.5 * by_depth[2]) / 2
    assert float(losses["contrastive"].detach()) == pytest.approx(slow, rel=1e-5)
    assert len({round(value, 4) for value in by_depth.values()}) == 3
    for depth in (1, 2):
        assert float(elastic.last_figures[f"exit_{depth}_loss"]) == pytest.approx(by_depth[depth], rel=1e-5)
    assert fast.keys() == {name for name, weight in model.named_parameters() if weight.grad is not None}
    for name, weight in model.named_parameters():
        if weight.grad is not None:
            assert torch.allclose(fast[name], weight.grad, atol=1e-5), name


def test_exits_learn_from_the_end_and_the_end_not_from_them(base):
    retriever, pairs = three_layers(base), make_pairs(5)
    model = retriever.model.requires_grad_(True)
    objective = RetrievalObjective(
        sentence_transformer(retriever),
        temperature=0.1,
        exits=(1,),
        exit_distillation=0.3,
        distillation_temperature=0.04,
    )
    terms = objective(features_of(retriever, pairs))
    terms["exits"].backward()
    deep = decoder_of(model).layers[1:]
    assert all(weight.grad is None or not weight.grad.any() for weight in deep.parameters())
    assert any(weight.grad.any() for weight in decoder_of(model).layers[0].parameters())
    cut = copy.deepcopy(retriever)
    decoder_of(cut.model).layers = decoder_of(cut.model).layers[:1]
    items = [(p.query, p.instruction) for p in pairs] + [(p.candidate, None) for p in pairs]
    with torch.no_grad():
        ours, end = (
            torch.cat([forward_states(one.model, one.inputs.features([item], ask)) for item, ask in items])
            for one in (cut, retriever)
        )
    assert float(terms["exits"].detach()) == pytest.approx(0.3 * float(row_softmax_loss(ours, end, 0.04)), rel=1e-4)


@pytest.mark.parametrize("changes", [{"gradient_checkpointing": True}, {"grad_cache": 3}])
def test_what_spares_memory_changes_no_weight(base, tmp_path, changes):
    plain, spared = three_layers(base), three_layers(base)
    train(plain, both(), ELASTIC, tmp_path / "plain", show_progress=False)
    train(spared, both(), replace(ELASTIC, **changes), tmp_path / "spared", show_progress=False)
    assert difference(weights(plain), weights(spared)) < 1e-5
    untouched = three_layers(base)
    train(untouched, both(), replace(ELASTIC, exits=(), exit_distillation=0.0), tmp_path / "x", show_progress=False)
    assert difference(weights(plain), weights(untouched)) > 1e-4


def test_a_run_with_exits_goes_on_and_its_retriever_loads_at_each(base, tmp_path):
    made = three_layers(base)
    result = train(made, both(), ELASTIC, tmp_path / "run", show_progress=False)
    assert {"exit_1_loss", "exit_2_loss", "exits"} <= result.log[0].keys()
    again = three_layers(base)
    train(again, both(), ELASTIC, tmp_path / "run", show_progress=False)  # all steps are done: the same settings pass
    assert difference(weights(made), weights(again)) == 0.0
    assert made.exits == (1, 2)
    folder = made.save_pretrained(tmp_path / "model")
    items = [Item(text="a red fox"), Item(image=Image.new("RGB", (64, 64), "red"))]
    vectors = {}
    for layers, exits in ((None, (1, 2)), (2, (1,)), (1, ())):
        loaded = Retriever.from_pretrained(folder, layers=layers, device="cpu")
        assert loaded.exits == exits
        assert len(decoder_of(loaded.model).layers) == (layers or 3)
        decoder = decoder_of(made.model)
        kept, decoder.layers = decoder.layers, decoder.layers[:layers]
        vectors[layers] = loaded.encode(items)
        assert np.allclose(vectors[layers], made.encode(items), atol=1e-5)
        decoder.layers = kept
    assert not np.allclose(vectors[1], vectors[2], atol=1e-2)
    shallow = Retriever.from_pretrained(folder, layers=2, device="cpu").save_pretrained(tmp_path / "shallow")
    assert Retriever.from_pretrained(shallow, device="cpu").exits == (1,)
    with pytest.raises(InputError, match=r"layers=3: .*was trained to be cut to \[1, 2\]"):
        Retriever.from_pretrained(folder, layers=3)


def test_without_exits_no_depth_is_offered(base, tmp_path):
    folder = three_layers(base).save_pretrained(tmp_path / "model")
    with pytest.raises(InputError, match=r"layers=2: .*at its full depth alone"):
        Retriever.from_pretrained(folder, layers=2)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"exits": [2, 1]}, r"exits=\(2, 1\): give numbers of layers"),
        ({"exits": [0]}, r"exits=\(0,\): give numbers of layers"),
        ({"exits": 3}, "exits=3: give a list of whole numbers"),
        ({"exits": [1.5]}, r"exits=\(1.5,\): give a list of whole numbers"),
        ({"exit_distillation": 0.5}, "exit_distillation=0.5: teaches exits"),
        ({"exit_weight": -1.0}, "exit_weight=-1.0: give at least 0"),
        ({"exits": [1], "teacher": "shared", "distillation_weight": 1.0}, "not with teacher='shared'"),
    ],
)
def test_wrong_settings_are_named(values, said):
    with pytest.raises(ConfigError, match=said):
        TrainConfig.from_dict(values)


def test_an_exit_beyond_the_model_is_refused_before_training(base, tmp_path):
    with pytest.raises(InputError, match=r"exits=\[3\]: the model has 3 decoder layers"):
        train(three_layers(base), both(), replace(ELASTIC, exits=(3,)), tmp_path / "run", show_progress=False)
