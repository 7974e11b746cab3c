"""Finding a benchmark's files, and checking it against itself."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from puma.data.mbeir import (
    ALL,
    Benchmark,
    Candidate,
    Query,
    check,
    global_pool_path,
    instructions_path,
    open_benchmark,
    pool_path,
    qrels_path,
    query_path,
    read_queries,
    write_instructions,
    write_pool,
    write_qrels,
    write_queries,
)
from puma.errors import DataError, InputError
from support import benchmarks


def make(root: Path, dataset: str = "toy", number: int = 30) -> Path:
    pool = [Candidate(f"{number}:{n}", f"text {n}", None, "text") for n in range(1, 4)]
    queries = [Query(f"{number}:{n}", None, f"pics/{n}.png", "image", (f"{number}:{n}",), (), 3) for n in range(1, 3)]
    for query in queries:
        (root / "pics").mkdir(parents=True, exist_ok=True)
        (root / query.image_path).write_bytes(b"x")  # type: ignore[operator]
    write_queries(query_path(root, dataset, 3, "test"), queries)
    write_pool(pool_path(root, dataset, 3, "test"), pool)
    write_pool(global_pool_path(root, "test"), pool)
    write_qrels(qrels_path(root, dataset, 3, "test"), {q.qid: {q.positives[0]: 1} for q in queries}, 3)
    write_instructions(instructions_path(root), [("image", "text", dataset, number, ["What is it?", "Name it."])])
    return root


def test_everything_is_found(tmp_path: Path) -> None:
    benchmark = Benchmark(make(tmp_path))
    assert (benchmark.dataset, benchmark.splits(), benchmark.tasks("test"), benchmark.tasks("val")) == (
        "toy",
        ["test"],
        [3],
        [],
    )
    assert [q.qid for q in benchmark.queries(3, "test")] == ["30:1", "30:2"]
    assert [c.did for c in benchmark.pool(3, "test")] == ["30:1", "30:2", "30:3"]
    assert benchmark.global_pool("test") == benchmark.pool(3, "test")
    assert benchmark.qrels(3, "test") == {"30:1": {"30:1": 1}, "30:2": {"30:2": 1}}
    assert benchmark.instructions(3) == ["What is it?", "Name it."]
    assert benchmark.instruction(3) == "What is it?"
    check(tmp_path)


def test_a_pool_shared_by_all_splits_is_found(tmp_path: Path) -> None:
    path = pool_path(make(tmp_path), "toy", 3, "test")
    path.rename(path.with_name("mbeir_toy_task3_cand_pool.jsonl"))
    assert len(Benchmark(tmp_path).pool(3, "test")) == 3


def test_several_data_sets_must_be_told_apart(tmp_path: Path) -> None:
    make(make(tmp_path), "other", 31)
    with pytest.raises(DataError, match=r"other, toy"):
        Benchmark(tmp_path)
    assert Benchmark(tmp_path, "other").queries(3, "test")[0].qid == "31:1"
    with pytest.raises(DataError, match="no data set 'third'"):
        Benchmark(tmp_path, "third")


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        Benchmark(tmp_path / "none")
    with pytest.raises(DataError, match="no query files"):
        Benchmark(tmp_path)
    benchmark = Benchmark(make(tmp_path))
    with pytest.raises(DataError, match="task1_test"):
        benchmark.queries(1, "test")
    with pytest.raises(DataError, match="no prompts for data set 30"):
        benchmark.instructions(1)
    with pytest.raises(DataError, match="task must be one of"):
        benchmark.instructions(5)
    qrels_path(tmp_path, "toy", 3, "test").unlink()
    with pytest.raises(DataError, match="qrels"):
        benchmark.qrels(3, "test")


def test_check_names_what_does_not_fit(tmp_path: Path) -> None:
    make(tmp_path)
    (tmp_path / "pics/1.png").unlink()
    write_pool(pool_path(tmp_path, "toy", 3, "test"), [Candidate("30:1", "text 1", None, "text")])
    write_qrels(qrels_path(tmp_path, "toy", 3, "test"), {"30:1": {"30:1": 0}, "30:9": {"30:1": 1}}, 3)
    with pytest.raises(DataError) as error:
        check(tmp_path)
    for part in (
        "pics/1.png, which is missing",
        "30:2 has no positive in its local pool",
        "judge 30:9",
        "30:1 is a positive of 30:1 in its query; the qrels do not say so",
        "30:2 is a positive of 30:2 in its query; the qrels do not say so",
    ):
        assert part in str(error.value)


def test_loads_no_torch() -> None:
    program = "import sys, puma.data.mbeir; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return benchmarks.published(tmp_path_factory.mktemp("published"))


def test_the_published_folder_is_read_whole_in_the_papers_order(published: Path) -> None:
    benchmark = open_benchmark(published)
    labels = [f"{dataset}_task{task}" for dataset, task in benchmarks.TASKS]
    assert benchmark.dataset == ALL
    assert benchmark.splits() == ["test", "train", "val"]
    for split in benchmarks.SPLITS:
        assert benchmark.tasks(split) == labels
    for label, (dataset, task) in zip(labels, benchmarks.TASKS, strict=True):
        assert benchmark.split_name(label) == (dataset, task)
        assert benchmark.label(label) == label
        assert benchmark.modalities(label) == benchmarks.KINDS[task]
        assert benchmark.instruction(label) == "Find what matches, 1."
        for split in benchmarks.SPLITS:
            asked = [benchmarks.query(dataset, task, split, colour) for colour in range(3)]
            assert [q.qid for q in benchmark.queries(label, split)] == [q["qid"] for q in asked]
            assert [list(q.positives) for q in benchmark.queries(label, split)] == [q["pos_cand_list"] for q in asked]
            assert benchmark.qrels(label, split) == {q["qid"]: dict.fromkeys(q["pos_cand_list"], 1) for q in asked}
        for split in ("val", "test"):  # MSCOCO's pools differ by split, the others are shared
            dids = [benchmarks.candidate(dataset, task, split, colour)["did"] for colour in range(3)]
            assert [c.did for c in benchmark.pool(label, split)] == dids
    assert len(benchmark.global_pool("test")) == 48


def test_train_takes_its_candidates_from_the_union(published: Path) -> None:
    benchmark = open_benchmark(published)
    for label in benchmark.tasks("train"):
        pool = benchmark.pool(label, "train")
        assert {candidate.modality for candidate in pool} == {benchmark.modalities(label)[1]}
        dids = {candidate.did for candidate in pool}
        assert all(did in dids for query in benchmark.queries(label, "train") for did in query.positives)


def test_the_upsampled_union_gives_queries_more_than_once(published: Path) -> None:
    benchmark = open_benchmark(published)
    qids = [query.qid for query in benchmark.union_train()]
    once = [query.qid for task in benchmark.tasks("train") for query in benchmark.queries(task, "train")]
    assert len(once) == 48
    assert len(qids) == 72
    assert set(qids) == set(once)
    with pytest.raises(DataError, match="already used"):
        read_queries(published / "query/union_train/mbeir_union_up_train.jsonl")


def test_one_data_set_of_the_published_folder_goes_by_task_ids(published: Path) -> None:
    benchmark = open_benchmark(published, "mscoco")
    assert benchmark.tasks("test") == [0, 3]
    assert benchmark.label(3) == "task3"
    assert [c.did for c in benchmark.pool(3, "val")] != [c.did for c in benchmark.pool(3, "test")]
    with pytest.raises(DataError, match=r"choose one by dataset= \(--dataset\)"):
        Benchmark(published)
    with pytest.raises(InputError, match="must be one such as 0"):
        benchmark.queries("oven_task6", "test")
    with pytest.raises(InputError, match="must be one such as 'visualnews_task0'"):
        open_benchmark(published).queries(6, "test")


@pytest.mark.parametrize(
    ("names", "meant"),
    [
        (["webqa_task2"], ["webqa_task2"]),
        (["oven"], ["oven_task6", "oven_task8"]),
        (["7", 1], ["fashioniq_task7", "cirr_task7", "webqa_task1"]),
        (["cirr", "7"], ["cirr_task7", "fashioniq_task7"]),
    ],
)
def test_tasks_are_chosen_by_id_label_or_data_set(published: Path, names: list, meant: list[str]) -> None:
    assert open_benchmark(published).choose("test", names) == meant


def test_an_unknown_task_or_split_is_named(published: Path) -> None:
    benchmark = open_benchmark(published)
    with pytest.raises(InputError, match=r"tasks must be some of .*got \['5'\]"):
        benchmark.choose("test", [5])
    with pytest.raises(InputError, match=r"got \[\]"):
        benchmark.choose("test", [])
    with pytest.raises(DataError, match="no task in split 'dev'"):
        benchmark.choose("dev")


def test_a_published_file_that_is_missing_is_named(published: Path, tmp_path: Path) -> None:
    root = shutil.copytree(published, tmp_path / "copy")
    (root / "cand_pool/local/mbeir_mscoco_task0_test_cand_pool.jsonl").unlink()
    (root / "cand_pool/local/mbeir_oven_task6_cand_pool.jsonl").unlink()
    benchmark = open_benchmark(root)
    with pytest.raises(DataError, match=r"mbeir_mscoco_task0_test_cand_pool\.jsonl: no such file"):
        benchmark.pool("mscoco_task0", "test")
    with pytest.raises(DataError, match=r"mbeir_oven_task6_test_cand_pool\.jsonl: no such file"):
        benchmark.pool("oven_task6", "test")
