"""The commands index, search, evaluate and embed: bad input is one line and the right exit code; a real tiny model."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from puma.cli import app as cli
from puma.errors import DownloadError
from puma.search import Searcher
from support.encoders import ToyEncoder


@pytest.fixture(autouse=True)
def no_model_of_ones_own(monkeypatch):
    """No PUMA_MODEL from outside, and no default model: it would be fetched."""
    monkeypatch.delenv("PUMA_MODEL", raising=False)
    monkeypatch.setattr("puma.mini.default.ADAPTER", Path("gone.safetensors"))


@pytest.fixture
def toy(monkeypatch):
    monkeypatch.setenv("PUMA_MODEL", "toy")
    monkeypatch.setattr("puma.retriever.model.Retriever.from_pretrained", lambda *_, **__: ToyEncoder())


@pytest.fixture
def things(tmp_path):
    folder = tmp_path / "things"
    folder.mkdir()
    for name, colour in {"red": (255, 0, 0), "green": (0, 255, 0)}.items():
        Image.new("RGB", (8, 8), colour).save(folder / f"{name}.png")
    (tmp_path / "texts.txt").write_text("blue whale\n\nred fox\n")
    return folder


def run(capsys, *arguments):
    code = cli.main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_vectors_are_shortened_only_to_what_the_model_was_trained_for(toy, things, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(ToyEncoder, "dimensions", (8, 16), raising=False)
    index = tmp_path / "short.index"
    code, _, err = run(capsys, "index", "add", index, things, "--dimensions", "12")
    assert code == 2
    assert "--dimensions=12: this model was trained for vectors of 8, 16, 32 numbers; give one of them" in err
    assert not index.exists()
    assert run(capsys, "index", "add", index, things, "--dimensions", "8")[0] == 0
    assert json.loads(run(capsys, "index", "stats", index, "--json")[1])["dim"] == 8
    assert run(capsys, "index", "add", index, tmp_path / "texts.txt")[0] == 0  # the index knows its length
    hits = json.loads(run(capsys, "search", index, "green", "--modality", "image", "--json")[1])
    assert hits[0]["payload"]["image"].endswith("green.png")
    code, _, err = run(capsys, "index", "add", index, things, "--dimensions", "16")
    assert code == 2
    assert "--dimensions 16: " in err
    assert "holds vectors of 8 numbers; leave it out" in err
    out = tmp_path / "vectors.npz"
    assert run(capsys, "embed", things, "--out", out, "--dimensions", "16")[0] == 0
    assert run(capsys, "embed", things, "--out", tmp_path / "whole.npz")[0] == 0
    with np.load(out) as short, np.load(tmp_path / "whole.npz") as whole:
        cut = whole["vectors"][:, :16]
        np.testing.assert_allclose(short["vectors"], cut / np.linalg.norm(cut, axis=1, keepdims=True), atol=1e-6)
        assert (str(short["model"]), str(whole["model"])) == ("toy-1:16", "toy-1")


def test_add_search_and_look(toy, things, tmp_path, capsys):
    index = tmp_path / "my.index"
    code, out, err = run(capsys, "index", "add", index, things, tmp_path / "texts.txt")
    assert code == 0
    assert "4 added, 0 there already, 1 skipped, 0 other files ignored; 4 items in all" in out
    assert "texts.txt:2: empty line" in err
    code, out, _ = run(capsys, "index", "add", index, things, "--json")
    assert json.loads(out) | {"skips": []} == {
        "embedded": 0, "present": 2, "updated": 0, "repeated": 0, "places": 0, "ignored": 0, "deleted": 0, "kept": 0,
        "skipped": 0, "ignored_by": {}, "notes": [],
        "skips": [], "rows": 4,
    }  # fmt: skip
    code, out, _ = run(capsys, "search", index, "green", "-k", "2", "--modality", "image")
    assert "green.png" in out.splitlines()[0]
    assert len(out.splitlines()) == 2
    code, out, _ = run(capsys, "search", index, "fox", "--image", things / "red.png", "--json")
    assert set(json.loads(out)[0]) == {"id", "score", "modality", "payload", "thumbnail", "other_payloads"}
    code, out, _ = run(capsys, "index", "stats", index, "--json")
    assert json.loads(out)["modalities"] == {"text": 2, "image": 2, "image,text": 0}
    code, out, _ = run(capsys, "index", "ls", index, "-n", "1", "--modality", "text")
    assert len(out.splitlines()) == 1
    assert code == 0


def test_the_searchers_order_and_other_ways_to_merge(toy, things, tmp_path, capsys):
    index = tmp_path / "my.index"
    run(capsys, "index", "add", index, things, tmp_path / "texts.txt")
    searcher = Searcher(ToyEncoder(), index)
    for merge in (None, "calibrated", "rank", "score", "single"):
        code, out, err = run(capsys, "search", index, "red", "--json", *(["--merge", merge] if merge else []))
        expected = searcher.search("red", 10, **({"merge": merge} if merge else {}))
        assert (code, [hit["id"] for hit in json.loads(out)]) == (0, [hit.id for hit in expected]), err
    code, _, err = run(capsys, "search", index, "red", "--merge", "best")
    assert code == 2
    assert "merge must be one of 'calibrated', 'rank', 'score', 'single', got 'best'" in err


@pytest.fixture
def filled(toy, things, tmp_path, capsys):
    """An index of two images and three captions with fields."""
    rows = [
        {"text": "red shoe", "id": "s1", "brand": "b3", "price": 19.5, "year": 2020, "code": "7"},
        {"text": "red boot", "id": "s2", "brand": "b3", "price": 40, "year": "2020", "code": 7},
        {"text": "blue shoe", "id": "s3", "brand": "b4 & co", "price": 5, "sale": True},
    ]
    (tmp_path / "shop.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    index = tmp_path / "my.index"
    assert run(capsys, "index", "add", index, things, tmp_path / "shop.jsonl")[0] == 0
    return index


def ids(out):
    return [hit["id"] for hit in json.loads(out)]


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        (["brand=b3"], {"s1", "s2"}),
        (["brand = b4 & co"], {"s3"}),
        (["price<20"], {"s1", "s3"}),
        (["price>=19.5", "brand=b3"], {"s1", "s2"}),
        (["price<=5"], {"s3"}),
        (["price>19.5"], {"s2"}),
        (["year=2020"], {"s1", "s2"}),
        (["code=7"], {"s1", "s2"}),
        (['code="7"'], {"s1"}),
        (["sale=true"], {"s3"}),
        (["code!=7", "modality=text"], {"s3"}),
        (['{"type": "in", "key": "brand", "value": ["b3", "b9"]}', "price<20"], {"s1"}),
        (["brand=none"], set()),
    ],
)
def test_where_on_the_command_line(filled, capsys, conditions, expected):
    flags = [part for condition in conditions for part in ("--where", condition)]
    code, out, err = run(capsys, "search", filled, "red", "--json", *flags)
    assert (code, set(ids(out))) == (0, expected), err
    code, out, _ = run(capsys, "index", "ls", filled, "--json", *flags)
    assert (code, set(ids(out))) == (0, expected)


def test_embed_reads_the_columns_that_its_message_names(toy, things, tmp_path, capsys):
    table = tmp_path / "pairs.csv"
    table.write_text("query_text,positive_image\nred,things/red.png\ngreen,things/green.png\n")
    words = ("embed", table, "--out", tmp_path / "v.npz")
    code, _, err = run(capsys, *words)
    assert code == 2
    assert "--text-column and --image-column" in err
    assert run(capsys, *words, "--text-column", "-", "--image-column", "positive_image")[0] == 0
    assert list(np.load(tmp_path / "v.npz")["modalities"]) == ["image", "image"]


@pytest.mark.parametrize(
    ("condition", "words"),
    [
        ("price<<3", "two signs"),
        ("price=<3", "two signs"),
        ("price=>3", "two signs"),
        ("price<>3", "two signs"),
        ("price<", "value is missing"),
        ("10<price<20", "give --where for each"),
        ("price<3 and brand=b3", "give --where for each"),
        ("brand=b3 and price<3", "give --where for each"),
        ("brand=b3 && price < 3", "give --where for each"),
        ("price!3", "KEY=VALUE"),
    ],
)
def test_a_condition_that_means_something_else_is_refused(filled, capsys, condition, words):
    for command in (("search", filled, "red"), ("index", "ls", filled)):
        code, out, err = run(capsys, *command, "--where", condition)
        assert (code, out) == (2, "")
        assert words in err


@pytest.mark.parametrize(("condition", "count"), [("brand==b3", 2), ("price==5", 1), ('brand="<3 and a=b"', 0)])
def test_conditions_that_look_odd_and_are_not(filled, capsys, condition, count):
    code, out, _ = run(capsys, "search", filled, "red", "--json", "--where", condition)
    assert (code, len(json.loads(out))) == (0, count)


def test_what_is_no_query_is_said_in_the_commands_own_words(filled, capsys):
    for given in ((), ("",), ("  ",)):
        code, _, err = run(capsys, "search", filled, *given)
        assert code == 2
        assert 'nothing to search for: give words, as in puma search INDEX "a red fox", or --image FILE' in err
    for query, words in (
        ("data:image/png;base64,iVBORw0KGgo=", "--image FILE"),
        ("iVBORw0KGgo" + "A" * 90, "--image FILE"),
    ):
        code, _, err = run(capsys, "search", filled, query)
        assert (code, words in err) == (2, True)
    code, _, err = run(capsys, "search", filled, "--image", "https://example.org/a.png")
    assert (code, "never fetched" in err) == (2, True)
    code, _, err = run(capsys, "index", "add", filled, "https://example.org/a.png")
    assert (code, "never fetched" in err) == (2, True)


def test_the_version(capsys):
    import puma

    for flag in ("--version", "-V"):
        assert run(capsys, flag) == (0, f"puma {puma.__version__}\n", "")


def test_minus_offset_and_several_modalities(filled, capsys):
    _, out, _ = run(capsys, "search", filled, "red shoe boot", "--json", "--minus", "boot", "--modality", "text")
    assert ids(out)[0] == "s1"
    _, out, _ = run(capsys, "search", filled, "red shoe boot", "--json", "--minus", "shoe", "--modality", "text")
    assert ids(out)[0] == "s2"
    whole = ids(run(capsys, "search", filled, "red", "--json")[1])
    assert ids(run(capsys, "search", filled, "red", "-k", "2", "--offset", "2", "--json")[1]) == whole[2:4]
    code, out, _ = run(capsys, "search", filled, "red", "-k", "1", "--offset", "2")
    assert out.startswith("  3  ")
    code, out, err = run(capsys, "search", filled, "red", "--offset", "9")
    assert (code, out) == (0, "")
    assert "no more than 9 items" in err
    _, out, _ = run(capsys, "search", filled, "red", "--json", "--modality", "image", "--modality", "text")
    assert len(ids(out)) == 5
    assert (
        "no items for --modality image,text and --where 'a=b'"
        in run(capsys, "search", filled, "red", "--modality", "image,text", "--where", "a=b")[2]
    )


def test_sync_and_its_refusal(filled, things, tmp_path, capsys):
    (things / "red.png").unlink()
    code, out, _ = run(capsys, "index", "add", filled, things, "--sync")
    assert (code, "0 added, 1 there already, 1 removed" in out) == (0, True)
    (things / "green.png").unlink()
    code, _, err = run(capsys, "index", "add", filled, things, "--sync")
    assert (code, "nothing is there now" in err) == (2, True)
    things.rmdir()
    assert run(capsys, "index", "add", filled, things, "--sync")[0] == 2
    code, out, err = run(capsys, "index", "add", filled, things, "--sync", "--allow-empty", "--json")
    assert code == 0, err
    assert (json.loads(out)["deleted"], json.loads(out)["rows"]) == (1, 3)
    assert "no such file" in run(capsys, "index", "add", filled, things, "--sync", "--allow-empty")[2]
    assert run(capsys, "index", "add", filled, tmp_path / "shop.jsonl", "--allow-empty")[0] == 2


def test_verify_tells_faults_and_exits_with_1(filled, capsys, monkeypatch):
    code, out, _ = run(capsys, "index", "verify", filled)
    assert (code, "5 items, no faults" in out) == (0, True)
    assert json.loads(run(capsys, "index", "verify", filled, "--json")[1]) == {"rows": 5, "faults": []}
    monkeypatch.setattr("puma.index.Index.verify", lambda self: ["one thing is wrong"])
    code, out, _ = run(capsys, "index", "verify", filled)
    assert (code, out.splitlines()[0]) == (1, "one thing is wrong")
    assert out.endswith("5 items, 1 fault\n")


def test_compact_and_rm(filled, capsys):
    code, out, err = run(capsys, "index", "rm", filled, "s1", "none", "s2")
    assert (code, "2 removed; 3 items in all" in out, err) == (0, True, "none: no such item\n")
    assert json.loads(run(capsys, "index", "rm", filled, "s3", "--json")[1]) == {"removed": 1, "missing": [], "rows": 2}
    code, _, err = run(capsys, "index", "rm", filled, "s3")
    assert (code, "no item has the id 's3'" in err) == (2, True)
    code, out, _ = run(capsys, "index", "compact", filled)
    assert (code, "bytes after" in out) == (0, True)
    assert run(capsys, "index", "verify", filled)[0] == 0
    assert json.loads(run(capsys, "index", "compact", filled, "--json")[1])["bytes_after"] > 0


@pytest.mark.parametrize("vectors", [False, True])
def test_export_holds_everything(filled, tmp_path, capsys, vectors):
    import pyarrow.parquet as pq

    from puma.index import Index

    rows = {row.id: row for row in Index(filled).page(99)}
    flags = ["--vectors"] if vectors else []
    for name in ("out.jsonl", "out.parquet"):
        code, out, _ = run(capsys, "index", "export", filled, tmp_path / name, *flags)
        assert (code, out) == (0, f"{tmp_path / name}: 5 items\n")
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    table = pq.read_table(tmp_path / "out.parquet").to_pylist()
    for found in (lines, [row | {"payload": json.loads(row["payload"])} for row in table]):
        assert {row["id"]: (row["modality"], row["payload"]) for row in found} == {
            name: (row.modality, row.payload) for name, row in rows.items()
        }
        assert all(("vector" in row) == vectors for row in found)
        for row in found if vectors else ():
            np.testing.assert_array_equal(np.float32(row["vector"]), rows[row["id"]].vector)
    assert not list(tmp_path.glob("*.partial"))


def test_exported_to_a_wrong_place(filled, tmp_path, capsys):
    for out, message in (("x.csv", "must end in .jsonl or .parquet"), ("gone/x.jsonl", "no such folder")):
        code, _, err = run(capsys, "index", "export", filled, tmp_path / out)
        assert (code, message in err) == (2, True)
    (tmp_path / "d.jsonl").mkdir()
    assert "is a folder" in run(capsys, "index", "export", filled, tmp_path / "d.jsonl")[2]


def test_an_interrupt_says_what_is_kept(toy, things, tmp_path, capsys, monkeypatch):
    class Stopped(ToyEncoder):
        def encode(self, items, *, instruction=None):
            if self.calls:
                raise KeyboardInterrupt
            return super().encode(items, instruction=instruction)

    monkeypatch.setattr("puma.retriever.model.Retriever.from_pretrained", lambda *_, **__: Stopped())
    code, out, err = run(capsys, "index", "add", tmp_path / "i", things, "--batch-size", "1")
    assert (code, out) == (130, "")
    assert f"{tmp_path / 'i'}: 1 items of this run are stored, 1 in all" in err
    assert "give the same command again to continue" in err


def test_embed_writes_vectors(toy, things, tmp_path, capsys):
    (things / "bad.png").write_bytes(b"no")
    code, _, err = run(capsys, "embed", things, "--out", tmp_path / "v.npz")
    assert code == 0
    assert "bad.png" in err
    with np.load(tmp_path / "v.npz") as stored:
        assert stored["vectors"].shape == (2, 32)
        assert list(stored["modalities"]) == ["image", "image"]
    assert run(capsys, "embed", things, "--out", tmp_path / "v.txt")[0] == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["search", "none.index", "x"], "no index there"),
        (["search", "none.index"], "nothing to search for"),
        (["search", "none.index", "--image", "gone.png"], "gone.png: no such file"),
        (["search", "none.index", "x", "--modality", "video"], "modality must be"),
        (["search", "none.index", "x", "-k", "0"], "-k"),
        (["search", "none.index", "x", "--offset", "-1"], "--offset"),
        (["search", "none.index", "x", "--where", "brand"], "give KEY=VALUE"),
        (["search", "none.index", "x", "--where", "{no"], "not JSON"),
        (["search", "none.index", "x", "--where", '{"type": "like"}'], "type must be one of"),
        (["search", "none.index", "x", "--where", "text=fox"], "not filtered by"),
        (["search", "none.index", "x", "--modality", "text", "--modality", "video"], "modality must be"),
        (["index", "add", "i", "texts.txt", "--allow-empty"], "--allow-empty goes with --sync"),
        (["index", "add", "i", "gone", "--sync", "--allow-empty"], "no such file or folder"),
        (["index", "verify", "none.index"], "no index there"),
        (["index", "compact", "none.index"], "no index there"),
        (["index", "export", "none.index", "x.jsonl"], "no index there"),
        (["index", "rm", "none.index", "x"], "no index there"),
        (["index", "rm", "none.index"], "give ids to remove"),
        (["search"], "Missing argument"),
        (["index", "add", "i", "gone.png"], "no such file or folder"),
        (["index", "add", "i"], "Missing argument"),
        (["index", "add", "full", "texts.txt"], "not an index; an index is a folder that PUMA fills"),
        (["index", "add", "i", "texts.txt", "--model", "gone"], "no such model folder"),
        (["index", "add", "i", "texts.txt"], "`puma quickstart` makes one"),
        (["index", "add", "i", "texts.txt", "--model", "puma-mini"], "`puma quickstart` makes one"),
        (["embed", "texts.txt", "--out", "x.npz"], "--model or PUMA_MODEL"),
        (["index", "stats", "none.index"], "no index there"),
        (["evaluate", "--root", "gone"], "no such folder"),
        (["embed", "gone", "--out", "x.npz"], "no such file or folder"),
        (["nonsense"], "No such command"),
        (["index", "nonsense"], "No such command"),
        (["search", "--nonsense"], "No such option"),
        ([], "Usage"),
        (["index"], "Usage"),
    ],
)
def test_a_users_mistake_is_a_message_and_exit_code_2(arguments, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "texts.txt").write_text("a\n")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    code, out, err = run(capsys, *arguments)
    assert code == 2
    assert message in out + err
    assert "Traceback" not in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full", "texts.txt"]  # nothing left behind


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (KeyboardInterrupt(), 130, "error: interrupted"),
        (DownloadError("no network"), 1, "error: no network\n"),
        (OSError(28, "No space left on device", "/x"), 1, "error: /x: No space left"),
        (MemoryError(), 1, "error: not enough memory"),
        (ZeroDivisionError("odd"), 1, "error: a defect in PUMA (ZeroDivisionError: odd)"),
    ],
)
def test_other_errors_are_one_line_and_a_traceback_only_on_request(
    error, code, message, things, tmp_path, capsys, monkeypatch
):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr("puma.retriever.model.Retriever.from_pretrained", fail)
    monkeypatch.setenv("PUMA_MODEL", "any")
    arguments = ["index", "add", tmp_path / "i", things]
    found, _, err = run(capsys, *arguments)
    assert found == code
    assert err.startswith(message)
    assert err.count("\n") == 1
    monkeypatch.setenv("PUMA_DEBUG", "1")
    assert "Traceback" in run(capsys, *arguments)[2]


@pytest.mark.parametrize(
    "command",
    [["index", name] for name in ("add", "ls", "stats", "verify", "compact", "export", "rm")]
    + [["search"], ["evaluate"], ["embed"]],
)
def test_every_command_helps_with_an_example(command, capsys):
    code, out, _ = run(capsys, *command, "--help")
    assert code == 0
    assert "Example: puma " + " ".join(command) in " ".join(out.split())


def program(*arguments, cwd):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, "-m", "puma.cli", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


def test_the_program_itself_exits_with_2_and_help_loads_no_torch(tmp_path):
    done = program("search", "none.index", "x", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: none.index: no index there")
    code = "import sys, puma.cli\nassert not {'torch', 'lancedb', 'transformers'} & set(sys.modules)"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    assert subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 0


def test_a_real_model_goes_all_the_way(base, things, tmp_path, capsys):
    from puma.retriever.model import Retriever

    Retriever.from_base(base, prompt="open-quote").save_pretrained(tmp_path / "model")
    arguments = ["--model", tmp_path / "model"]
    code, out, err = run(capsys, "index", "add", tmp_path / "i", things, tmp_path / "texts.txt", *arguments)
    assert (code, "4 added" in out) == (0, True), err
    code, out, _ = run(capsys, "search", tmp_path / "i", "--image", things / "red.png", "-k", "3", *arguments)
    assert code == 0
    assert len(out.splitlines()) == 3


def test_the_model_is_the_named_one_then_puma_model_then_the_default(tmp_path, monkeypatch):
    from puma.cli.commands import _shared

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("puma.retriever.model.Retriever.from_pretrained", lambda path, **_: str(path))
    monkeypatch.setattr("puma.mini.default.default_model", lambda **_: tmp_path / "made")
    assert _shared.load_retriever(None) == str(tmp_path / "made")
    monkeypatch.setenv("PUMA_MODEL", "other")
    assert _shared.load_retriever(None) == "other"
    assert _shared.load_retriever(Path("mine")) == "mine"
    assert _shared.load_retriever(Path("puma-mini")) == str(tmp_path / "made")
    (tmp_path / "puma-mini").mkdir()
    assert _shared.load_retriever(Path("puma-mini")) == "puma-mini"


def test_without_the_default_model_the_quickstarts_is_pointed_at_where_there_is_one(
    things, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "quickstart" / "model").mkdir(parents=True)
    (tmp_path / "runs" / "quickstart" / "model" / "config.json").write_text("{}")
    code, _, err = run(capsys, "index", "add", "i", things)
    assert code == 2
    assert "puma-mini" in err
    assert "--model runs/quickstart/model" in err


def test_an_index_of_another_model_says_which_was_taken(toy, things, tmp_path, capsys, monkeypatch):
    assert run(capsys, "index", "add", tmp_path / "i", things)[0] == 0
    monkeypatch.setattr(
        "puma.retriever.model.Retriever.from_pretrained", lambda *_, **__: ToyEncoder(fingerprint="toy-2")
    )
    code, _, err = run(capsys, "search", tmp_path / "i", "green")
    assert code == 2
    assert "was made with model toy-1" in err
    assert "No --model was given, so it was PUMA_MODEL=toy" in err
    code, _, err = run(capsys, "search", tmp_path / "i", "green", "--model", "other")
    assert code == 2
    assert "No --model" not in err
    monkeypatch.delenv("PUMA_MODEL")
    monkeypatch.setattr("puma.mini.default.default_model", lambda **_: tmp_path / "made")
    assert "it was puma-mini, the default" in run(capsys, "index", "add", tmp_path / "i", things)[2]


def test_sync_opens_the_index_once_and_walks_a_folder_once(toy, things, tmp_path, capsys, monkeypatch):
    from puma.index import lance

    run(capsys, "index", "add", tmp_path / "i", things)
    walks, opens = [], []
    walk, engine = os.walk, lance.LanceEngine
    monkeypatch.setattr(os, "walk", lambda *given, **options: walks.append(given) or walk(*given, **options))
    monkeypatch.setattr(lance, "LanceEngine", lambda *given: opens.append(given) or engine(*given))
    code, out, _ = run(capsys, "index", "add", tmp_path / "i", things, "--sync")
    assert (code, len(walks), len(opens)) == (0, 1, 1)
    assert "2 there already" in out
    opens.clear()
    assert run(capsys, "search", tmp_path / "i", "green")[0] == 0
    assert len(opens) == 1
