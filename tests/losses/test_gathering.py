"""1, 2 and 3 real processes (gloo) give the same parameter gradients, on uneven parts of one batch, under DDP."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from puma.errors import InputError
from puma.losses import LOSSES
from puma.losses.distillation import KINDS
from puma.losses.gathering import gather_rows, gather_sizes, rank, world_size

CASES = [*LOSSES, *(f"{loss}-symmetric" for loss in LOSSES), "margin", *KINDS, "cached"]
CASES += ["split-mac-margin", "split-mac-cached", "any"]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """{world size: [results of each rank]}."""
    folder = tmp_path_factory.mktemp("ranks")
    script = Path(__file__).parents[1] / "support" / "ranks.py"
    done = subprocess.run(
        [sys.executable, str(script), str(folder)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return {w: [torch.load(folder / f"{w}-{r}.pt") for r in range(w)] for w in (1, 2, 3)}


@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize("case", CASES)
def test_gradients_are_those_of_one_process(results, case, world):
    one = results[1][0][case]
    for other in results[world]:
        gradients = other[case]["gradient"]
        assert gradients.keys() == one["gradient"].keys()
        for name, gradient in gradients.items():
            size = float(one["gradient"][name].abs().max())
            assert size > 1e-3, "a gradient of nothing would agree with anything"
            assert float((gradient - one["gradient"][name]).abs().max()) < 1e-5 * max(1.0, size)


@pytest.mark.parametrize("world", [2, 3])
def test_the_mean_of_the_ranks_losses_is_the_one_loss(results, world):
    for case in CASES:
        for term, value in results[1][0][case]["terms"].items():
            mean = sum(each[case]["terms"][term] for each in results[world]) / world
            assert mean == pytest.approx(value, rel=1e-5), (case, term)


def test_the_cached_gradient_is_the_plain_one(results):
    plain, cached = results[1][0]["mac-symmetric"], results[1][0]["cached"]
    assert cached["terms"]["contrastive"] == pytest.approx(plain["terms"]["contrastive"], rel=1e-6)


def test_cases_differ_in_more_than_their_names(results):
    terms = [results[1][0][case]["terms"]["contrastive"] for case in CASES if case.startswith(("split-mac", "any"))]
    assert len({round(value, 4) for value in terms}) == len(terms) == 5


def test_rows_come_own_first_and_gradients_add_up(results):
    """Rank r has r + 1 rows of value r, and weighs every gathered row by r + 1: each row's gradient is the sum."""
    for world in (2, 3):
        for r, each in enumerate(results[world]):
            rows = each["rows"]
            assert rows["sizes"] == list(range(1, world + 1))
            order = [*range(r, world), *range(r)]
            assert rows["gathered"][:, 0].tolist() == [float(s) for s in order for _ in range(s + 1)]
            assert torch.equal(rows["gradient"], torch.full((r + 1, 2), world * (world + 1) / 2))


def test_alone_everything_is_itself():
    rows = torch.ones(3, 2)
    assert (world_size(), rank()) == (1, 0)
    assert gather_sizes([3, 1], torch.device("cpu")) == [[3, 1]]
    assert gather_rows(rows, [3]) is rows
    with pytest.raises(InputError, match=r"counts=\[2\]"):
        gather_rows(rows, [2])
    with pytest.raises(InputError, match="1 processes"):
        gather_rows(rows, [3, 3])
