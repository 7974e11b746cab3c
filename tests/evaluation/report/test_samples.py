"""Which queries a report shows: successes, failures, the right one beside them; file names; ties."""

import math

import pytest

from puma.data.mbeir import Benchmark
from puma.errors import DataError
from puma.evaluation.report.samples import best_rank, run_sheets
from puma.evaluation.report.sheets import Thumbnails, sheet_html
from puma.evaluation.runs import write_run
from support.benchmarks import ordered_images, run_of


@pytest.fixture
def root(tmp_path):
    return ordered_images(tmp_path)


def test_successes_and_failures_are_told_apart(root, tmp_path):
    write_run(
        tmp_path / "runs/task0_test_local.run", run_of(lambda number: {0: 1, 1: 1, 2: 12, 3: None}.get(number, 5))
    )
    good, bad = run_sheets(root, tmp_path / "runs")
    assert good.title == "Task 0 text → image: right at once (2 of 8)"
    assert bad.title == "Task 0 text → image: nothing right among 10 (2 of 8)"
    assert [row.query.text for row in good.rows] == ["word 0", "word 1"]
    assert all(row.results[0].right and row.wanted is None and len(row.results) == 5 for row in good.rows)
    late, never = bad.rows
    assert (late.rank, late.wanted.item.image.name, late.wanted.score) == (12, "2.png", pytest.approx(0.89))
    assert (never.rank, never.depth, never.wanted.item.image.name) == (None, 19, "3.png")
    assert math.isnan(never.wanted.score)
    page = sheet_html(bad, Thumbnails())
    assert "right, rank 12 (0.890)" in page
    assert "right, beyond rank 19" in page
    assert "right at 12 only" in page
    assert page.count('class="row six"') == 2


def test_ties_count_against_the_run_here_too(root, tmp_path):
    assert best_rank(["a"], {"a": 0.5, "b": 0.5, "c": 0.1}) == 2
    assert best_rank(["a", "c"], {"a": 0.5, "b": 0.4, "c": 0.9}) == 1
    assert best_rank(["a"], {"b": 0.4}) is None
    write_run(
        tmp_path / "runs/task0_test_local.run", {f"9:{n + 100}": {f"9:{m}": 0.5 for m in range(20)} for n in range(8)}
    )
    (bad,) = run_sheets(root, tmp_path / "runs")
    assert not any(result.right for row in bad.rows for result in row.results)
    assert all(row.rank == 20 for row in bad.rows)


def test_as_many_as_asked_for_evenly_drawn(root, tmp_path):
    write_run(tmp_path / "runs/task0_test_local.run", run_of(lambda number: 1))
    (good,) = run_sheets(root, tmp_path / "runs", shown=3)
    assert [row.query.text for row in good.rows] == ["word 0", "word 3", "word 7"]


def test_files_by_name_local_before_global_others_passed_over(root, tmp_path):
    runs = tmp_path / "runs"
    write_run(runs / "mbeir_tiny_task0_union_pool_test_k10_run.txt", run_of(lambda number: 1))
    write_run(runs / "task0_val_local.run", run_of(lambda number: None))
    (runs / "notes.txt").write_text("not a run")
    (sheet,) = run_sheets(root, runs)
    assert sheet.title == "Task 0 text → image, the global pool: right at once (8 of 8)"
    write_run(runs / "task0_test_local.run", run_of(lambda number: None))
    (sheet,) = run_sheets(root, runs)
    assert "nothing right among 10 (8 of 8)" in sheet.title
    assert run_sheets(root, runs / "task0_test_local.run")[0].title == sheet.title
    assert Benchmark(root).tasks("test") == [0]


def test_a_run_of_another_pool_is_named(root, tmp_path):
    write_run(tmp_path / "runs/task0_test_local.run", {"9:100": {"9:77": 1.0}})
    with pytest.raises(DataError, match=r"task0_test_local.run: names candidate 9:77"):
        run_sheets(root, tmp_path / "runs")
