"""``puma evaluate`` on the published folder's format: the paper's table, every way in and out, and what is refused."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from puma.cli import app as cli
from puma.evaluation.results import read_results
from support import benchmarks
from support.encoders import ToyEncoder

LABELS = [f"{dataset}_task{task}" for dataset, task in benchmarks.TASKS]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return benchmarks.published(tmp_path_factory.mktemp("cli") / "M-BEIR")


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ToyEncoder:
    encoder = ToyEncoder()
    monkeypatch.setenv("PUMA_MODEL", "toy")
    monkeypatch.setenv("PUMA_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("puma.retriever.model.Retriever.from_pretrained", lambda *_, **__: encoder)
    return encoder


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_, **__):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("puma.retriever.model.Retriever.from_pretrained", refuse)
    monkeypatch.delenv("PUMA_MODEL", raising=False)


def run(capsys, *arguments):
    code = cli.main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def row(text: str, name: str, nth: int = 0) -> list[str]:
    return [line for line in text.splitlines() if line.startswith(name + " ")][nth].split()[1:]


def test_all_sixteen_tasks_in_the_papers_layout_with_the_published_rows(toy, whole, capsys):
    code, out, _ = run(capsys, "evaluate", "--benchmark", "mbeir", "--root", whole)
    assert code == 0
    assert [line[:14] for line in out.splitlines() if line.startswith("M-BEIR, ")] == [
        "M-BEIR, local ",
        "M-BEIR, global",
    ]
    _, plain, _ = run(capsys, "evaluate", "--root", whole, "--json")
    tables = json.loads(plain)["model"]
    assert list(tables) == LABELS
    for nth, pool in enumerate(("local", "global")):
        ours = row(out, "toy", nth)
        for place, (dataset, task) in enumerate(benchmarks.TASKS):
            table = tables[f"{dataset}_task{task}"]
            own = table if pool == "local" else table["global"]
            k = 10 if dataset in ("fashion200k", "fashioniq") else 5
            assert ours[place] == f"{100 * own[f'hit_rate@{k}']:.1f}", (pool, dataset, task)
            assert own["pool"] == (3 if pool == "local" else 48)
            assert own["queries"] == 3
        assert len(ours) == 17
    assert row(out, "LamRA-Ret")[-1] == "56.6"
    assert row(out, "CLIP_SF", 1)[-1] == "48.9"
    assert "arXiv 2507.08064" in out
    assert "not comparable: fewer records than as published" in out
    # one pass: every candidate once, every query once; twice because the command ran twice
    assert toy.calls == 2 * (48 + 48)


def test_json_out_is_a_results_document_and_json_has_the_published_rows(toy, whole, tmp_path, capsys):
    code, out, _ = run(
        capsys, "evaluate", "--root", whole, "--tasks", "oven,cirr_task7", "--json", "--json-out", tmp_path / "r.json"
    )
    assert code == 0
    shown = json.loads(out)
    assert list(shown["model"]) == list(shown["chance"]) == ["oven_task6", "oven_task8", "cirr_task7"]
    assert "per_query" not in json.dumps(shown)
    assert {entry["pool"] for entry in shown["published"]} == {"local", "global"}
    results = read_results(tmp_path / "r.json")
    assert (results["model"], results["fingerprint"]) == ("toy", "toy-1")
    assert results["benchmark"] == {"root": "M-BEIR", "dataset": "all", "split": "test", "instruction": "first"}
    assert set(results["per_query"]["global"]["oven_task6"]) == {"5:6201", "5:6202", "5:6203"}
    table = results["tables"]["oven_task6"]["global"]
    ranks = results["per_query"]["global"]["oven_task6"].values()
    assert table["hit_rate@5"] == pytest.approx(np.mean([rank is not None and rank <= 5 for rank in ranks]))


def test_run_files_are_written_and_score_the_same(toy, whole, tmp_path, capsys, monkeypatch):
    first = run(capsys, "evaluate", "--root", whole, "--run-dir", tmp_path / "runs", "--json-out", tmp_path / "a.json")
    assert first[0] == 0
    assert len(list((tmp_path / "runs").glob("*.run"))) == 32
    monkeypatch.setattr("puma.retriever.model.Retriever.from_pretrained", None)  # nothing is loaded now
    code, out, _ = run(
        capsys, "evaluate", "--root", whole, "--run", tmp_path / "runs", "--json-out", tmp_path / "b.json"
    )
    assert code == 0
    assert row(out, "runs") == row(first[1], "toy")
    a, b = read_results(tmp_path / "a.json"), read_results(tmp_path / "b.json")
    assert a["per_query"] == b["per_query"]
    code, out, _ = run(
        capsys, "evaluate", "--root", whole, "--run", tmp_path / "runs/nights_task4_test_local.run", "--json"
    )
    assert code == 0
    assert list(json.loads(out)["model"]) == list(json.loads(out)["chance"]) == ["nights_task4"]


def test_stored_vectors_score_as_the_model_that_made_them(toy, whole, tmp_path, capsys, monkeypatch):
    from puma.evaluation.stored.writing import write_embeddings

    write_embeddings(toy, whole, tmp_path / "vectors", dtype="float32", progress=False)
    first = run(capsys, "evaluate", "--root", whole)
    monkeypatch.setattr("puma.retriever.model.Retriever.from_pretrained", None)
    code, out, err = run(capsys, "evaluate", "--root", whole, "--embeddings", tmp_path / "vectors", "--memory", "1GB")
    assert code == 0, err
    for nth in (0, 1):
        assert row(out, "vectors", nth) == row(first[1], "toy", nth)


@pytest.mark.parametrize(
    ("instruction", "expected"), [("first", {"1."}), ("none", set()), ("all", {"1.", "2.", "3.", "4."})]
)
def test_instructions_are_the_first_none_or_all(toy, whole, capsys, instruction, expected):
    code, out, _ = run(capsys, "evaluate", "--root", whole, "--tasks", "4", "--instruction", instruction)
    assert code == 0
    assert {prompt.rpartition(" ")[2] for prompt in toy.seen_instructions if prompt} == expected
    assert ("over all instructions of a task" in out) == (instruction == "all")


def test_a_memory_limit_changes_no_figure(toy, whole, capsys):
    wide = run(capsys, "evaluate", "--root", whole, "--json")
    tight = run(capsys, "evaluate", "--root", whole, "--json", "--memory", "4KB")
    assert json.loads(wide[1])["model"] == json.loads(tight[1])["model"]


def test_one_data_set_stands_in_the_papers_table_too(toy, whole, capsys):
    code, out, _ = run(capsys, "evaluate", "--root", whole, "--dataset", "mscoco", "--pools", "local", "--split", "val")
    assert code == 0
    ours = row(out, "toy")
    assert [place for place, cell in enumerate(ours) if cell != "-"] == [1, 7]
    assert "ours of val" in out
    assert "global pools" not in out


def test_a_folder_of_its_own_keeps_the_plain_table(toy, tmp_path, capsys):
    pool = [{"did": f"30:{n}", "txt": text, "modality": "text"} for n, text in enumerate(("red", "green", "blue"), 1)]
    asked = [
        {"qid": f"30:{n}", "query_txt": c["txt"], "query_modality": "text", "pos_cand_list": [c["did"]], "task_id": 1}
        for n, c in enumerate(pool, 1)
    ]
    benchmarks.jsonl(tmp_path / "query/test/mbeir_toy_task1_test.jsonl", asked)
    benchmarks.jsonl(tmp_path / "cand_pool/local/mbeir_toy_task1_test_cand_pool.jsonl", pool)
    benchmarks.jsonl(tmp_path / "cand_pool/global/mbeir_union_test_cand_pool.jsonl", pool)
    benchmarks.qrels(tmp_path / "qrels/test/mbeir_toy_task1_test_qrels.txt", asked)
    (tmp_path / "instructions").mkdir()
    (tmp_path / "instructions/query_instructions.tsv").write_text("h\ntext\ttext\ttoy\t30\tFind it.\n")
    code, out, _ = run(capsys, "evaluate", "--root", tmp_path, "--task", "1")
    assert code == 0
    assert out.splitlines()[1] == "local pools (percent; chance in brackets)"
    assert out.splitlines()[3].split()[:5] == ["1", "3", "3", "100.0", "(33.3)"]
    assert "published" not in run(capsys, "evaluate", "--root", tmp_path, "--json")[1]


def test_images_left_out_are_told(toy, whole, tmp_path, capsys):
    root = shutil.copytree(whole, tmp_path / "copy")
    (root / "mbeir_images/nights_images/red.jpg").write_bytes(b"no")
    code, out, err = run(capsys, "evaluate", "--root", root, "--tasks", "nights", "--pools", "local")
    assert code == 0
    assert row(out, "toy")[9] == "66.7"
    assert "nights_task4: 2 left out, for example 4:" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--benchmark", "beir"], "benchmark must be one of mbeir, mteb, mmeb"),
        (["--root", "gone"], "--root gone: no such folder"),
        (["--root", "good", "--model", "m", "--run", "r"], "one of --model, --st, --embeddings and --run"),
        (["--root", "good", "--run", "gone.run"], "--run gone.run: no such file or folder"),
        (["--root", "good", "--embeddings", "gone"], "--embeddings gone: no such file or folder"),
        (["--root", "good", "--run", "good", "--run-dir", "x"], "--run brings its own"),
        (["--root", "good", "--run", "good", "--instruction", "none"], "--instruction needs a model"),
        (["--root", "good", "--instruction", "second"], "instruction must be one of first, none, all"),
        (["--root", "good", "--st", "a/b", "--run", "x"], "got --st and --run"),
        (["--root", "good", "--st-prompt", "query"], "--st-prompt goes with --st"),
        (
            ["--root", "good", "--st", "a/b", "--st-prompt", "query", "--instruction", "none"],
            "leave --instruction none",
        ),
        (["--root", "good", "--dtype", "int8"], "--dtype int8: give one of auto, fp32, bf16, fp16"),
        (["--root", "good", "--attn", "flash"], "--attn flash: give one of sdpa, eager, flash_attention_2"),
        (["--root", "good", "--pools", "wide"], "pools must be local, global or both"),
        (["--root", "good", "--memory", "lots"], "memory must be a size"),
        (["--root", "good", "--tasks", "5"], "tasks must be some of"),
        (["--root", "good", "--split", "dev"], "no task in split 'dev'"),
        (["--root", "good", "--dataset", "flickr"], "no data set 'flickr'"),
        (["--benchmark", "mteb", "--run-dir", "x"], "--run-dir goes with --benchmark mbeir only"),
        (["--benchmark", "mmeb"], "--benchmark mmeb needs the folder"),
        (["--benchmark", "mmeb", "--root", "gone"], "--root gone: no such folder"),
        (["--benchmark", "mmeb", "--root", "good", "--report", "r.html"], "--report goes with --benchmark mbeir only"),
    ],
)
def test_a_users_mistake_is_told_before_a_model_is_loaded(
    no_model, whole, arguments, message, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "good").symlink_to(whole)
    code, _, err = run(capsys, "evaluate", *arguments)
    assert code == 2, err
    assert message in err
    assert "Traceback" not in err


def test_a_missing_file_is_told_before_a_model_is_loaded(no_model, whole, tmp_path, capsys):
    root = shutil.copytree(whole, tmp_path / "copy")
    (root / "cand_pool/local/mbeir_mscoco_task0_test_cand_pool.jsonl").unlink()
    code, _, err = run(capsys, "evaluate", "--root", root)
    assert code == 2
    assert "mbeir_mscoco_task0_test_cand_pool.jsonl: no such file" in err


def test_the_report_gets_results_and_runs(toy, whole, tmp_path, capsys, monkeypatch):
    got = {}

    def write(path, results, root, runs):
        got.update(path=path, results=results, root=root, runs=sorted(file.name for file in Path(runs).iterdir()))

    monkeypatch.setattr("puma.evaluation.report.page.write_evaluation_report", write, raising=False)
    page = tmp_path / "r.html"
    code, _, err = run(capsys, "evaluate", "--root", whole, "--tasks", "cirr", "--report", page)
    assert code == 0, err
    assert (got["path"], got["root"]) == (page, whole)
    assert got["runs"] == ["cirr_task7_test_global.run", "cirr_task7_test_local.run"]
    assert set(got["results"]["per_query"]) == {"local", "global"}
    code, _, err = run(
        capsys, "evaluate", "--root", whole, "--tasks", "cirr", "--report", page, "--run-dir", tmp_path / "runs"
    )
    assert code == 0, err
    assert got["runs"] == sorted(file.name for file in (tmp_path / "runs").iterdir())


def test_mteb_gets_the_options_and_its_tables_are_shown(toy, whole, capsys, monkeypatch, tmp_path):
    got = {}

    def score(encoder, tasks, **options):
        got.update(tasks=tasks, **options)
        return {
            "0": {"name": "MscocoT2I", "pool": 3, "queries": 3, "hit_rate@1": 0.5, "global": {"pool": 9, "queries": 3}}
        }

    monkeypatch.setattr("puma.evaluation.mteb.tasks.run", score)
    code, out, _ = run(
        capsys, "evaluate", "--benchmark", "mteb", "--root", whole, "--dataset", "mscoco", "--tasks", "0,3",
        "--json-out", tmp_path / "m.json",
    )  # fmt: skip
    assert code == 0
    assert got == {
        "tasks": ["0", "3"], "root": whole, "dataset": "mscoco", "split": "test", "pools": ["local"],
        "instruction": "first",
    }  # fmt: skip
    assert [line.split()[:4] for line in out.splitlines()[1:]] == [
        ["MscocoT2I", "3", "3", "50.0"],
        ["0", "9", "3", "-"],
    ]
    assert json.loads((tmp_path / "m.json").read_text())["0"]["queries"] == 3
    run(capsys, "evaluate", "--benchmark", "mteb", "--tasks", "CIRRIT2IRetrieval")
    assert (got["tasks"], got["root"]) == (["CIRRIT2IRetrieval"], None)


def test_mmeb_gets_its_folder_and_its_means_are_shown(toy, capsys, monkeypatch, tmp_path):
    table = {"hit@1": 0.25, "chance@1": 0.125, "queries": 8, "skipped": 1, "skipped_items": ["row 3: no such file"]}
    groups = {"retrieval": {"hit@1": 0.25, "subsets": 1, "of": 12}, "vqa": {"hit@1": None, "subsets": 0, "of": 10}}

    def score(encoder, root, subsets, *, batch_size, work):
        assert (root, subsets) == (tmp_path, ["CIRR"])
        return {"subsets": {"CIRR": table}, "groups": groups}

    monkeypatch.setattr("puma.evaluation.mmeb.evaluate", score)
    code, out, err = run(capsys, "evaluate", "--benchmark", "mmeb", "--root", tmp_path, "--tasks", "CIRR")
    assert code == 0
    assert out.splitlines()[1].split() == ["CIRR", "8", "25.0", "12.5"]
    assert "mean of retrieval (1 of 12 subsets): 25.0" in out
    assert "mean of vqa (0 of 10 subsets): -" in out
    assert "CIRR: 1 unreadable, for example row 3" in err
