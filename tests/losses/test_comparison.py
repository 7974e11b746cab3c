"""One comparison for a loss and its figures, and one signature for all losses."""

import inspect

import pytest
import torch

from puma.errors import InputError
from puma.losses import LOSS_FUNCTIONS, LOSSES, comparison, mac_loss, negative_shares, split_losses, split_mac_loss
from puma.losses.comparison import compare

SHARED = {
    "queries", "candidates", "target_modality", "candidate_modality", "temperature", "hard_temperature", "exclude",
    "margin",
}  # fmt: skip
OWN = {"siglip": {"bias"}, "graph-cut": {"weight"}, "split-mac": {"other_weight"}}


def batch():
    g = torch.Generator().manual_seed(3)
    return torch.randn(4, 5, generator=g), torch.randn(6, 5, generator=g), torch.arange(4) % 2, torch.arange(6) % 2


@pytest.mark.parametrize("name", LOSSES)
def test_all_losses_share_one_signature(name):
    parameters = inspect.signature(LOSS_FUNCTIONS[name]).parameters
    assert parameters.keys() == SHARED | OWN.get(name, set())
    assert [p.kind for p in parameters.values()][4:] == [inspect.Parameter.KEYWORD_ONLY] * (len(parameters) - 4)
    with pytest.raises(TypeError):
        LOSS_FUNCTIONS[name](*batch(), temperature=0.1, hard_temperature=0.1, unknown=1.0)


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_and_its_shares_take_one_set_of_cosines(name, monkeypatch):
    options = {"temperature": 0.3, "hard_temperature": 0.2, "margin": 0.2}
    plain = LOSS_FUNCTIONS[name](*batch(), **options), negative_shares(*batch(), **options)
    made, calls = compare(*batch(), **options), []
    monkeypatch.setattr(comparison, "cosine_scores", lambda *given: calls.append(given))
    if name in ("facility-location", "graph-cut"):  # these score the positives, too
        monkeypatch.undo()
    assert torch.equal(LOSS_FUNCTIONS[name].of(made), plain[0])
    assert negative_shares.of(made) == plain[1]
    assert calls == []


@pytest.mark.parametrize("function", [mac_loss, negative_shares, split_mac_loss, split_losses])
def test_two_temperatures_are_needed_where_both_are_used(function):
    with pytest.raises(InputError, match="hard_temperature=None"):
        function(*batch(), temperature=0.1)
