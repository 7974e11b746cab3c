"""Vision towers folded for inference: the same vectors, the same weights, nothing left behind."""

import pytest
import torch
from transformers import EfficientNetConfig, EfficientNetModel

from puma.retriever.encoding.folding import fast_copy, fast_tower


class Holder(torch.nn.Module):
    def __init__(self, tower):
        super().__init__()
        self.vision_tower = tower


@pytest.fixture
def tower():
    torch.manual_seed(0)
    config = EfficientNetConfig(
        image_size=32, width_coefficient=0.25, depth_coefficient=1.0, hidden_dim=320, hidden_act="relu6"
    )
    tower = EfficientNetModel(config).eval()
    for module in tower.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return tower


def outputs(model, pixels):
    with torch.inference_mode():
        return model.vision_tower(pixels).last_hidden_state


def test_the_folded_tower_gives_the_same_and_leaves_the_plain_one(tower):
    model, pixels = Holder(tower), torch.randn(2, 3, 32, 32)
    plain, names = outputs(model, pixels), list(model.state_dict())
    with fast_tower(model):
        assert model.vision_tower is not tower
        inside = model.vision_tower
        torch.testing.assert_close(outputs(model, pixels), plain, rtol=1e-4, atol=1e-5)
        with fast_tower(model):  # another thread: nothing left to fold
            assert model.vision_tower is inside
    assert model.vision_tower is tower
    assert list(model.state_dict()) == names
    with fast_tower(model):
        assert model.vision_tower is inside  # made once


def test_changed_weights_are_folded_anew(tower):
    model, pixels = Holder(tower), torch.randn(1, 3, 32, 32)
    with fast_tower(model):
        before = outputs(model, pixels)
    with torch.no_grad():
        tower.encoder.top_bn.bias.add_(0.5)
    plain = outputs(model, pixels)
    with fast_tower(model):
        after = outputs(model, pixels)
    torch.testing.assert_close(after, plain, rtol=1e-4, atol=1e-5)
    assert (after - before).abs().max() > 0.1


def test_other_towers_types_and_modes_stay_as_they_are(tower):
    for model in (Holder(torch.nn.Linear(2, 2)), torch.nn.Linear(2, 2), Holder(tower.bfloat16())):
        inside = getattr(model, "vision_tower", None)
        with fast_tower(model):
            assert getattr(model, "vision_tower", None) is inside
    training = Holder(tower.float().train())
    with fast_tower(training):
        assert training.vision_tower is tower


def test_a_copy_of_something_else_is_a_plain_copy():
    linear = torch.nn.Linear(3, 3)
    assert (fast_copy(linear).weight == linear.weight).all()
