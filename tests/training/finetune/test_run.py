"""Fine-tuning a tiny retriever on tables of pairs, in process and by the command: what is kept, resumed and refused."""

import csv
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from puma.cli import main
from puma.errors import InputError
from puma.items import Item
from puma.mini.base.known_images import features_of, has_known_tower
from puma.retriever.model import Retriever
from puma.training.finetune import run
from puma.training.finetune.held_out import HeldOut
from puma.training.finetune.settings import default_config
from puma.training.pairs import Pair
from puma.training.run_folder import MARK, latest_checkpoint, step_of
from puma.training.validation import MEAN

COLOURS = {"red": (255, 0, 0), "blue": (0, 0, 255), "dark": (40, 40, 40), "light": (240, 240, 240)}
PROBE = [Item(text="a red fox"), Item(text="cat")]
QUICK = ["steps=4", "batch_size=4", "learning_rate=1e-3", "save_steps=1", "eval_every=1", "patience=0"]


@pytest.fixture(scope="module")
def retriever(base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tuned") / "retriever"
    made = Retriever.from_base(base, layers=2, prompt="open-quote", device="cpu")
    made.instructions = {("text", "image"): "Find a picture that matches this."}
    return made.save_pretrained(folder)


@pytest.fixture
def table(tmp_path):
    """24 captions of pictures, a semicolon between columns; a missing picture, a repeated row and a short one."""
    (tmp_path / "pictures").mkdir()
    rows = []
    for n in range(24):
        name = list(COLOURS)[n % 4]
        picture = Image.new("RGB", (16, 16), COLOURS[name])
        picture.paste((0, 10 * n, 255 - 10 * n), (0, 0, 8, 8))
        picture.save(tmp_path / "pictures" / f"{n}.png")
        rows.append([f"{name} picture {n}", f"pictures/{n}.png"])
    with open(tmp_path / "pairs.csv", "w", newline="", encoding="utf-8-sig") as out:
        write = csv.writer(out, delimiter=";")
        write.writerow(["caption", "path"])
        write.writerows([*rows, rows[3], ["a", "pictures/none.png"], ["only one column"]])
    return tmp_path / "pairs.csv"


def command(table, retriever, out, *more, settings=QUICK):
    words = ["train", "--data", str(table), "--model", str(retriever), "--out", str(out)]
    words += ["--columns", "query_text=caption,positive_image=path"]
    return [*words, *(word for setting in settings for word in ("--set", setting)), *more]


def vectors(folder):
    return Retriever.from_pretrained(folder, device="cpu").encode(PROBE)


def rising(monkeypatch, stop_at=None, start=0):
    """Each evaluation finds a better figure than the one before; at ``stop_at`` the user presses Ctrl-C."""
    calls = []

    def figures(self, encoder):
        calls.append(1)
        if len(calls) == stop_at:
            raise KeyboardInterrupt
        return {MEAN: (start + len(calls)) / 100}

    monkeypatch.setattr(HeldOut, "figures", figures)
    return calls


def test_the_command_trains_reports_and_saves(table, retriever, tmp_path, capsys):
    out = tmp_path / "mine"
    assert main(command(table, retriever, out, "--json")) == 0
    streams = capsys.readouterr()
    output = json.loads(streams.out)
    assert output["data"] == {
        "pairs": 24, "repeated": 1, "left_out": 2, "train": 19, "choose": 3, "measure": 2, "shared_positives": 0,
    }  # fmt: skip
    assert output["steps"] == 4
    assert output["config"]["loss"] == "split-mac"
    row = output["gains"]["kinds"]["text -> image"]
    assert (row["queries"], row["pool"]) == (2, 5)
    assert "24 different pairs (1 rows say what another says)" in streams.err
    assert f"{table}:27: {table.parent}/pictures/none.png: no such file" in streams.err
    assert "19 pairs to train on; held out: 3 queries to choose the weights by and 2 others" in streams.err
    listed = [json.loads(line) for line in (tmp_path / "mine.work" / "left_out.jsonl").read_text().splitlines()]
    assert [entry["where"].rpartition(":")[2] for entry in listed] == ["27", "28"]
    changed = np.abs(vectors(out) - vectors(retriever)).max()
    assert output["helped"] == (changed > 1e-5) == (output["chosen_by"]["after"] > output["chosen_by"]["before"])
    assert Retriever.from_pretrained(out, device="cpu").instructions == {
        ("text", "image"): "Find a picture that matches this."
    }
    assert main(command(table, retriever, out)) == 2  # the folder is there now


def test_what_is_learnt_is_kept_and_told(table, retriever, tmp_path, capsys, monkeypatch):
    rising(monkeypatch)
    out = tmp_path / "mine"
    assert main(command(table, retriever, out)) == 0
    shown = capsys.readouterr().out
    assert "text -> image" in shown
    assert "95 % interval over queries" in shown
    assert "did not help" not in shown
    assert np.abs(vectors(out) - vectors(retriever)).max() > 1e-3


def test_a_training_that_does_not_help_leaves_the_model_as_it_was(table, retriever, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(HeldOut, "figures", lambda self, encoder: {MEAN: 0.5})
    out = tmp_path / "mine"
    assert main(command(table, retriever, out)) == 0
    assert "did not help" in capsys.readouterr().out
    np.testing.assert_array_equal(vectors(out), vectors(retriever))


def test_an_interrupted_run_goes_on_and_ends_as_one_that_was_not(table, retriever, tmp_path, capsys, monkeypatch):
    rising(monkeypatch)
    assert main(command(table, retriever, tmp_path / "whole")) == 0
    rising(monkeypatch, stop_at=4)  # before, steps 1 and 2, and in step 3
    assert main(command(table, retriever, tmp_path / "cut")) == 130
    assert not (tmp_path / "cut").exists()
    calls = rising(monkeypatch, start=3)
    assert main(command(table, retriever, tmp_path / "cut")) == 0
    assert len(calls) == 2  # steps 3 and 4: neither the figures from before nor the first steps again
    # Rounding differs by how memory is aligned on some processors, and four steps of training add to it.
    np.testing.assert_allclose(vectors(tmp_path / "cut"), vectors(tmp_path / "whole"), atol=1e-5)


def test_a_run_cut_off_after_training_only_measures_again(table, retriever, tmp_path, capsys, monkeypatch):
    rising(monkeypatch)
    measured = HeldOut.ranks
    monkeypatch.setattr(run, "gains", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    assert main(command(table, retriever, tmp_path / "cut")) == 130
    monkeypatch.undo()
    assert HeldOut.ranks is measured
    calls = rising(monkeypatch)
    assert main(command(table, retriever, tmp_path / "cut")) == 0
    assert calls == []


def test_other_data_do_not_go_on_in_the_same_working_folder(table, retriever, tmp_path, capsys, monkeypatch):
    rising(monkeypatch, stop_at=3)
    assert main(command(table, retriever, tmp_path / "cut")) == 130
    table.write_text(table.read_text(encoding="utf-8-sig") + "another;pictures/0.png\n")
    assert main(command(table, retriever, tmp_path / "cut")) == 2
    assert "unfinished run of other settings is there (data differ); remove that folder" in capsys.readouterr().err


def test_instructions_negatives_and_every_pair_of_modalities(table, retriever, tmp_path):
    rows = []
    for n in range(12):
        picture = f"pictures/{n}.png"
        rows.append({"query_text": f"caption {n}", "positive_image": picture, "instruction": "Find it."})
        rows.append({"query_image": picture, "positive_text": f"caption {n}", "negative_text": ["no", "never"]})
        rows.append({"query_image": f"pictures/{n + 12}.png", "positive_text": f"t{n}", "positive_image": picture})
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    changes = {"steps": 2, "batch_size": 4, "precision": "fp32", "eval_every": 1}
    report = run.fine_tune(retriever, path, tmp_path / "mine", changes=changes, show_progress=False, say=lambda _: None)
    assert report["config"]["hard_negatives"] == 2
    assert set(report["gains"]["kinds"]) <= {"text -> image", "image -> text", "image -> image+text"}
    assert len(report["gains"]["kinds"]) >= 2
    output = Retriever.from_pretrained(tmp_path / "mine", device="cpu").instructions
    assert output == {("text", "image"): "Find it." if report["helped"] else "Find a picture that matches this."}


def test_rows_without_an_instruction_take_the_retrievers_own(table, retriever, tmp_path):
    from puma.data.pair_tables import PairTable
    from puma.training.finetune.examples import read_examples
    from puma.training.finetune.split import split_examples

    examples = read_examples(PairTable(table, {"query_text": "caption", "positive_image": "path"}), tmp_path / "kept")
    skips = []
    tuning = run.tuning_of(
        examples, split_examples(examples.rows), Retriever.from_pretrained(retriever, device="cpu"), skips
    )
    assert {pair.instruction for pair in tuning.pairs} == {"Find a picture that matches this."}
    assert {question.instruction for question in tuning.choose.questions} == {"Find a picture that matches this."}
    for pair in tuning.pairs:  # neither another right answer nor the query itself is a negative
        assert pair.known == {pair.candidate_id, pair.query_id.partition("-")[0]}


def test_held_out_pictures_that_cannot_be_read_are_left_out(table, retriever, tmp_path, capsys):
    for n in range(0, 24, 3):
        (table.parent / "pictures" / f"{n}.png").write_bytes(b"\x89PNG\r\n\x1a\n, broken off %d" % n)
    # of the training pairs some are broken too: counted and replaced, as in every training
    assert main(command(table, retriever, tmp_path / "mine", "--json")) == 0
    streams = capsys.readouterr()
    output = json.loads(streams.out)["data"]
    assert output["choose"] + output["measure"] < 5
    assert output["left_out"] == 2 + 5 - output["choose"] - output["measure"]
    assert "held-out pair" in streams.err
    assert "pairs replaced, their images cannot be used" in streams.err


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--layers", "2"], "--layers: not with a table of pairs"),
        (["--distil-steps", "3", "--dry-run"], "--distil-steps, --dry-run: not with"),
        (["--held-out", "1.5"], "held_out=1.5"),
        (["--strict"], "2 rows were left out"),
        (["--set", "lerning_rate=1"], "lerning_rate"),
        (["--set", "learning_rate=-1"], "learning_rate"),
        (["--columns", "query_text=capshun,positive_image=path"], "'capshun', and the file has ['caption', 'path']"),
        (["--columns", "text=caption"], "there is no field 'text'"),
        (["--base", "./nowhere"], "nowhere"),
        (["--data", "none.csv"], "none.csv: no such file"),
    ],
)
def test_mistakes_are_one_line_and_make_no_model(table, retriever, tmp_path, capsys, more, said):
    assert main(command(table, retriever, tmp_path / "mine", *more)) == 2
    err = capsys.readouterr().err
    assert said in err
    assert "Traceback" not in err
    assert not (tmp_path / "mine").exists()


def test_a_base_is_no_retriever_to_train_on(table, base, tmp_path):
    with pytest.raises(InputError, match="not a retriever"):
        run.fine_tune(base, table, tmp_path / "mine", columns={"query_text": "caption", "positive_image": "path"})


def test_stored_vision_features_train_as_pixels_do(table, retriever, tmp_path, monkeypatch):
    changes = {"steps": 2, "batch_size": 4, "precision": "fp32", "eval_every": 1, "learning_rate": 1e-3}
    asked = []

    def store(paths, home):
        asked.extend(paths)
        return features_of(retriever, paths, home, show_progress=False)

    for name, how in (("pixels", None), ("stored", store)):
        rising(monkeypatch)
        run.fine_tune(
            retriever,
            table,
            tmp_path / name,
            columns={"query_text": "caption", "positive_image": "path"},
            changes=changes,
            store=how,
            show_progress=False,
        )
    assert sorted(asked) == sorted((table.parent / "pictures").iterdir())
    assert has_known_tower(retriever)
    assert (tmp_path / "stored.work" / "features").is_dir()
    np.testing.assert_allclose(vectors(tmp_path / "stored"), vectors(tmp_path / "pixels"), atol=2e-3)  # fp16 is kept
    assert not has_known_tower(tmp_path)


@pytest.mark.slow
def test_a_killed_command_goes_on(table, retriever, tmp_path, capsys):
    words = command(table, retriever, tmp_path / "mine", settings=[*QUICK, "steps=400", "eval_every=20"])
    child = subprocess.Popen([sys.executable, "-m", "puma.cli", *words], stderr=subprocess.DEVNULL)
    try:
        while not latest_checkpoint(tmp_path / "mine.work" / "retrieve", clean=False):
            assert child.poll() is None
            time.sleep(0.05)
    finally:
        child.kill()
        child.wait()
    checkpoint = Path(latest_checkpoint(tmp_path / "mine.work" / "retrieve"))
    done, written = step_of(str(checkpoint)), (checkpoint / MARK).stat().st_mtime_ns
    assert 0 < done < 400
    words = command(table, retriever, tmp_path / "mine", "--json", settings=[*QUICK, f"steps={done + 1}"])
    assert main(words) == 0
    output = json.loads(capsys.readouterr().out)
    assert output["steps"] == output["log"][-1]["step"] == done + 1
    assert (checkpoint / MARK).stat().st_mtime_ns == written  # the steps up to it were not done again


def test_the_command_reads_what_a_spreadsheet_saves_as_unicode_text(table, retriever, tmp_path, capsys):
    lines = table.read_text(encoding="utf-8-sig").splitlines()
    text = tmp_path / "pairs.tsv"
    text.write_bytes("\r\n".join(["sep=;", *lines]).encode("utf-16"))
    assert main(command(text, retriever, tmp_path / "mine", "--json", settings=[*QUICK, "steps=1"])) == 0
    streams = capsys.readouterr()
    output = json.loads(streams.out)["data"]
    assert (output["pairs"], output["repeated"], output["left_out"]) == (24, 1, 2)
    assert f"{text}:28: {table.parent}/pictures/none.png: no such file" in streams.err


def test_columns_need_a_table(tmp_path, capsys):
    assert main(["train", "mini", "--columns", "query_text=a", "--out", str(tmp_path / "out")]) == 2
    assert "go with a table of pairs" in capsys.readouterr().err


def test_the_folder_is_named_after_the_table(table, retriever, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = command(table, retriever, "OUT")
    del words[words.index("--out") : words.index("--out") + 2]
    assert main(words) == 0
    assert (tmp_path / "pairs-retriever" / "config.json").is_file()


def pairs(count, candidates=None):
    return [
        Pair(PROBE[0], PROBE[1], None, 1, f"q{n}", f"c{n % (candidates or count)}", frozenset()) for n in range(count)
    ]


@pytest.mark.parametrize(
    ("count", "candidates", "batch", "steps"),
    [(160, None, 64, 40), (8, None, 4, 40), (2, None, 2, 40), (16_000, None, 64, 1000), (6400, None, 64, 500),
     (100, 7, 3, 167)],
)  # fmt: skip
def test_defaults_follow_the_size_of_the_data(retriever, count, candidates, batch, steps):
    config = default_config(Retriever.from_pretrained(retriever, device="cpu").model, pairs(count, candidates))
    assert (config.batch_size, config.steps, config.eval_every) == (batch, steps, steps // 8)
    assert (config.lora_rank, config.hard_negatives, config.minutes) == (0, 0, 10)


def test_a_model_keeps_the_lengths_it_was_trained_for(retriever):
    tuned = Retriever.from_pretrained(retriever, device="cpu")
    assert default_config(tuned.model, pairs(100)).dimensions == ()
    tuned.dimensions = (8, 16)
    assert default_config(tuned.model, pairs(100)).dimensions == (8, 16)
    assert default_config(tuned.model, pairs(100), {"dimensions": [8]}).dimensions == (8,)


def test_changes_go_before_the_defaults(retriever):
    model = Retriever.from_pretrained(retriever, device="cpu").model
    config = default_config(model, pairs(100), {"steps": 24, "batch_size": 10, "stage": "distil"})
    assert (config.steps, config.eval_every, config.batch_size, config.stage) == (24, 3, 10, "retrieve")
    with pytest.raises(InputError, match="batch_size='many'"):
        default_config(model, pairs(100), {"batch_size": "many"})
