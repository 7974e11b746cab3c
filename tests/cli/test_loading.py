"""``--dtype``, ``--attn`` and ``--layers`` reach the model from every command that loads one, checked at once."""

import numpy as np
import pytest
import torch

from puma.cli import app as cli
from puma.pruning import decoder_of
from puma.retriever.model import Retriever
from support import benchmarks

COMMANDS = ("embed", "evaluate", "mine", "index", "search", "serve")


@pytest.fixture(scope="module")
def folder(base, tmp_path_factory):
    path = tmp_path_factory.mktemp("loading") / "model"
    retriever = Retriever.from_base(base, layers=2, prompt="short", device="cpu")
    retriever.exits = (1,)
    retriever.save_pretrained(path)
    return path


@pytest.fixture
def loaded(monkeypatch):
    """Every retriever that a command loads."""
    found, plain = [], Retriever.from_pretrained.__func__

    def load(cls, *arguments, **options):
        found.append(plain(cls, *arguments, **options))
        return found[-1]

    monkeypatch.setattr(Retriever, "from_pretrained", classmethod(load))
    return found


def arguments(command, tmp_path, root):
    texts = tmp_path / "texts.txt"
    texts.write_text("red fox\nblue heart\n")
    return {
        "embed": ["embed", texts, "--out", tmp_path / "v.npz"],
        "evaluate": ["evaluate", "--root", root, "--tasks", "webqa_task1", "--pools", "local"],
        "mine": ["mine", "--root", root, "--split", "val", "--task", "webqa_task1", "--out", tmp_path / "mined"],
        "index": ["index", "add", tmp_path / "my.index", texts],
        "search": ["search", tmp_path / "my.index", "red"],
        "serve": ["serve", "--port", "0"],
    }[command]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_loads_the_model_as_it_is_told(command, folder, loaded, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PUMA_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("puma.serve.server.run", lambda *_, **__: 0)
    root = benchmarks.published(tmp_path / "M-BEIR")
    output = ["--model", folder, "--dtype", "bf16", "--attn", "eager", "--layers", "1"]
    if command == "search":
        assert cli.main([str(part) for part in [*arguments("index", tmp_path, root), *output]]) == 0
    code = cli.main([str(part) for part in [*arguments(command, tmp_path, root), *output]])
    assert code == 0, capsys.readouterr().err
    retriever = loaded[-1]
    assert {weight.dtype for weight in retriever.model.parameters()} == {torch.bfloat16}
    assert retriever.model.config.get_text_config()._attn_implementation == "eager"
    assert len(decoder_of(retriever.model).layers) == 1


@pytest.mark.parametrize("command", [*COMMANDS, "probe"])
def test_a_wrong_name_is_told_at_once(command, tmp_path, capsys):
    start = ["probe"] if command == "probe" else arguments(command, tmp_path, tmp_path / "gone")
    for flag, value, known in (("--dtype", "int4", "auto, fp32, bf16, fp16"), ("--attn", "flash", "flash_attention_2")):
        assert cli.main([str(part) for part in [*start, flag, value]]) == 2
        message = capsys.readouterr().err
        assert f"{flag} {value}: give one of" in message
        assert known in message


def test_half_precision_vectors_are_near_the_full_ones_and_never_mixed_with_them(folder, tmp_path, capsys):
    texts = tmp_path / "texts.txt"
    texts.write_text("red fox\nblue heart\n")
    rows = {}
    for dtype in ("fp32", "bf16"):
        out = tmp_path / f"{dtype}.npz"
        code = cli.main(["embed", str(texts), "--out", str(out), "--model", str(folder), "--dtype", dtype])
        assert code == 0, capsys.readouterr().err
        with np.load(out) as stored:
            rows[dtype] = stored["vectors"]
    cosines = (rows["fp32"] * rows["bf16"]).sum(1)
    assert (cosines > 0.99).all()
    assert (cosines < 1 - 1e-9).all()
    index = str(tmp_path / "texts.index")
    assert cli.main(["index", "add", index, str(texts), "--model", str(folder)]) == 0
    assert cli.main(["search", index, "fox", "--model", str(folder), "--dtype", "bf16"]) == 2
    assert "--dtype bf16 counts as another model" in capsys.readouterr().err
    assert cli.main(["search", index, "fox", "--model", str(folder), "--layers", "1"]) == 2
    assert "--layers 1 counts as another model" in capsys.readouterr().err
    out = ["--out", str(tmp_path / "other.npz")]
    assert cli.main(["embed", str(texts), *out, "--model", str(folder), "--layers", "2"]) == 2
    assert "was trained to be cut to [1]" in capsys.readouterr().err
    assert cli.main(["embed", str(texts), *out, "--st", str(folder), "--layers", "1"]) == 2
    assert "--layers 1: goes with --model" in capsys.readouterr().err
