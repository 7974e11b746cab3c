"""Anyone's run files: names that say their task, names that do not, what is missing, what is outside the pool."""

import numpy as np
import pytest

from puma.data.mbeir import qrels_path, read_qrels
from puma.errors import DataError, InputError
from puma.evaluation.mbeir import evaluate, evaluate_runs
from puma.evaluation.runs import read_run, write_run
from puma.evaluation.scored_runs import RunName, run_name_of
from support.benchmarks import named_tasks
from support.encoders import NamedEncoder


@pytest.fixture
def root(tmp_path):
    return named_tasks(tmp_path / "root")


@pytest.fixture
def runs(root, tmp_path):
    evaluate(NamedEncoder(), root, run_dir=tmp_path / "runs", progress=False)
    return tmp_path / "runs"


def without(table, *names):
    return {
        key: without(value, *names) if key == "global" else value for key, value in table.items() if key not in names
    }


def test_our_own_runs_give_the_encoders_tables(root, runs):
    expected = evaluate(NamedEncoder(), root, details=True, progress=False)
    tables = evaluate_runs(runs, root, details=True)
    assert {task: without(table, "run") for task, table in tables.items()} == expected
    assert tables["0"]["run"] == {
        "file": "task0_test_local.run",
        "missing_queries": 0,
        "other_queries": 0,
        "outside_pool": 0,
        "depth": 12,
    }
    assert tables["0"]["global"]["run"]["depth"] == 36


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("task0_test_local.run", RunName(None, 0, "test", "local")),
        ("visualnews_task3_val_global.run", RunName("visualnews", 3, "val", "global")),
        ("mbeir_webqa_task2_single_pool_test_k10_run.txt", RunName("webqa", 2, "test", "local")),
        ("mbeir_mscoco_task0_union_pool_test_k50_run.txt", RunName("mscoco", 0, "test", "global")),
        ("mine.run", None),
        ("task0_test_wide.run", None),
    ],
)
def test_names_say_task_split_and_pool(name, said):
    assert run_name_of(name) == said


def test_uniirs_names_and_seven_columns_are_read(root, runs, tmp_path):
    expected = evaluate_runs(runs, root)
    folder = tmp_path / "uniir"
    folder.mkdir()
    for task in (0, 3, 7):
        for pool, name in (("local", "single"), ("global", "union")):
            lines = (runs / f"task{task}_test_{pool}.run").read_text().splitlines()
            target = folder / f"mbeir_tiny_task{task}_{name}_pool_test_k1000_run.txt"
            target.write_text("".join(f"{line} {task}\n" for line in lines))
    (folder / "mbeir_tiny_task0_single_pool_val_k10_run.txt").write_text("of another split")
    (folder / "notes.md").write_text("not a run")
    tables = evaluate_runs(folder, root)
    assert {task: without(table, "run") for task, table in tables.items()} == {
        task: without(table, "run") for task, table in expected.items()
    }


def test_a_file_without_a_telling_name_is_sorted_by_its_queries(root, runs, tmp_path):
    expected = evaluate_runs(runs, root)
    mixed = {**read_run(runs / "task0_test_local.run"), **read_run(runs / "task7_test_global.run")}
    write_run(tmp_path / "anything", mixed)
    tables = evaluate_runs(tmp_path / "anything", root)
    assert list(tables) == ["0", "7"]
    assert without(tables["0"], "run") == without(expected["0"], "run", "global")
    assert set(tables["7"]) == {"global"}  # some of its documents are of the global pool only
    assert without(tables["7"]["global"], "run") == without(expected["7"]["global"], "run")
    wide = evaluate_runs(tmp_path / "anything", root, pools=("global",))
    assert set(wide["0"]) == {"global"}
    assert wide["0"]["global"]["hit_rate@5"] == tables["0"]["hit_rate@5"]  # the run is as it is; the pool is larger


def test_missing_queries_are_misses_and_foreign_documents_keep_their_places(root, tmp_path):
    qrels = read_qrels(qrels_path(root, "tiny", 0, "test"))
    qids = list(qrels)
    right = {qid: next(did for did, grade in row.items() if grade > 0) for qid, row in qrels.items()}
    run = {qid: {right[qid]: 1.0} for qid in qids[:3]}
    run[qids[1]]["elsewhere:1"] = 2.0  # before the right one
    run["9:99"] = {"9:100": 1.0}
    write_run(tmp_path / "task0_test_local.run", run)
    table = evaluate_runs(tmp_path / "task0_test_local.run", root, ks=(1, 2), details=True)["0"]
    assert table["hit_rate@1"] == pytest.approx(2 / 7)
    assert table["hit_rate@2"] == pytest.approx(3 / 7)
    assert table["mrr@10"] == pytest.approx((1 + 0.5 + 1) / 7)
    assert table["run"] == {
        "file": "task0_test_local.run",
        "missing_queries": 4,
        "other_queries": 1,
        "outside_pool": 1,
        "depth": 2,
    }
    assert (table["queries"], table["skipped"]) == (7, 4)
    assert table["skipped_items"] == [f"{qid}: not in the run" for qid in qids[3:]]
    assert table["per_query"] == dict(zip(qids, [1, 2, 1, None, None, None, None], strict=True))
    assert table["confusion"]["none"] == pytest.approx(4 / 7)


def test_ties_in_a_run_count_against_it(root, tmp_path):
    qrels = read_qrels(qrels_path(root, "tiny", 0, "test"))
    flat = {qid: {f"9:{n}": 0.5 for n in range(100, 112)} for qid in qrels}
    write_run(tmp_path / "task0_test_local.run", flat)
    table = evaluate_runs(tmp_path / "task0_test_local.run", root, ks=(1, 8), details=True)["0"]
    most = {qid: 12 - sum(grade > 0 for grade in row.values()) for qid, row in qrels.items()}
    assert table["per_query"] == {qid: wrong + 1 for qid, wrong in most.items()}
    assert table["hit_rate@1"] == 0.0
    assert table["hit_rate@8"] == np.mean([wrong < 8 for wrong in most.values()])


def test_two_runs_for_one_task_and_none_at_all_are_refused(root, runs, tmp_path):
    run = read_run(runs / "task0_test_local.run")
    write_run(runs / "mbeir_tiny_task0_single_pool_test_k10_run.txt", run)
    with pytest.raises(DataError, match="are both runs of task 0, local pool"):
        evaluate_runs(runs, root)
    (runs / "mbeir_tiny_task0_single_pool_test_k10_run.txt").unlink()
    write_run(runs / "mine.run", run)
    with pytest.raises(DataError, match="are both runs of task 0, local pool"):
        evaluate_runs(runs, root)
    (runs / "mine.run").unlink()
    (runs / "task3_test_local.run").unlink()
    (runs / "task3_test_global.run").unlink()
    assert list(evaluate_runs(runs, root)) == ["0", "7"]
    with pytest.raises(InputError, match=r"no run file for the tasks \[3\]"):
        evaluate_runs(runs, root, tasks=["0", "3"])
    with pytest.raises(InputError, match="no such run file"):
        evaluate_runs(tmp_path / "nothing.run", root)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no run files in this folder"):
        evaluate_runs(tmp_path / "empty", root)
    write_run(tmp_path / "strange.run", {"1:1": {"1:1": 1.0}})
    with pytest.raises(InputError, match="no run file for the tasks"):
        evaluate_runs(tmp_path / "strange.run", root)
    with pytest.raises(InputError, match="pools must be"):
        evaluate_runs(runs, root, pools="local")


def test_runs_of_several_data_sets_go_by_their_labels(root, tmp_path):
    named_tasks(root, dataset="far", number=4, tasks=(0, 8))
    expected = evaluate(NamedEncoder(), root, run_dir=tmp_path / "runs", progress=False)
    assert list(expected) == ["far_task0", "far_task8", "tiny_task0", "tiny_task3", "tiny_task7"]
    assert sorted(path.name for path in (tmp_path / "runs").iterdir())[0] == "far_task0_test_global.run"
    tables = evaluate_runs(tmp_path / "runs", root)
    assert {task: without(table, "run") for task, table in tables.items()} == expected
    one = evaluate_runs(tmp_path / "runs", root, dataset="far")
    assert list(one) == ["0", "8"]
    assert without(one["8"], "run") == expected["far_task8"]
