"""The folded tower: the same function, trained, and written back into the plain one."""

import copy

import pytest
import torch

from puma.mini.base.folding import folded_tower
from puma.retriever.model import Retriever


@pytest.fixture
def retriever(tiny_base):
    return Retriever.from_base(tiny_base, layers=1, prompt="short", dtype=torch.float32, device="cpu")


def outputs(tower):
    with torch.no_grad():
        return tower(
            pixel_values=torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
        ).last_hidden_state


def test_what_the_folded_tower_learns_is_in_the_plain_one(retriever):
    plain = retriever.model.vision_tower
    plain.encoder.blocks[0].projection.project_bn.weight.data[0] = 0  # a channel that its batch norm switches off
    before, state = outputs(plain), copy.deepcopy(plain.state_dict())
    with folded_tower(retriever):
        folded = retriever.model.vision_tower
        assert folded is not plain
        torch.testing.assert_close(outputs(folded), before, rtol=1e-3, atol=1e-3)
        assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in folded.modules())
        with torch.no_grad():
            for weight in folded.parameters():
                weight += 0.01 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
        learnt = outputs(folded)
    assert retriever.model.vision_tower is plain
    torch.testing.assert_close(outputs(plain), learnt, rtol=1e-3, atol=1e-3)
    assert not torch.allclose(learnt, before, atol=1e-2)
    assert all(torch.equal(plain.state_dict()[name], state[name]) for name in state if "running" in name)


def test_after_an_exception_the_tower_is_as_it_was(retriever):
    plain = retriever.model.vision_tower
    state = copy.deepcopy(plain.state_dict())

    def interrupted():
        with folded_tower(retriever):
            retriever.model.vision_tower.encoder.top_conv.weight.data += 1
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert retriever.model.vision_tower is plain
    assert all(torch.equal(value, state[name]) for name, value in plain.state_dict().items())
