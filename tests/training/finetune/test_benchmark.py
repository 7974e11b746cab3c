"""A table of pairs as a benchmark: nothing lost, no query on two sides, and what reads benchmarks reads it."""

import base64
import json
import math
from dataclasses import replace

import pytest
from PIL import Image

from puma.cli import main
from puma.data.mbeir import open_benchmark
from puma.data.pair_tables import PairTable
from puma.data.validation import examine
from puma.errors import DataError, InputError
from puma.items import Item
from puma.retriever.model import Retriever
from puma.training.config import TrainConfig
from puma.training.finetune.benchmark import MOST_INSTRUCTIONS, convert
from puma.training.finetune.settings import FEWEST_BASE_STEPS, fitted_stage
from puma.training.pairs import Pair, first_instructions, read_pairs
from support.served import png

SPLITS = ("train", "val", "test")


def row(n: int, **more):
    return {"query_text": f"thing {n}", "positive_image": f"images/{n}.png", **more}


@pytest.fixture
def write(tmp_path):
    """Writes a table of rows; images 0 to 39 lie beside it."""
    (tmp_path / "images").mkdir()
    for n in range(40):
        Image.new("RGB", (8, 8), (6 * n, 255 - 6 * n, 99)).save(tmp_path / "images" / f"{n}.png")

    def written(rows):
        path = tmp_path / "pairs.jsonl"
        path.write_text("".join(json.dumps(one) + "\n" for one in rows))
        return PairTable(path)

    return written


@pytest.fixture
def retriever(base, tmp_path):
    """A retriever's folder."""
    Retriever.from_base(base, layers=2, prompt="short", device="cpu").save_pretrained(tmp_path / "retriever")
    return tmp_path / "retriever"


def queries(root):
    """By split, the queries of all tasks."""
    benchmark = open_benchmark(root)
    return {
        split: [query for task in benchmark.tasks(split) for query in benchmark.queries(task, split)]
        for split in SPLITS
    }


@pytest.mark.parametrize("copy", [False, True])
def test_the_folder_is_a_faultless_benchmark_of_all_rows(write, tmp_path, copy):
    rows = [row(n) for n in range(20)]
    rows += [{"query_image": f"images/{n}.png", "positive_text": f"words {n}"} for n in range(20, 30)]
    rows += [row(n, instruction="Find its icon.") for n in range(30, 36)]
    rows[0]["positive_image"] = {"bytes": base64.b64encode(png()).decode()}
    found = convert(write(rows), tmp_path / "data", copy=copy)
    assert (found.skips, found.datasets) == ([], 2)
    assert examine(tmp_path / "data", images=1000).total == 0
    by_split = queries(tmp_path / "data")
    assert {split: len(own) for split, own in by_split.items()} == found.queries
    texts = [query.text or query.image_path for own in by_split.values() for query in own]
    assert len(texts) == len(set(texts)) == 36
    images = list((tmp_path / "data" / "mbeir_images" / "pairs").iterdir())
    assert any(image.is_symlink() for image in images) is not copy
    assert len(read_pairs(tmp_path / "data", strict=True)) == len(by_split["train"])


def test_rows_with_an_instruction_keep_it_and_others_get_the_general_one(write, tmp_path):
    convert(write([row(n, instruction=None if n % 3 else "Find its icon.") for n in range(40)]), tmp_path / "data")
    for pair in read_pairs(tmp_path / "data"):
        number = int(pair.query.text.split()[1])
        assert pair.instruction == ("Find a picture that shows this." if number % 3 else "Find its icon.")
    # a model searches by the most frequent one
    assert first_instructions(tmp_path / "data")["text", "image"] == "Find a picture that shows this."


def test_all_right_answers_count_and_wrong_ones_are_negatives(write, tmp_path):
    rows = [row(n, negative_image=[f"images/{(n + 1) % 40}.png"], negative_text="not this") for n in range(30)]
    rows += [row(n, positive_image=f"images/{n + 1}.png") for n in range(0, 30, 2)]
    del rows[0]["negative_image"], rows[0]["negative_text"]
    rows = [{**one, "negative_image": one.get("negative_image"), "negative_text": None} for one in rows]
    convert(write(rows), tmp_path / "data")
    by_split = queries(tmp_path / "data")
    for own in by_split.values():
        for query in own:
            even = int(query.text.split()[1]) % 2 == 0
            assert len(query.positives) == (2 if even else 1)
            assert not set(query.positives) & set(query.negatives)
    # of an even one the negative is its second right answer, and so none
    assert {len(query.negatives) for query in by_split["train"] if int(query.text.split()[1]) % 2} == {1}
    assert not any(query.negatives for query in by_split["train"] if int(query.text.split()[1]) % 2 == 0)


def test_negatives_that_no_query_searches_for_are_left_out_and_named(write, tmp_path):
    found = convert(write([row(n, negative_text="a text") for n in range(20)]), tmp_path / "data")
    assert [str(skip) for skip in found.skips] == [
        "negative 'a text': no query of the table searches for items of its modality"
    ]
    assert examine(tmp_path / "data").total == 0


def test_negatives_of_another_modality_go_into_its_pool(write, tmp_path):
    rows = [row(n, negative_text=f"wrong {n}") for n in range(20)]
    rows += [{"query_text": f"also {n}", "positive_text": f"words {n}"} for n in range(20)]
    found = convert(write(rows), tmp_path / "data")
    assert found.skips == []
    assert examine(tmp_path / "data").total == 0
    with_one = [pair for pair in read_pairs(tmp_path / "data", negatives=4, strict=True) if pair.task == 0]
    assert all(pair.negatives[0][1].text.startswith("wrong") for pair in with_one)


def test_a_query_is_on_one_side_and_held_out_ones_search_all_held_out_answers(write, tmp_path):
    convert(write([row(n, instruction=f"Way {n % 3}.") for n in range(40)]), tmp_path / "data", held_out=0.5)
    by_split = queries(tmp_path / "data")
    assert [len(by_split[split]) for split in SPLITS] == [20, 10, 10]
    benchmark = open_benchmark(tmp_path / "data")
    assert {len(benchmark.pool(task, "test")) for task in benchmark.tasks("test")} == {20}
    assert len(benchmark.global_pool("val")) == 20


def test_rows_that_no_task_takes_are_left_out_and_named(write, tmp_path):
    odd = {"query_image": "images/30.png", "positive_text": "words", "positive_image": "images/31.png"}
    found = convert(write([*(row(n) for n in range(20)), odd]), tmp_path / "data")
    assert [(skip.where, skip.reason) for skip in found.skips] == [
        (f"{tmp_path / 'pairs.jsonl'}:21", "a search from an image for an image with a text is no task of M-BEIR")
    ]
    with pytest.raises(DataError, match="the table has no other rows"):
        convert(write([odd]), tmp_path / "other")
    with pytest.raises(DataError, match="1 rows were left out"):
        convert(write([*(row(n) for n in range(20)), odd]), tmp_path / "other", strict=True)
    assert not (tmp_path / "other").exists()


def test_too_many_instructions_are_refused_with_the_remedy(write, tmp_path):
    rows = [row(n % 40, query_text=f"{n}", instruction=f"Way {n}.") for n in range(MOST_INSTRUCTIONS + 1)]
    with pytest.raises(InputError, match=r"101 different instructions; at most 100 .* into query_text"):
        convert(write(rows), tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_the_command(write, tmp_path, capsys):
    table = write([*(row(n) for n in range(20)), row(99)]).path
    assert main(["convert", str(table), str(tmp_path / "data"), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["queries"], len(said["left_out"])) == ({"train": 16, "val": 2, "test": 2}, 1)
    assert main(["convert", str(table), str(tmp_path / "data")]) == 2
    assert "exists and is not empty" in capsys.readouterr().err
    assert main(["convert", str(table), str(tmp_path / "more"), "--columns", "query_text=none"]) == 2
    assert not (tmp_path / "more").exists()
    assert main(["convert", str(table), str(tmp_path / "more")]) == 0
    streams = capsys.readouterr()
    assert "16 train, 2 val, 2 test" in streams.out
    assert "images/99.png" in streams.err


QUICK = [word for one in ("steps=2", "precision=fp32", "lora_rank=0") for word in ("--set", one)]


def train(base, table, out, *more):
    return main(
        [
            "train",
            "--base",
            str(base),
            "--data",
            str(table),
            "--out",
            str(out),
            "--layers",
            "2",
            *more,
            *QUICK,
            "--prompt",
            "short",
        ]
    )


def test_a_base_becomes_a_retriever_by_a_table(base, write, tmp_path, capsys):
    table = write([row(n) for n in range(20)]).path
    assert train(base, table, tmp_path / "mine", "--json") == 0
    streams = capsys.readouterr()
    said = json.loads(streams.out)
    assert "retrieve: batch_size=8, to fit 16 training pairs" in streams.err  # 150 would be more than there are
    assert said["held_out"]["model"]["0"]["queries"] == 2
    assert said["held_out"]["chance"]["0"]["hit_rate@1"] == 0.25  # 4 held-out images
    assert "held-out queries (to see them later: puma evaluate --model" in streams.err
    made = Retriever.from_pretrained(tmp_path / "mine")
    assert len(made.model.language_model.layers) == 2
    assert made.instructions["text", "image"] == "Find a picture that shows this."


def pairs(queries, candidates):
    item = Item(text="a")
    return [
        Pair(item, item, None, 1, f"q{n % queries}", f"c{n % candidates}", frozenset())
        for n in range(queries * candidates)
    ]


def test_a_recipes_stage_is_fitted_to_a_small_table_alone():
    stage = replace(TrainConfig(), stage="retrieve")  # two passes in batches of 150
    small = fitted_stage(stage, pairs(60, 80))
    assert (small.batch_size, small.steps, small.eval_every) == (30, 40 * 2, 10)
    few_answers = fitted_stage(stage, pairs(900, 40))
    assert (few_answers.batch_size, few_answers.steps, few_answers.eval_every) == (20, FEWEST_BASE_STEPS, 25)
    large = [replace(pair, query_id=f"{n}", candidate_id=f"{n}") for n, pair in enumerate(pairs(200, 160))]
    assert fitted_stage(stage, large) == replace(stage, eval_every=math.ceil(2 * 32_000 / 150) // 8)
    assert fitted_stage(stage, []) == stage
    assert fitted_stage(replace(stage, minutes=7.0), pairs(60, 80)) == replace(stage, minutes=7.0, batch_size=30)
    chosen = replace(stage, batch_size=12, epochs=3.0)
    assert fitted_stage(chosen, pairs(60, 80), {"batch_size", "epochs", "eval_every"}) == chosen
    assert fitted_stage(replace(stage, stage="distil"), pairs(60, 80)).eval_every == 0
    wrong = tuple((f"n{n}", Item(text="b")) for n in range(6))
    with_negatives = [replace(pair, negatives=wrong[: n % 7]) for n, pair in enumerate(pairs(60, 80))]
    assert fitted_stage(stage, with_negatives).hard_negatives == 4
    assert fitted_stage(stage, with_negatives, {"hard_negatives"}).hard_negatives == 0


def test_an_unfinished_run_goes_on_and_other_data_are_refused(base, write, tmp_path, capsys, monkeypatch):
    table = write([row(n) for n in range(20)]).path
    with monkeypatch.context() as patch:
        patch.setattr("puma.training.two_stages.train", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        assert train(base, table, tmp_path / "mine") == 130
    assert (tmp_path / "mine.work" / "data" / "query").is_dir()
    write([row(n) for n in range(24)])
    assert train(base, table, tmp_path / "mine") == 2
    assert "an unfinished run of other settings is there (data differ)" in capsys.readouterr().err
    write([row(n) for n in range(20)])
    assert train(base, table, tmp_path / "mine") == 0
    assert "held out, never trained on" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("count", "more", "said"),
    [
        (6, [], "6 different queries"),
        (20, ["--held-out", "3"], "held_out=3.0"),
        (101, [], "101 different instructions"),
    ],
)
def test_a_table_that_is_refused_leaves_nothing_in_the_way_of_the_corrected_one(
    base, write, tmp_path, capsys, count, more, said
):
    rows = [row(n % 40, query_text=f"thing {n}", instruction=f"Way {n if count > 100 else 0}.") for n in range(count)]
    assert train(base, write(rows).path, tmp_path / "mine", *more) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "mine.work").exists()
    assert train(base, write([row(n) for n in range(20)]).path, tmp_path / "mine") == 0


def test_what_a_kill_left_while_the_benchmark_was_written_is_removed(base, write, tmp_path):
    (tmp_path / "mine.work" / ".data.abc.part" / "query").mkdir(parents=True)
    assert train(base, write([row(n) for n in range(20)]).path, tmp_path / "mine") == 0
    assert not list((tmp_path / "mine.work").glob(".data.*"))


def test_a_base_that_is_not_there_is_refused_before_the_table_is_read(write, tmp_path, capsys):
    assert train(tmp_path / "nowhere", write([row(n) for n in range(20)]).path, tmp_path / "mine") == 2
    assert "nowhere" in capsys.readouterr().err
    assert not (tmp_path / "mine.work").exists()


def test_of_several_processes_only_the_first_prints(base, retriever, write, tmp_path, capsys, monkeypatch):
    table = write([row(n) for n in range(20)]).path
    monkeypatch.setattr("puma.training.recipes.recipe.train_recipe", lambda *_, **__: {})
    monkeypatch.setattr("puma.training.finetune.run.fine_tune", lambda *_, **__: {"helped": False, "gains": {}})
    monkeypatch.setattr("puma.cli.commands._own_data.held_out_figures", lambda *_: {})
    monkeypatch.setattr("puma.training.finetune.report.gain_lines", lambda _: [])
    commands = [["--base", str(base), "--layers", "2"], ["--model", str(retriever)]]
    for rank, printed in (("0", True), ("1", False)):
        monkeypatch.setenv("WORLD_SIZE", "2")
        monkeypatch.setenv("RANK", rank)
        for number, words in enumerate(commands):
            for more in ([], ["--json"]):
                out = tmp_path / f"{rank}-{number}"
                assert main(["train", *words, "--data", str(table), "--out", str(out), *more]) == 0
                assert bool(capsys.readouterr().out) is printed


def test_an_error_that_lists_rows_keeps_them_apart_and_says_whether_any_can_be_used(write, tmp_path, capsys):
    assert main(["convert", str(write([row(n) for n in range(90, 93)]).path), str(tmp_path / "data")]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert "no row can be used; 3 rows were left out: " in said
    assert "90.png: no such file; " in said
    some = write([row(n) for n in range(30, 50)]).path
    assert main(["convert", str(some), str(tmp_path / "data"), "--strict"]) == 2
    assert "has faulty rows, which --strict refuses; without it 10 rows" in capsys.readouterr().err


def test_a_retriever_is_not_pruned_by_a_table(retriever, write, tmp_path, capsys):
    table = write([row(n) for n in range(20)]).path
    assert main(["train", "--base", str(retriever), "--data", str(table), "--layers", "2"]) == 2
    assert f"a retriever ({retriever}), which trains an existing retriever further" in capsys.readouterr().err


def test_commands_that_are_suggested_can_be_pasted(write, tmp_path, capsys):
    table = write([row(n) for n in range(20)]).path
    assert main(["convert", str(table), str(tmp_path / "my data")]) == 0
    assert f"--data '{tmp_path / 'my data'}' --out" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words",
    [
        ["evaluate", "--model", "none", "--root"],
        ["mine", "--out", "o", "--run-dir", "r", "--root"],
        ["probe", "--data"],
    ],
)
def test_what_needs_a_folder_names_the_command_that_writes_it(write, tmp_path, capsys, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    table = write([row(n) for n in range(20)]).path
    assert main([*words, str(table)]) == 2
    assert f"puma convert {table} DIR" in capsys.readouterr().err
