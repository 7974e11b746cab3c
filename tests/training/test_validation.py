"""Evaluation while training runs: what is drawn, what the figures are, best weights, early stopping, kill -9."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from puma.data import mbeir
from puma.errors import InputError
from puma.evaluation.mbeir import evaluate
from puma.items import Item
from puma.retriever.model import Retriever
from puma.training import train
from puma.training.config import TrainConfig
from puma.training.pairs import read_pairs
from puma.training.validation import MEAN, Validation, best_of, drawn, stalled

CONFIG = TrainConfig(
    steps=12, batch_size=6, lora_rank=2, lora_alpha=4, save_steps=3, precision="fp32", learning_rate=3e-2,
    eval_every=2, lora_dropout=0.1, workers=0,
)  # fmt: skip
COUNT = 16


def benchmark(root, splits=("train", "val")):
    """Text to image and text to text, a query's positive after its own number."""
    (root / "mbeir_images").mkdir(parents=True)
    for split in splits:
        for task, kind in ((0, "image"), (1, "text")):
            numbers = range(1 + 100 * task + 1000 * (split == "val"), 1 + 100 * task + 1000 * (split == "val") + COUNT)
            for n in numbers if kind == "image" else ():
                Image.new("RGB", (64, 64), (n * 15 % 255, n * 40 % 255, n % 7 * 30)).save(
                    root / "mbeir_images" / f"{n}.png"
                )
            pool = [
                mbeir.Candidate(f"20:{n}", None, f"mbeir_images/{n}.png", "image")
                if kind == "image"
                else mbeir.Candidate(f"20:{n}", f"word {n}", None, "text")
                for n in numbers
            ]
            queries = [mbeir.Query(f"20:{n}", f"thing {n}", None, "text", (f"20:{n}",), (), task) for n in numbers]
            mbeir.write_queries(mbeir.query_path(root, "tiny", task, split), queries)
            mbeir.write_pool(mbeir.pool_path(root, "tiny", task, split), pool)
            qrels = {query.qid: {query.positives[0]: 1} for query in queries}
            mbeir.write_qrels(mbeir.qrels_path(root, "tiny", task, split), qrels, task)
    instructions = [("text", kind, "tiny", 20, [f"Find the {kind}."]) for kind in ("image", "text")]
    mbeir.write_instructions(mbeir.instructions_path(root), instructions)
    return root


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return benchmark(tmp_path_factory.mktemp("data") / "data")


def fresh(base):
    return Retriever.from_base(base, layers=2, prompt="open-quote", device="cpu")


def run(base, data, out, config=CONFIG):
    retriever = fresh(base)
    result = train(retriever, read_pairs(data), config, out, validation=Validation.read(data), show_progress=False)
    return retriever, result


def difference(one, two):
    a, b = one.model.state_dict(), two.model.state_dict()
    return max(float((a[name].float() - b[name].float()).abs().max()) for name in a)


def evaluated(log):
    return [{key: row[key] for key in row if key == "step" or key.startswith("eval_")} for row in log if MEAN in row]


@pytest.fixture(scope="module")
def whole(base, data, tmp_path_factory):
    """An uninterrupted run: its folder, its retriever, its result."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    return (folder, *run(base, data, folder))


def test_the_figures_are_the_packages_own_evaluation(base, data):
    retriever = fresh(base)
    tables = evaluate(retriever, data, split="val", pools=("local",), progress=False)
    figures = Validation.read(data, queries=0, pool=0).figures(retriever)
    assert figures["eval_hit_task0"] == tables["0"]["hit_rate@5"]
    assert figures["eval_hit_task1"] == tables["1"]["hit_rate@5"]
    assert figures[MEAN] == pytest.approx((figures["eval_hit_task0"] + figures["eval_hit_task1"]) / 2)


def test_what_is_drawn_is_bounded_holds_the_positives_and_follows_the_seed(data):
    one = Validation.read(data, queries=5, pool=3, seed=1).judged
    for task in (0, 1):
        view = one.view("local", task)
        assert len(view.qids) == 5
        assert len(view.dids) == 8
        assert all(len(columns) == 1 for columns in view.positives)
    again, other = (Validation.read(data, queries=5, pool=3, seed=seed).judged for seed in (1, 2))
    assert one.view("local", 0).dids == again.view("local", 0).dids
    assert one.view("local", 0).qids != other.view("local", 0).qids
    assert drawn(["a", "b"], 5, 0) == [0, 1]
    assert len(drawn([str(n) for n in range(9)], 4, 0)) == 4


def test_data_without_a_val_split_is_refused_with_the_remedy(base, tmp_path):
    root = benchmark(tmp_path / "data", splits=("train",))
    with pytest.raises(InputError, match=r"no val split, only \['train'\].*eval_every=0"):
        Validation.read(root)
    with pytest.raises(InputError, match=r"eval_every=2: needs a validation"):
        train(fresh(base), read_pairs(root), CONFIG, tmp_path / "run", show_progress=False)


def test_evaluating_changes_no_weight(base, data, tmp_path):
    config = replace(CONFIG, steps=5, keep_best=False)
    with_it, result = run(base, data, tmp_path / "with", config)
    without, _ = run(base, data, tmp_path / "without", replace(config, eval_every=0))
    assert difference(with_it, without) == 0.0
    assert [row["step"] for row in evaluated(result.log)] == [2, 4, 5], "the last step too"
    assert result.best_step is None


def test_the_best_evaluations_weights_are_the_result(whole, data):
    folder, retriever, result = whole
    best = best_of(result.log)
    assert [row["step"] for row in evaluated(result.log)] == [2, 4, 6, 8, 10, 12]
    assert result.best_step == best[0]
    assert best[1] == max(row[MEAN] for row in evaluated(result.log))
    assert Validation.read(data).figures(retriever)[MEAN] == pytest.approx(best[1])
    assert [path.name for path in folder.glob("best-*")] == [f"best-{best[0]}"]


def test_the_log_is_written_while_it_runs_and_holds_the_evaluations(whole):
    folder, _, result = whole
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert lines == result.log == json.loads((folder / "log.json").read_text())["log"]
    assert [row["step"] for row in lines if "loss" in row] == list(range(1, 13))


def test_a_run_that_was_cut_off_evaluates_and_chooses_as_one_that_was_not(base, data, whole, tmp_path):
    folder, retriever, result = whole
    shutil.copytree(folder, tmp_path / "cut")
    shutil.rmtree(tmp_path / "cut" / "checkpoint-12")
    (tmp_path / "cut" / "log.json").unlink()
    with open(tmp_path / "cut" / "log.jsonl", "a") as stream:
        stream.write('{"half')
    (tmp_path / "cut" / "best-11").mkdir()  # of after the checkpoint
    again, resumed = run(base, data, tmp_path / "cut")
    assert evaluated(resumed.log) == evaluated(result.log)
    assert resumed.best_step == result.best_step
    assert difference(again, retriever) == 0.0
    steps = [json.loads(line)["step"] for line in (tmp_path / "cut" / "log.jsonl").read_text().splitlines()]
    assert steps == [row["step"] for row in result.log], "no line twice"


CHILD = """
import sys; sys.path.insert(0, {tests!r})
import training.test_validation as it
from pathlib import Path
it.run(Path({base!r}), Path({data!r}), Path({out!r}))
"""


def test_kill_minus_nine_in_the_middle(base, data, whole, tmp_path):
    _, retriever, result = whole
    code = CHILD.format(tests=str(Path(__file__).parents[1]), base=str(base), data=str(data), out=str(tmp_path / "run"))
    child = subprocess.Popen([sys.executable, "-W", "ignore", "-c", code], stdout=subprocess.DEVNULL, stderr=-3)
    journal, deadline = tmp_path / "run" / "log.jsonl", time.monotonic() + 120
    while child.poll() is None and time.monotonic() < deadline:
        if journal.is_file() and journal.read_text().count("\n") >= 8:  # step 5 or later, at any point of it
            break
        time.sleep(0.005)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    assert not (tmp_path / "run" / "log.json").is_file(), "it had ended before it was killed"
    again, resumed = run(base, data, tmp_path / "run")
    assert evaluated(resumed.log) == evaluated(result.log)
    assert resumed.best_step == result.best_step
    assert difference(again, retriever) == 0.0


def test_patience_ends_it_and_a_restart_does_not_go_on(base, data, tmp_path):
    config = replace(CONFIG, steps=40, learning_rate=1e-9, eval_every=1, patience=3)  # nothing moves: no gain
    _, result = run(base, data, tmp_path / "run", config)
    assert (result.steps, result.best_step) == (4, 1)
    _, again = run(base, data, tmp_path / "run", config)
    assert (again.steps, again.best_step) == (4, 1)
    _, more = run(base, data, tmp_path / "run", replace(config, patience=5))
    assert more.steps == 6


def test_best_and_patience_are_read_off_the_log():
    log = [{"step": n, MEAN: value} for n, value in ((2, 0.1), (4, 0.3), (6, 0.3), (8, 0.2))]
    assert best_of([{"step": 1, "loss": 3.0}, *log]) == (4, 0.3)
    assert stalled(log) == 2
    assert best_of([]) is None
    assert stalled([]) == 0


class Stored:
    """The frozen tower's outputs, kept by path, as the mini base has them."""

    def __init__(self, retriever, paths):
        self.rows = {}
        for path in paths:
            pixels = retriever.inputs.features([Item(image=path)])["pixel_values"]
            with torch.no_grad():
                found = retriever.model.get_encoder("image")(pixels).last_hidden_state
            self.rows[str(path)] = found[0].numpy()
        self.asked = 0

    def lookup(self, item):
        self.asked += 1
        return self.rows.get(str(item.image))


def test_stored_vision_features_serve_the_evaluations_too(base, data, tmp_path):
    stored = Stored(fresh(base), sorted((data / "mbeir_images").glob("*.png")))
    config = replace(CONFIG, steps=2, keep_best=False)
    retriever, plain = fresh(base), run(base, data, tmp_path / "plain", config)[1]
    result = train(
        retriever,
        read_pairs(data),
        config,
        tmp_path / "stored",
        vision=stored,
        validation=Validation.read(data),
        show_progress=False,
    )
    assert stored.asked > COUNT, "the val split's images, too"
    assert evaluated(result.log) == evaluated(plain.log)
    assert retriever.vision is None, "the caller's retriever is as it was"
