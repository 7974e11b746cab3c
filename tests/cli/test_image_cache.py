"""``--image-cache`` and ``--image-cache-size``: what is kept is used by the next command; what is wrong at once."""

import numpy as np
import pytest
from PIL import Image

from puma.cli import app as cli
from puma.retriever.model import Retriever


@pytest.fixture(scope="module")
def folder(family_base, tmp_path_factory):
    path = tmp_path_factory.mktemp("cached") / "model"
    Retriever.from_base(family_base("llava"), layers=2, device="cpu").save_pretrained(path)
    return path


@pytest.fixture
def images(tmp_path):
    made = tmp_path / "images"
    made.mkdir()
    for n in range(20):
        pixels = np.random.default_rng(n).integers(0, 255, (24, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(made / f"{n}.png")
    return made


@pytest.fixture
def passes(monkeypatch, folder):
    """The models' passes through their towers."""
    counted, kind = [], type(Retriever.from_pretrained(folder, device="cpu").model)
    look = kind.get_image_features

    def looking(self, *arguments, **options):
        counted.append(1)
        return look(self, *arguments, **options)

    looking.__wrapped__ = look  # whose arguments are looked up
    monkeypatch.setattr(kind, "get_image_features", looking)
    return counted


def run(*arguments):
    return cli.main([str(argument) for argument in arguments])


def test_commands_share_what_was_seen(folder, images, tmp_path, passes):
    given = ("--model", folder, "--image-cache", tmp_path / "seen", "--image-cache-size", 16)
    assert run("embed", images, "--out", tmp_path / "plain.npz", "--model", folder) == 0
    assert not (tmp_path / "seen").exists()
    assert run("embed", images, "--out", tmp_path / "a.npz", *given) == 0
    passes.clear()
    assert run("embed", images, "--out", tmp_path / "b.npz", *given) == 0
    assert run("embed", images, "--out", tmp_path / "c.npz", "--instruction", "Find it.", *given) == 0
    assert run("index", "add", tmp_path / "my.index", images, *given) == 0
    assert passes == []
    with np.load(tmp_path / "plain.npz") as plain, np.load(tmp_path / "a.npz") as a, np.load(tmp_path / "b.npz") as b:
        np.testing.assert_array_equal(plain["vectors"], a["vectors"])
        np.testing.assert_array_equal(plain["vectors"], b["vectors"])


@pytest.mark.parametrize("command", [("embed", "--out", "v.npz"), ("index", "add", "my.index"), ("serve",)])
def test_what_is_wrong_is_told_before_a_model_loads(command, images, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Retriever, "from_pretrained", lambda *_, **__: pytest.fail("a model was loaded"))
    paths = () if command == ("serve",) else (images,)
    assert run(*command, *paths, "--image-cache-size", 5) == 2
    assert "--image-cache-size 5: goes with --image-cache" in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    assert run(*command, *paths, "--image-cache", "file") == 2
    assert "file: is a file; give a folder's path" in capsys.readouterr().err
    assert run(*command, *paths, "--image-cache", "file/below") == 2
    assert "--image-cache file/below: file is a file, not a folder" in capsys.readouterr().err


def test_somebody_elses_model_has_none(images, tmp_path, capsys):
    assert run("embed", images, "--out", tmp_path / "v.npz", "--st", "x", "--image-cache", tmp_path / "seen") == 2
    assert "goes with --model, a retriever, not with --st" in capsys.readouterr().err
