"""Finding a benchmark's files, and checking it against itself."""

import subprocess
import sys
from pathlib import Path

import pytest

from puma.data.mbeir import (
    Benchmark,
    Candidate,
    Query,
    check,
    global_pool_path,
    instructions_path,
    pool_path,
    qrels_path,
    query_path,
    write_instructions,
    write_pool,
    write_qrels,
    write_queries,
)
from puma.errors import DataError


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
        "names 30:2, not in the pool",
        "judge 30:9",
        "30:2 has no positive",
        "30:1 differ",
    ):
        assert part in str(error.value)


def test_loads_no_torch() -> None:
    program = "import sys, puma.data.mbeir; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
