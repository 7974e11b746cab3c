"""The plan for a billion items and the simulation of the service: their arithmetic; the page holds their output."""

import random
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
pytest.importorskip("simpy")
import scale_plan
from scale_plan import Assumed
from serving_simulation import Times, simulate

PAGE = scale_plan.PAGE.read_text()


def test_the_page_holds_the_plan():
    assert scale_plan.section(Assumed()) in PAGE


def test_parameters_are_those_of_the_dry_run():
    """docs/recipes.md: 4.0 B parameters with token embeddings at 12 layers, 3.5 B without."""
    assert pytest.approx(3.5e9, rel=0.02) == 12 * scale_plan.LAYER + scale_plan.TOWER


def test_flops_grow_by_the_layer_and_hours_by_the_item():
    assumed = Assumed()
    one = scale_plan.flops(13, assumed) - scale_plan.flops(12, assumed)
    assert one * 16 == pytest.approx(scale_plan.flops(28, assumed) - scale_plan.flops(12, assumed))
    assert scale_plan.gpu_hours(12, Assumed(items=2e9)) == pytest.approx(2 * scale_plan.gpu_hours(12, assumed))
    assert scale_plan.gpu_hours(12, Assumed(gpu_share=0.8)) == pytest.approx(scale_plan.gpu_hours(12, assumed) / 2)


def test_sizes_of_codes_are_those_measured():
    rows = scale_plan.results("vector_sizes")["val"]["puma-mini"]["quality"]
    measured = {(row["width"], row["code"]): row["bytes"] for row in rows}
    for (width, code), size in measured.items():
        assert scale_plan.code_bytes(width)[code] == size


def test_one_client_waits_for_its_own_text_only():
    times = Times({1: [0.02], 64: [0.64]}, request=0.001)
    found = simulate(times, seconds=30, clients=1)
    assert found["p50_ms"] == pytest.approx(21)
    assert found["items_per_second"] == pytest.approx(1 / 0.021, rel=0.01)
    assert found["items_each"] == 1


def test_full_batches_give_what_the_encoder_does():
    times = Times({1: [0.02], 64: [0.64]}, request=0.0)
    found = simulate(times, seconds=60, clients=256)
    assert found["items_per_second"] == pytest.approx(100, rel=0.02)
    assert found["p50_ms"] == pytest.approx(256 / 100 * 1e3, rel=0.05)  # Little's law
    twice = simulate(times, seconds=60, clients=256, replicas=2)
    assert twice["items_per_second"] == pytest.approx(200, rel=0.02)


def test_one_text_a_batch_is_a_queue_whose_wait_is_known():
    """M/D/1: the mean wait is service * load / (2 * (1 - load))."""
    service, load = 0.01, 0.7
    times = Times({1: [service], 64: [64 * service]}, request=0.0)
    found = simulate(times, seconds=2000, rate=load / service, max_batch=1, max_wait=0.0)
    wait = service * load / (2 * (1 - load))
    assert found["mean_ms"] == pytest.approx((service + wait) * 1e3, rel=0.03)


def test_littles_law_holds_where_clients_wait():
    times = Times({1: [0.01, 0.03], 8: [0.05, 0.09], 64: [0.4, 0.6]}, request=0.002)
    found = simulate(times, seconds=300, clients=30, max_batch=16, seed=3)
    assert found["items_per_second"] * found["mean_ms"] / 1e3 == pytest.approx(30, rel=0.02)
    assert found["items_each"] <= 16


def test_times_are_interpolated_between_sizes():
    times = Times({1: [0.01], 3: [0.03]}, request=0.5)
    assert times.batch(2, random.Random(0)) == pytest.approx(0.02 + 2 * 0.5)
