"""``puma doctor --mbeir``: what it prints, and its exit codes."""

import json
from pathlib import Path

import pytest

from puma.cli import app as cli
from support import benchmarks


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return benchmarks.published(tmp_path / "M-BEIR")


def run(capsys, *arguments):
    code = cli.main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_a_good_folder_is_exit_code_0(root, capsys):
    code, out, err = run(capsys, "doctor", "--mbeir", root, "--images", "all")
    assert code == 0
    assert out.splitlines()[-1] == "no faults"
    assert "108 files, 634 records" in out
    assert "cand_pool/global/mbeir_union_test_cand_pool.jsonl" in err


def test_a_table_is_told_how_it_becomes_a_folder(tmp_path, capsys):
    (tmp_path / "pairs.csv").write_text("query_text,positive_text\n")
    code, _, err = run(capsys, "doctor", "--mbeir", tmp_path / "pairs.csv")
    assert code == 2
    assert f"is a file; give a folder in M-BEIR's layout. puma convert {tmp_path / 'pairs.csv'} DIR" in err


def test_faults_are_exit_code_1_and_told_by_file(root, capsys):
    (root / "query/test/mbeir_cirr_task7_test.jsonl").write_text("{\n" * 25)
    (root / "mbeir_images/nights_images/red.jpg").unlink()
    (root / "instructions/query_instructions.tsv").unlink()
    code, out, _ = run(capsys, "doctor", "--mbeir", root, "--split", "test", "--images", "0")
    assert code == 1
    lines = out.splitlines()
    place = lines.index("query/test/mbeir_cirr_task7_test.jsonl")
    assert lines[place + 1].startswith("  malformed line: line 1: is not JSON")
    assert "  malformed line: ... and 5 more" in lines
    assert "  missing file: no such file" in lines
    assert any("shows mbeir_images/nights_images/red.jpg, which is missing" in line for line in lines)
    assert lines[-1].startswith("faults: ")
    assert "malformed line 25" in lines[-1]
    assert "missing file 1" in lines[-1]


def test_json_holds_counts_and_places(root, capsys):
    (root / "qrels/val/mbeir_oven_task8_val_qrels.txt").unlink()
    code, out, _ = run(capsys, "doctor", "--mbeir", root, "--json", "--images", "none")
    found = json.loads(out)
    assert code == 1
    assert (found["faults"], found["counts"]) == (1, {"missing file": 1})
    assert found["listed"] == [
        {
            "file": "qrels/val/mbeir_oven_task8_val_qrels.txt",
            "line": 0,
            "kind": "missing file",
            "message": "no such file",
        }
    ]
    assert (found["images"], found["opened"]) == (0, 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give a benchmark's folder by --mbeir"),
        (["--mbeir", "gone"], "no such folder"),
        (["--mbeir", "empty"], "no benchmark in M-BEIR's layout"),
        (["--mbeir", "good", "--images", "few"], "all, none or how many"),
        (["--mbeir", "good", "--split", "dev"], "splits must be some of"),
    ],
)
def test_a_users_mistake_is_exit_code_2(arguments, message, root, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    root.rename(tmp_path / "good")
    code, _, err = run(capsys, "doctor", *arguments)
    assert code == 2
    assert message in err
    assert "Traceback" not in err


def test_help_has_an_example(capsys):
    code, out, _ = run(capsys, "doctor", "--help")
    assert code == 0
    assert "Example: puma doctor --mbeir" in out


def test_images_are_tried_on_a_model(root, capsys, tmp_path):
    """A shape beyond Qwen's limits is noted, what its processor refuses by itself is a fault."""
    from PIL import Image

    from support import families

    base = families.build("qwen2_vl", tmp_path / "base")
    Image.new("RGB", (3000, 7)).save(root / "mbeir_images/nights_images/red.jpg")
    arguments = ("doctor", "--mbeir", root, "--split", "test", "--images", "all")
    code, out, _ = run(capsys, *arguments, "--model", base)
    assert code == 0
    assert "note: 2 of the images opened, mbeir_images/nights_images/red.jpg the first: sides of more than 200" in out
    assert "note: 2 of" not in run(capsys, *arguments)[1]
    settings = base / "processor_config.json"
    changed = json.loads(settings.read_text())
    changed["image_processor"]["size"] = {"height": 5, "width": 5}  # which this processor cannot work with
    settings.write_text(json.dumps(changed))
    code, out, _ = run(capsys, *arguments, "--model", base)
    assert code == 1
    assert "image the model refuses" in out
    assert "the model's image processor refuses it (" in out
    code, _, err = run(capsys, *arguments, "--model", tmp_path)
    assert code == 2
    assert "no model folder" in err
