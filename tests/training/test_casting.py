"""Under autocast a step casts each weight once, however many chunks it has, and the loss stays outside autocast."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from puma.losses import batch_keys
from puma.training.config import TrainConfig
from puma.training.objective import RetrievalObjective
from puma.training.states import StepStates


class OneLayer(torch.nn.Module):
    """A model of one weight, each of whose calls opens an autocast of its own, as accelerate makes it do."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(6, 5, generator=torch.Generator().manual_seed(0)))

    def forward(self, inputs):
        with torch.autocast("cpu", torch.bfloat16):
            return {"token_embeddings": torch.nn.functional.linear(inputs["x"], self.weight).float()}


class Casts(TorchDispatchMode):
    """Counts casts of a tensor of this shape."""

    def __init__(self, shape):
        super().__init__()
        self.shape, self.count = shape, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten._to_copy.default and args[0].shape == self.shape:
            self.count += 1
        return func(*args, **(kwargs or {}))


def chunks():
    generator = torch.Generator().manual_seed(1)
    return [
        {
            "x": torch.randn(2, 3, 5, generator=generator),
            "attention_mask": torch.ones(2, 3, dtype=torch.long),
            batch_keys.ROWS: torch.arange(2) + 2 * n,
        }
        for n in range(3)
    ]


def step(autocast, grad_cache=0):
    model = OneLayer()
    with Casts(model.weight.shape) as casts:
        states, _ = StepStates((), grad_cache, None, 1.0, autocast=autocast)(model, chunks())
    states.pow(2).sum().backward()
    return casts.count, states.detach(), model.weight.grad


def test_a_weight_is_cast_once_a_step():
    once, states, gradient = step(torch.bfloat16)
    thrice, wanted, slow = step(None)
    assert (once, thrice) == (1, 3)
    assert torch.equal(states, wanted)
    assert states.dtype == torch.float32
    # The chunks' gradients are added up in bf16, which keeps 8 bits.
    assert torch.allclose(gradient, slow, atol=2**-7 * float(slow.abs().max()))


def test_with_grad_cache_each_piece_casts_for_itself():
    assert step(torch.bfloat16, grad_cache=2)[0] == step(None, grad_cache=2)[0]


@pytest.mark.parametrize(("precision", "wanted"), [("bf16", torch.bfloat16), ("fp32", None)])
def test_a_stage_casts_in_its_precision(precision, wanted, monkeypatch):
    config = TrainConfig(precision=precision)
    assert RetrievalObjective.from_config(OneLayer(), config).states.autocast is wanted
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert RetrievalObjective.from_config(OneLayer(), config).states.autocast is None
