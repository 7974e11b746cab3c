"""A run's clock: by steps, by time, over a kill."""

import pytest

from puma.errors import ConfigError
from puma.training import budget as module
from puma.training.budget import Budget
from puma.training.config import TrainConfig


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def test_without_minutes_the_steps_are_the_progress(tmp_path, clock):
    budget = Budget(TrainConfig(steps=10))
    budget.begin(0, 10)
    clock[0] += 1e6
    assert not budget.update(4, 10)
    assert budget.progress == 0.4
    assert not budget.is_spent(10)
    assert not budget.ends
    budget.save(tmp_path)
    assert not list(tmp_path.iterdir())


def test_with_minutes_rate_and_end_follow_the_time(clock):
    budget = Budget(TrainConfig(minutes=1, warmup=0.1, final_rate=0.2))
    budget.begin(0, module.UNBOUNDED)
    assert budget.rate() == 0
    rates = {}
    for second in (3, 6, 33, 60):
        clock[0] = 100 + second
        budget.update(second, module.UNBOUNDED)
        rates[second] = budget.rate()
    assert rates == pytest.approx({3: 0.5, 6: 1.0, 33: 0.6, 60: 0.2})
    assert budget.ends
    assert budget.is_spent(60)


def test_steps_end_a_run_with_minutes_too(clock):
    budget = Budget(TrainConfig(minutes=1, steps=4))
    budget.begin(0, 4)
    assert [budget.update(step, 4) for step in range(1, 5)] == [True] * 4
    assert budget.progress == 1


def test_a_resumed_run_keeps_what_it_has_spent(tmp_path, clock):
    config = TrainConfig(minutes=1)
    first = Budget(config)
    first.begin(0, module.UNBOUNDED)
    clock[0] += 45
    first.update(7, module.UNBOUNDED)
    first.save(tmp_path)
    clock[0] += 1000  # between the two
    second = Budget(config, str(tmp_path))
    second.begin(7, module.UNBOUNDED)
    assert second.progress == pytest.approx(0.75)
    clock[0] += 16
    second.update(8, module.UNBOUNDED)
    assert second.ends


def test_a_slow_run_takes_its_least_steps(tmp_path, clock):
    config = TrainConfig(minutes=1, least_steps=10, warmup=0.1, final_rate=0.2)
    budget = Budget(config)
    budget.begin(0, module.UNBOUNDED)
    for step in range(1, 11):
        clock[0] += 50
        budget.update(step, module.UNBOUNDED)
        assert budget.progress == pytest.approx(step / 10)
        assert budget.ends is budget.is_spent(step) is (step == 10)
    assert budget.rate() == pytest.approx(0.2)
    budget.save(tmp_path)
    resumed = Budget(config, str(tmp_path))
    assert not resumed.is_spent(9)
    assert resumed.is_spent(10)


def test_a_quick_run_ends_by_time_beyond_its_least_steps(clock):
    budget = Budget(TrainConfig(minutes=1, least_steps=10))
    budget.begin(0, module.UNBOUNDED)
    for step in range(1, 61):
        clock[0] += 1
        budget.update(step, module.UNBOUNDED)
        assert budget.progress == pytest.approx(step / 60)
    assert budget.ends


def test_least_steps_matter_with_minutes_alone(clock):
    with pytest.raises(ConfigError, match="least_steps=-1"):
        TrainConfig(minutes=1, least_steps=-1)
    budget = Budget(TrainConfig(steps=4, least_steps=10))
    budget.begin(0, 4)
    budget.update(4, 4)
    assert budget.progress == 1
    assert not budget.ends
