"""The last layer at [RET] alone against the whole layer: states and gradients, in all families."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from puma.items.item import Item
from puma.pruning import decoder_of
from puma.retriever.model import Retriever
from puma.retriever.sentence_transformers import sentence_transformer
from puma.training import stage
from puma.training.collating import PairCollator
from puma.training.config import TrainConfig
from puma.training.objective import RetrievalObjective
from puma.training.pairs import Pair
from puma.training.short_last_layer import allows_short_last_layer, short_last_layer
from puma.training.trainable import choose_trainable
from puma.training.trainer import RetrieverTrainer
from support import families

ALL = dict.fromkeys(families.FAMILIES)


def image(seed, size=(40, 24)):
    generator = torch.Generator().manual_seed(seed)
    return Image.fromarray(torch.randint(0, 256, (size[1], size[0], 3), generator=generator).byte().numpy())


def pairs():
    """Texts of unlike lengths, images, and both."""
    items = [
        (Item(text="a red fox"), Item(image=image(0))),
        (Item(text="heart cat dog " * 6), Item(text="blue")),
        (Item(image=image(1, (24, 64))), Item(text="a blue heart")),
        (Item(image=image(2), text="red"), Item(image=image(3), text="a heart in the house")),
    ]
    return [
        Pair(query, candidate, "Find it.", 0, f"q{n}", f"c{n}", frozenset({f"c{n}"}))
        for n, (query, candidate) in enumerate(items)
    ]


def gradients(retriever, config, short, grad_cache=0):
    pipeline = sentence_transformer(retriever)
    torch.manual_seed(0)
    choose_trainable(retriever, pipeline, config)
    for name, parameter in pipeline.named_parameters():
        if "lora_B" in name:  # zero at first, and then A has no gradient
            torch.nn.init.normal_(parameter, std=0.1)
    rows = pairs()
    batch = PairCollator(rows, retriever.inputs, chunks=2, equal_chunks=True)([{"row": n} for n in range(len(rows))])
    objective = RetrievalObjective(pipeline, temperature=0.1, short=short, grad_cache=grad_cache)
    loss = objective(RetrieverTrainer.collect_features(None, batch)[0])["contrastive"]
    loss.backward()
    found = {name: p.grad for name, p in pipeline.named_parameters() if p.grad is not None}
    return loss.detach(), {name: gradient for name, gradient in found.items() if gradient.abs().max() > 0}


def assert_same(found, wanted):
    """To rounding, which grows through the layers: a thousandth of each weight's largest gradient."""
    for name, gradient in found.items():
        apart, largest = (gradient - wanted[name]).abs().max(), wanted[name].abs().max()
        assert apart <= 1e-3 * largest + 1e-6, f"{name}: {apart} of {largest}"


@pytest.mark.parametrize("family", ALL)
@pytest.mark.parametrize("rank", [0, 4])
def test_loss_and_gradients_are_those_of_the_whole_layer(family_base, family, rank):
    config = TrainConfig(steps=1, lora_rank=rank, lora_dropout=0.0, precision="fp32")
    whole, wanted = gradients(Retriever.from_base(family_base(family), layers=2, device="cpu"), config, short=False)
    retriever = Retriever.from_base(family_base(family), layers=2, device="cpu")
    assert allows_short_last_layer(retriever.model) == (family != "qwen3_vl")
    if family == "qwen3_vl":  # the image's features are added again after each of its first layers
        return
    loss, found = gradients(retriever, config, short=True)
    torch.testing.assert_close(loss, whole, atol=1e-6, rtol=1e-5)
    assert found.keys() == wanted.keys()
    assert_same(found, wanted)


def test_with_gradients_computed_in_parts(family_base):
    config = TrainConfig(steps=1, lora_rank=0, precision="fp32")
    _, wanted = gradients(Retriever.from_base(family_base("qwen2_vl"), layers=2, device="cpu"), config, short=False)
    retriever = Retriever.from_base(family_base("qwen2_vl"), layers=2, device="cpu")
    _, found = gradients(retriever, config, short=True, grad_cache=2)
    assert_same(found, wanted)


def test_less_is_computed(family_base):
    """The MLP of the last layer sees one position an item, the layer before it all."""
    model = Retriever.from_base(family_base("llava"), layers=2, device="cpu").model
    seen = []
    for layer in decoder_of(model).layers:
        layer.mlp.register_forward_hook(lambda _module, inputs, _output: seen.append(tuple(inputs[0].shape[:2])))
    ids = torch.tensor([[5, 6, 7, 8], [5, 6, 0, 0]])
    mask = (ids > 0).long()
    with short_last_layer(model, mask):
        states = model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
    assert states.shape[:2] == (2, 1)
    assert seen == [(2, 4), (2, 1)]
    assert model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state.shape[:2] == (2, 4)


def test_where_it_is_not_allowed(family_base, monkeypatch):
    retriever = Retriever.from_base(family_base("qwen2_vl"), layers=2, device="cpu")
    retriever.model.train()
    assert allows_short_last_layer(retriever.model)
    assert all(module.training for module in retriever.model.modules())
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert not allows_short_last_layer(retriever.model)
    monkeypatch.delenv("ACCELERATE_USE_FSDP")
    choose_trainable(retriever, sentence_transformer(retriever), TrainConfig(steps=1, gradient_checkpointing=True))
    assert not allows_short_last_layer(retriever.model)


def test_a_stage_trains_the_same_weights(family_base, tmp_path, monkeypatch):
    """Three steps with dropout off, and the whole layer in their place."""
    config = TrainConfig(steps=3, batch_size=2, lora_rank=0, precision="fp32", learning_rate=1e-3, projector_rate=0)
    retrievers = []
    for name in ("short", "whole"):
        if name == "whole":
            monkeypatch.setattr(stage, "allows_short_last_layer", lambda _model: False)
        retriever = Retriever.from_base(family_base("qwen2_vl"), layers=2, device="cpu")
        stage.train(retriever, pairs(), config, tmp_path / name, show_progress=False)
        retrievers.append(retriever)
    short, whole = (dict(decoder_of(one.model).named_parameters()) for one in retrievers)
    start = dict(
        decoder_of(Retriever.from_base(family_base("qwen2_vl"), layers=2, device="cpu").model).named_parameters()
    )
    assert (short["layers.1.mlp.up_proj.weight"] - start["layers.1.mlp.up_proj.weight"]).abs().max() > 1e-4
    for name, weight in short.items():
        torch.testing.assert_close(weight, whole[name], atol=2e-4, rtol=1e-2)
