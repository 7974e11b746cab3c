"""Comparing two evaluations: closed forms of the bootstrap, the slow way, and refusals."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from puma.cli import app as cli
from puma.errors import InputError
from puma.evaluation.compare import bootstrap_means, compare, interval


def document(ranks, *, pool="local", model="m", size=100, **benchmark):
    """A results document of one pool."""
    named = {"root": "bench", "dataset": "tiny", "split": "test", "instruction": "first"} | benchmark
    tables = {task: {"pool": size, "queries": len(own)} for task, own in ranks.items()}
    if pool == "global":
        tables = {task: {"global": table} for task, table in tables.items()}
    return {
        "format": 1,
        "model": model,
        "fingerprint": model,
        "benchmark": named,
        "tables": tables,
        "per_query": {pool: ranks},
    }


def ranks_of(values):
    return {f"9:{number}": value for number, value in enumerate(values)}


def one_task(a, b, **options):
    return compare(document({"0": ranks_of(a)}, model="a"), document({"0": ranks_of(b)}, model="b"), **options)


def test_rates_differences_and_counts():
    found = one_task([1, 11, None, 10], [11, 2, 3, 1])
    row = found["tasks"]["0"]
    assert (row["a"], row["b"], row["difference"]) == (0.5, 0.75, 0.25)
    assert (row["better"], row["worse"], row["queries"]) == (2, 1, 4)
    row = one_task([1, 11, None, 10], [11, 2, 3, 1], metric="mrr@10")["tasks"]["0"]
    assert row["a"] == pytest.approx((1 + 1 / 10) / 4)
    assert row["difference"] == pytest.approx((-1 + 1 / 2 + 1 / 3 + 9 / 10) / 4)
    assert one_task([1, 5], [5, 1], metric="hit_rate@1")["tasks"]["0"]["difference"] == 0


def test_where_all_queries_gain_alike_the_interval_is_a_point():
    row = one_task([None] * 30, [1] * 30)["tasks"]["0"]
    assert (row["difference"], row["low"], row["high"]) == (1.0, 1.0, 1.0)
    row = one_task([3] * 30, [3] * 30)["tasks"]["0"]
    assert (row["difference"], row["low"], row["high"]) == (0.0, 0.0, 0.0)


def test_gains_of_0_and_1_give_the_binomials_quantiles():
    from scipy.stats import binom

    for gained, count in ((30, 100), (5, 400), (250, 500)):
        values = np.array([1.0] * gained + [0.0] * (count - gained))
        draws = bootstrap_means(values, 200_000, np.random.default_rng(0))
        wanted = binom.ppf([0.025, 0.975], count, gained / count) / count
        assert interval(draws) == pytest.approx(wanted, abs=1.01 / count)
        assert draws.mean() == pytest.approx(gained / count, abs=4 * np.sqrt(0.25 / count / 200_000))


def test_the_spread_is_the_standard_error_of_the_mean():
    values = np.random.default_rng(1).normal(size=200).round(3)
    draws = bootstrap_means(values, 100_000, np.random.default_rng(0))
    assert draws.std() == pytest.approx(values.std() / np.sqrt(200), rel=0.02)


@given(st.lists(st.sampled_from([-1.0, 0.0, 0.25, 1.0]), min_size=2, max_size=40))
def test_equals_drawing_one_by_one(values):
    values = np.array(values)
    fast = bootstrap_means(values, 4000, np.random.default_rng(0))
    slow = values[np.random.default_rng(1).integers(0, len(values), (4000, len(values)))].mean(1)
    error = values.std() / np.sqrt(len(values))
    assert fast.mean() == pytest.approx(slow.mean(), abs=6 * error / np.sqrt(2000) + 1e-12)
    assert fast.std() == pytest.approx(slow.std(), abs=0.12 * error + 1e-12)
    assert values.min() - 1e-12 <= fast.min() <= fast.max() <= values.max() + 1e-12


def test_blocks_only_bound_the_memory(monkeypatch):
    values = np.arange(10.0)
    monkeypatch.setattr("puma.evaluation.compare.BLOCK", 25)
    draws = bootstrap_means(values, 1001, np.random.default_rng(0))
    assert draws.shape == (1001,)
    assert draws.mean() == pytest.approx(4.5, abs=0.15)


def test_the_interval_covers_the_truth_as_often_as_it_says():
    random = np.random.default_rng(0)
    covered = 0
    for _ in range(400):
        values = random.choice([-1.0, 0.0, 1.0], p=[0.1, 0.6, 0.3], size=300)
        low, high = interval(bootstrap_means(values, 2000, random))
        covered += low <= 0.2 <= high
    assert 0.91 <= covered / 400 <= 0.985


def test_the_mean_is_over_tasks_and_narrower_than_they_are():
    random = np.random.default_rng(0)
    drawn = [{str(task): ranks_of(random.integers(1, 21, 200).tolist()) for task in (0, 3, 11)} for _ in range(2)]
    found = compare(document(drawn[0]), document(drawn[1]))
    rows, mean = list(found["tasks"].values()), found["mean"]
    assert list(found["tasks"]) == ["0", "3", "11"]
    for key in ("a", "b", "difference"):
        assert mean[key] == pytest.approx(np.mean([row[key] for row in rows]))
    widths = [row["high"] - row["low"] for row in rows]
    # Independent tasks: the variances add, so the width of the mean is the root of their squares' sum over 3.
    assert mean["high"] - mean["low"] == pytest.approx(np.sqrt(np.sum(np.square(widths))) / 3, rel=0.08)


def test_seeded_and_antisymmetric():
    a, b = [1, 2, 30, None, 5] * 9, [40, 1, 2, 7, 5] * 9
    first, again = one_task(a, b), one_task(a, b)
    assert first == again
    assert one_task(a, b, seed=1)["tasks"]["0"]["low"] == pytest.approx(first["tasks"]["0"]["low"], abs=0.03)
    back = one_task(b, a)["tasks"]["0"]
    assert back["difference"] == -first["tasks"]["0"]["difference"]
    assert back["low"] == pytest.approx(-first["tasks"]["0"]["high"], abs=0.03)


def test_the_order_of_queries_does_not_matter():
    a = ranks_of([1, 20, 3, None])
    b = dict(reversed(ranks_of([20, 1, 3, 4]).items()))
    row = compare(document({"0": a}), document({"0": b}))["tasks"]["0"]
    assert (row["better"], row["worse"]) == (2, 1)


def test_other_benchmarks_queries_tasks_and_pools_are_refused():
    base = document({"0": ranks_of([1, 2])})
    cases = [
        (document({"0": ranks_of([1, 2])}, dataset="other"), "dataset 'tiny' against 'other'"),
        (document({"0": ranks_of([1, 2])}, split="val"), "split 'test' against 'val'"),
        (document({"0": {"9:0": 1, "9:7": 2}}), r"different queries \(2 and 2, 2 of them in one only, as 9:1\)"),
        (document({"0": ranks_of([1, 2, 3])}), r"different queries \(2 and 3"),
        (document({"0": ranks_of([1, 2]), "3": ranks_of([1])}), "3 only in B"),
        (document({"0": ranks_of([1, 2])}, size=99), "100 candidates against 99"),
        (document({"0": ranks_of([1, 2])}, pool="global"), "no ranks per query on local pools; it has global"),
        (document({"0": ranks_of([1, 2])}) | {"per_query": {}}, "--json-out"),
    ]
    for other, match in cases:
        with pytest.raises(InputError, match=match):
            compare(base, other)
    both = document({"0": ranks_of([1, 2]), "3": ranks_of([1])})
    assert list(compare(base, both, tasks=["0"])["tasks"]) == ["0"]
    with pytest.raises(InputError, match=r"some of \['0'\].*got \['3'\]"):
        compare(base, both, tasks=["3"])


def test_bad_arguments():
    base = document({"0": ranks_of([1, 2])})
    for options, match in (
        ({"pool": "wide"}, "pool='wide'"),
        ({"metric": "recall@10"}, "metric='recall@10'"),
        ({"metric": "hit_rate@0"}, "metric='hit_rate@0'"),
        ({"resamples": 0}, "resamples=0"),
    ):
        with pytest.raises(InputError, match=match):
            compare(base, base, **options)


def test_what_differs_without_harm_is_noted():
    a, b = document({"0": ranks_of([1])}, model="a"), document({"0": ranks_of([1])}, model="b", instruction="none")
    assert compare(a, b)["notes"] == ["the instructions are 'first' in A and 'none' in B"]
    assert "one model" in compare(a, a)["notes"][0]


def test_the_command_prints_and_writes_json(tmp_path, capsys):
    for name, ranks in (("a", [1, 20, 30] * 20), ("b", [1, 2, 3] * 20)):
        (tmp_path / f"{name}.json").write_text(json.dumps(document({"0": ranks_of(ranks)}, model=name)))
    arguments = ["compare", str(tmp_path / "a.json"), str(tmp_path / "b.json")]
    assert cli.main(arguments) == 0
    out = capsys.readouterr().out
    row = next(line for line in out.splitlines() if line.split()[:1] == ["0"]).split()
    assert row[:6] == ["0", "60", "33.3", "100.0", "+66.7", "*"]
    assert row[-2:] == ["40", "0"]
    assert cli.main([*arguments, "--json", "--metric", "mrr@5"]) == 0
    assert json.loads(capsys.readouterr().out)["metric"] == "mrr@5"
    assert cli.main([*arguments, "--pool", "global"]) == 2
    assert "no ranks per query on global pools" in capsys.readouterr().err
    assert cli.main(["compare", str(tmp_path / "a.json"), str(tmp_path / "gone.json")]) == 2
