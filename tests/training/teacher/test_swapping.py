"""The seam to torch's and peft's private parts: they are there, they do what is relied on, and all is put back."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import Linear
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from puma.errors import ModelError
from puma.pruning import decoder_of
from puma.training.teacher import swapping
from support import tiny


@pytest.fixture
def model():
    return tiny.build("qwen3_vl")


@pytest.fixture
def adapted(model):
    peft = get_peft_model(model, LoraConfig(r=2, target_modules=r".*layers\.\d+\..*q_proj"))
    for name, weight in peft.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(weight)
    return peft


def test_peft_has_the_private_names():
    """If this fails, peft has renamed what puma.training.teacher.swapping names: adapters would stay on in the
    teacher."""
    layer = Linear(nn.Linear(3, 3), "default", config=LoraConfig(), r=2)
    assert layer._disable_adapters is False
    assert {swapping.SWITCH, swapping.PARTS} <= {*vars(layer), *vars(BaseTunerLayer), *dir(layer)}
    nn.init.normal_(layer.lora_B["default"].weight)
    given = torch.ones(1, 3)
    with swapping.adapters_off([layer]):
        assert layer.disable_adapters
        assert torch.equal(layer(given), layer.base_layer(given))
    assert not torch.equal(layer(given), layer.base_layer(given))


def test_a_peft_without_the_switch_is_refused():
    class Renamed(nn.Module):
        adapter_layer_names = ("lora_A",)

    assert swapping.adapted_modules(nn.Sequential(nn.Linear(1, 1))) == []
    with pytest.raises(ModelError, match="_disable_adapters"):
        swapping.adapted_modules(nn.Sequential(Renamed()))


def test_gradient_flags_and_what_was_off_stay_as_they_are(adapted):
    layers = swapping.adapted_modules(adapted)
    layers[0]._disable_adapters = True
    frozen = next(swapping.adapter_parameters(layers[1]))
    frozen.requires_grad_(False)
    before = [weight.requires_grad for weight in adapted.parameters()]
    with swapping.adapters_off(layers):
        assert all(layer.disable_adapters for layer in layers)
        assert [weight.requires_grad for weight in adapted.parameters()] == before
    assert [layer.disable_adapters for layer in layers] == [True] + [False] * (len(layers) - 1)
    assert [weight.requires_grad for weight in adapted.parameters()] == before


def test_all_is_put_back_after_an_exception(adapted):
    decoder = decoder_of(adapted.get_base_model())
    adapted.train()
    kept, modules = decoder.layers, list(decoder.modules())
    settings, names = dict(vars(decoder.config)), sorted(decoder.state_dict())
    other = nn.ModuleList(list(kept)[:1])

    def fail(*args, **kwargs):
        assert decoder.layers is other
        assert decoder.config.num_hidden_layers == 1
        assert not decoder.training
        raise RuntimeError("in the forward")

    with (
        pytest.raises(RuntimeError, match="in the forward"),
        swapping.swapped_layers(decoder, other, {"num_hidden_layers": 1}),
        swapping.eval_mode(modules),
        swapping.adapters_off(swapping.adapted_modules(decoder)),
        swapping.swapped_forward(decoder, fail),
    ):
        decoder(inputs_embeds=torch.zeros(1, 1, 1))
    assert decoder.layers is kept
    assert dict(vars(decoder.config)) == settings
    assert sorted(decoder.state_dict()) == names
    assert all(module.training for module in modules)
    assert "forward" not in vars(decoder)
    assert not any(layer.disable_adapters for layer in swapping.adapted_modules(decoder))


def test_a_forward_that_was_set_before_comes_back():
    module = nn.Linear(1, 1)
    own = module.forward = lambda given: given + 1
    with swapping.swapped_forward(module, lambda given: given + 2):
        assert module(torch.zeros(1)) == 2
    assert module.forward is own


def test_the_last_layers_mlp_computes_one_token():
    mlp = nn.Linear(2, 2)
    hidden, mask = torch.randn(2, 3, 2), torch.tensor([[1, 1, 1], [1, 1, 0]])
    out = swapping.at_last_token(mlp, mask)(hidden)
    assert torch.allclose(out[0, 2], mlp(hidden[0, 2]))
    assert torch.allclose(out[1, 1], mlp(hidden[1, 1]))
    assert int((out != 0).any(-1).sum()) == 2
