"""From a result back to its file: whole paths, folders, near-duplicates, removing by path, folders without an index."""

import json
import os
import subprocess
import sys

import pytest
from PIL import Image

from puma.cli import app as cli
from support.encoders import ToyEncoder

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}


@pytest.fixture(autouse=True)
def toy(monkeypatch, tmp_path):
    monkeypatch.setenv("PUMA_MODEL", "toy")
    monkeypatch.setenv("PUMA_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("puma.retriever.model.Retriever.from_pretrained", lambda *_, **__: ToyEncoder())


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    for name in ("large", "small"):
        (folder / name).mkdir(parents=True)
        for colour, value in COLOURS.items():
            side = 64 if name == "large" else 32
            Image.new("RGB", (side, side), value).save(folder / name / f"{colour} one.png", compress_level=1)
    return folder


def run(capsysbinary, *arguments):
    code = cli.main([str(argument) for argument in arguments])
    captured = capsysbinary.readouterr()
    return code, captured.out, captured.err.decode()


@pytest.fixture
def index(pictures, tmp_path, capsysbinary):
    deep = pictures / ("d" * 120) / ("e" * 120)
    deep.mkdir(parents=True)
    Image.new("RGB", (9, 9), (250, 5, 5)).save(deep / "red far away.png")
    (tmp_path / "rows.jsonl").write_text(
        json.dumps({"text": "a red thing " * 40, "image": "pictures/large/red one.png"}) + "\n"
        + json.dumps({"text": "red words " * 40}) + "\n"
    )  # fmt: skip
    made = tmp_path / "my.index"
    assert run(capsysbinary, "index", "add", made, pictures, tmp_path / "rows.jsonl")[0] == 0
    return made


def test_a_long_path_and_a_path_with_a_long_caption_are_shown_whole(index, pictures, capsysbinary):
    for command in (("search", index, "red", "-k", "20"), ("index", "ls", index)):
        code, out, _ = run(capsysbinary, *command)
        lines = out.decode().splitlines()
        assert (code, len(lines)) == (0, 9)
        for path in pictures.rglob("*.png"):
            assert sum(str(path) in line for line in lines) == (
                2 if path.name == "red one.png" and path.parent.name == "large" else 1
            )
        (captioned,) = (line for line in lines if "a red thing" in line)
        assert captioned.index(str(pictures)) < captioned.index("a red thing")
        assert captioned.endswith("…")
        assert len(next(line for line in lines if "red words" in line)) < 220


def test_paths_alone_for_other_programs(index, pictures, capsysbinary):
    wanted = {str(path) for path in pictures.rglob("*.png")}
    for command in (("search", index, "red", "-k", "20"), ("index", "ls", index)):
        code, out, err = run(capsysbinary, *command, "--paths")
        lines = out.decode().splitlines()
        assert (code, set(lines), len(lines)) == (0, wanted, len(wanted))
        assert "left out, because they have no file: 1" in err
        _, null, _ = run(capsysbinary, *command, "-0")
        assert null.decode().split("\0") == [*lines, ""]
        listed = subprocess.run(["xargs", "-0", "ls", "-d"], input=null, capture_output=True, check=True)
        assert set(listed.stdout.decode().splitlines()) == wanted
        code, _, err = run(capsysbinary, *command, "--paths", "--json")
        assert (code, "one of --json and --paths" in err) == (2, True)


def test_only_a_folder(index, pictures, capsysbinary, monkeypatch):
    monkeypatch.chdir(pictures)
    for folder in ("small", "./small/", pictures / "small"):
        _, out, _ = run(capsysbinary, "search", index, "red", "-k", "20", "--paths", "--folder", folder)
        assert set(out.decode().splitlines()) == {str(path) for path in (pictures / "small").iterdir()}
    _, out, _ = run(capsysbinary, "search", index, "red", "--json", "--folder", ".", "--where", "width=32")
    assert {hit["payload"]["width"] for hit in json.loads(out)} == {32}
    _, out, err = run(capsysbinary, "search", index, "red", "--folder", "nowhere", "--where", "width<9")
    assert out == b""
    assert "nothing found: the index has no items for --where 'width<9' and --folder nowhere" in err


def test_near_duplicates_and_a_least_score(index, capsysbinary):
    _, out, _ = run(capsysbinary, "search", index, "red", "--json", "--modality", "image", "-k", "20")
    plain = json.loads(out)
    _, out, _ = run(capsysbinary, "search", index, "red", "--json", "--modality", "image", "--group")
    groups = json.loads(out)
    assert len(plain) == 7
    assert sorted(len(one["duplicates"]) for one in groups) == [1, 1, 2]
    assert {name for one in groups for name in (one["id"], *one["duplicates"])} == {hit["id"] for hit in plain}
    _, out, _ = run(capsysbinary, "search", index, "red", "--modality", "image", "--group", "-k", "1")
    assert "(+2 alike)" in out.decode()
    least = plain[2]["score"]
    _, out, _ = run(capsysbinary, "search", index, "red", "--json", "--modality", "image", "--min-score", least)
    assert [hit["id"] for hit in json.loads(out)] == [hit["id"] for hit in plain if hit["score"] >= least]
    code, out, err = run(capsysbinary, "search", index, "red", "--min-score", "1")
    assert (code, out, "score of at least 1" in err) == (0, b"", True)
    assert run(capsysbinary, "search", index, "red", "--min-score", "2")[0] == 2


def test_removing_by_path(index, pictures, capsysbinary):
    code, out, _ = run(capsysbinary, "index", "rm", index, "--path", pictures / "small")
    assert (code, b"3 removed; 6 items in all" in out) == (0, True)
    code, _, err = run(capsysbinary, "index", "rm", index, "--path", pictures / "small")
    assert (code, "nothing in it came from" in err) == (2, True)
    code, _, err = run(capsysbinary, "index", "rm", index)
    assert (code, "give ids to remove, or --path" in err) == (2, True)
    assert (pictures / "small" / "red one.png").exists()


def test_a_folder_is_searched_without_an_index_of_ones_own(pictures, tmp_path, capsysbinary, monkeypatch):
    monkeypatch.chdir(pictures / "large")
    code, out, err = run(capsysbinary, "search", ".", "green", "--paths", "-k", "1")
    assert (code, out.decode().strip()) == (0, str(pictures / "large" / "green one.png"))
    assert "3 added" in err
    assert sorted(path.name for path in (pictures / "large").iterdir()) == sorted(f"{c} one.png" for c in COLOURS)
    os.remove("green one.png")
    Image.new("RGB", (5, 5), (0, 200, 0)).save("grass.png")
    code, out, err = run(capsysbinary, "search", pictures / "large", "green", "--paths", "-k", "1")
    assert (code, out.decode().strip()) == (0, str(pictures / "large" / "grass.png"))
    assert "1 added, 1 removed" in err
    assert len(list((tmp_path / "home" / "folders").iterdir())) == 1
    assert run(capsysbinary, "search", ".", "green")[2] == ""
    empty = tmp_path / "empty"
    empty.mkdir()
    for place in (empty, tmp_path / "none.index"):
        code, _, err = run(capsysbinary, "search", place, "green")
        assert (code, "no index there" in err) == (2, True)


def test_a_date_is_compared_as_a_word(tmp_path, capsysbinary):
    rows = [{"text": f"red {year}", "id": str(year), "date": f"{year}-05-31T18:30:00"} for year in (2022, 2023, 2024)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    index = tmp_path / "my.index"
    run(capsysbinary, "index", "add", index, tmp_path / "rows.jsonl")
    for condition, ids in (
        ("date>=2023", {"2023", "2024"}),
        ("date<2024-01-01", {"2022", "2023"}),
        ("date<2022", set()),
    ):
        _, out, _ = run(capsysbinary, "search", index, "red", "--json", "--where", condition)
        assert {hit["id"] for hit in json.loads(out)} == ids


@pytest.mark.skipif(sys.platform == "win32", reason="names with control characters")
def test_names_and_texts_that_would_steer_a_terminal_are_shown_with_escapes(tmp_path, capsysbinary):
    folder = tmp_path / "odd"
    folder.mkdir()
    for name in ("a\x1b[31m.png", "b\nred.png"):  # the same content: one is a further place of the other
        Image.new("RGB", (9, 9), "red").save(folder / name)
    (folder / "c\x1b]0;title\x07.png").write_bytes(b"no image")
    (tmp_path / "t.jsonl").write_text(json.dumps({"text": "red \x1b[2J \u202efox"}) + "\n")
    made = tmp_path / "i"
    code, out, _ = run(capsysbinary, "index", "add", made, folder, tmp_path / "t.jsonl", "--json")
    assert (code, json.loads(out)["skipped"]) == (0, 1)
    shown = [run(capsysbinary, "index", "add", made, folder)[2].encode()]
    shown += [
        run(capsysbinary, *command)[1]
        for command in (("search", tmp_path / "i", "red"), ("index", "ls", tmp_path / "i"))
    ]
    for text in shown:
        assert not [letter for letter in text.decode() if ord(letter) < 32 and letter not in "\n\r"]
        assert "\u202e" not in text.decode()
    assert all(rb"a\x1b[31m.png" in text and rb"b\nred.png" in text for text in shown[1:])
    assert rb"c\x1b]0;title\x07.png" in shown[0]
    paths = run(capsysbinary, "search", made, "red", "-0")[1]
    assert b"\x1b" in paths or b"b\nred" in paths  # other programs get the name as it is


@pytest.mark.skipif(sys.platform != "linux", reason="names that are no text")
def test_a_name_that_no_terminal_can_show_is_printed_as_its_bytes(capsysbinary):
    from puma.cli.commands._hits import print_paths

    print_paths([{"image": "/a/\udcff.png"}, {"text": "x"}], True)
    assert capsysbinary.readouterr().out == b"/a/\xff.png\0"
