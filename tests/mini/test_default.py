"""The default model's folder: made once, whole or not there; the real one under `network`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageDraw
from safetensors.numpy import load_file, save_file

from puma.errors import ModelError
from puma.items import Item
from puma.mini import default
from puma.mini.adapter.file import HEADER, read_header, write_adapter
from puma.mini.default import default_model
from puma.retriever.model import Retriever


@pytest.fixture(scope="module")
def adapter(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    retriever = Retriever.from_base(tiny_base, layers=1, prompt="short", dtype=torch.float32, device="cpu")
    with torch.no_grad():
        for parameter in retriever.model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(1 + 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    retriever.instructions = {("text", "image"): "Find it."}
    path = tmp_path_factory.mktemp("adapter") / "a.safetensors"
    write_adapter(retriever, tiny_base, path)
    return path


@pytest.fixture
def assembled(tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict]:
    """Stands for the making of the base, which needs the registries."""
    calls: list[dict] = []

    def assemble(**kwargs: object) -> Path:
        calls.append(kwargs)
        return tiny_base

    monkeypatch.setattr("puma.mini.base.assemble.assemble", assemble)
    return calls


def test_it_is_made_once_and_then_only_named(adapter: Path, assembled: list[dict], tmp_path: Path) -> None:
    output: list[str] = []
    folder = default_model(tmp_path, adapter=adapter, say=output.append)
    assert folder.parent == tmp_path / "models"
    assert folder.name.startswith("puma-mini-")
    assert len(output) == 1
    assert str(folder) in output[0]
    assert [call["settings"].image_size for call in assembled] == [64]
    assert assembled[0].get("pictures") is None  # a newcomer need not build OpenPics
    assert assembled[0]["home"] == tmp_path
    stamp = (folder / "model.safetensors").stat().st_mtime_ns
    assert default_model(tmp_path, adapter=adapter, say=output.append) == folder
    assert (len(output), len(assembled), (folder / "model.safetensors").stat().st_mtime_ns) == (1, 1, stamp)
    retriever = Retriever.from_pretrained(folder, device="cpu")
    assert retriever.instructions == {("text", "image"): "Find it."}
    assert retriever.encode(["red square"]).shape == (1, retriever.dim)
    left = {path.name for path in folder.parent.iterdir()}
    assert left == {folder.name, f".{folder.name}.lock"}


def test_another_adapter_is_another_folder(
    adapter: Path, assembled: list[dict], tiny_base: Path, tmp_path: Path
) -> None:
    retriever = Retriever.from_base(tiny_base, layers=2, prompt="short", dtype=torch.float32, device="cpu")
    write_adapter(retriever, tiny_base, tmp_path / "b.safetensors")
    first = default_model(tmp_path, adapter=adapter)
    assert default_model(tmp_path, adapter=tmp_path / "b.safetensors") != first


def test_puma_home_is_where_it_goes(
    adapter: Path, assembled: list[dict], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PUMA_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(default, "ADAPTER", adapter)
    assert default_model().parent == tmp_path / "cache" / "models"


def test_an_interrupted_making_leaves_nothing_and_the_next_one_works(
    adapter: Path, assembled: list[dict], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(self: Retriever, path: Path) -> None:
        path.mkdir(parents=True)
        (path / "config.json").write_text("{")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Retriever, "save_pretrained", cut)
        with pytest.raises(KeyboardInterrupt):
            default_model(tmp_path, adapter=adapter)
    assert [path.name for path in (tmp_path / "models").iterdir() if not path.name.endswith(".lock")] == []
    assert Retriever.from_pretrained(default_model(tmp_path, adapter=adapter), device="cpu").instructions


KILLED = """
import os, signal, sys
from pathlib import Path
from puma.mini import default
from puma.retriever.model import Retriever
import puma.mini.base.assemble

puma.mini.base.assemble.assemble = lambda **_: Path(sys.argv[1])
saved = Retriever.save_pretrained

def save_and_die(self, path, **kwargs):
    saved(self, path, **kwargs)
    (Path(path) / "config.json").write_text("{")
    os.kill(os.getpid(), signal.SIGKILL)

Retriever.save_pretrained = save_and_die
default.default_model(sys.argv[2], adapter=sys.argv[3])
"""


@pytest.mark.slow
def test_kill_minus_nine_leaves_no_half_model(
    adapter: Path, assembled: list[dict], tiny_base: Path, tmp_path: Path
) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, "-c", KILLED, str(tiny_base), str(tmp_path), str(adapter)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    left = [path.name for path in (tmp_path / "models").iterdir()]
    assert any(name.endswith(".tmp") for name in left)
    assert not any(name.startswith("puma-mini") for name in left)
    folder = default_model(tmp_path, adapter=adapter)
    assert Retriever.from_pretrained(folder, device="cpu").instructions
    assert {path.name for path in folder.parent.iterdir()} == {folder.name, f".{folder.name}.lock"}


def test_without_an_adapter_the_way_out_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(default, "ADAPTER", tmp_path / "gone.safetensors")
    with pytest.raises(ModelError, match=r"not in this installation.*--model.*PUMA_MODEL.*`puma quickstart`"):
        default_model(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_bad_adapters_leave_nothing(base: Path, assembled: list[dict], adapter: Path, tmp_path: Path) -> None:
    retriever = Retriever.from_base(base, layers=1, prompt="short", dtype=torch.float32, device="cpu")
    write_adapter(retriever, base, tmp_path / "foreign")
    (tmp_path / "cut").write_bytes(adapter.read_bytes()[:-5])
    header = read_header(adapter)
    header["base"]["settings"]["colour"] = "blue"
    save_file(load_file(adapter), tmp_path / "newer", metadata={HEADER: json.dumps(header)})
    for name, message in (
        ("foreign", "no mini base"),
        ("cut", "cut or no safetensors file"),
        ("newer", "colour.*update PUMA"),
    ):
        with pytest.raises(ModelError, match=message):
            default_model(tmp_path / "home", adapter=tmp_path / name)
    assert all(path.name.endswith(".lock") for path in (tmp_path / "home" / "models").iterdir())


def test_naming_it_loads_no_torch(adapter: Path, assembled: list[dict], tmp_path: Path) -> None:
    """Once made it is only named: what follows decides whether anything heavy is needed."""
    folder = default_model(tmp_path, adapter=adapter)
    code = (
        "import sys; from puma.mini.default import default_model\n"
        "print(default_model(sys.argv[1], adapter=sys.argv[2])); assert 'torch' not in sys.modules"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, "-c", code, str(tmp_path), str(adapter)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, str(folder)), done.stderr


@pytest.mark.network
@pytest.mark.skipif(not default.ADAPTER.is_file(), reason="puma-mini's adapter is not in this checkout")
def test_the_real_one_answers() -> None:
    assert default.ADAPTER.stat().st_size <= 20_000_000
    retriever = Retriever.from_pretrained(default_model(), device="cpu")
    assert (retriever.dim, len(retriever.instructions)) == (576, 8)
    asked = retriever.encode(["a small dog", "a fast car"], retriever.instructions["text", "text"])
    texts = retriever.encode(["racing automobile", "food on a plate", "puppy"])
    assert (asked @ texts.T).argmax(1).tolist() == [2, 0]
    discs = []
    for colour in ("blue", "red", "green"):
        discs.append(Image.new("RGB", (96, 96), "white"))
        ImageDraw.Draw(discs[-1]).ellipse((8, 8, 88, 88), fill=colour)
    images = retriever.encode([Item(image=disc) for disc in discs])
    red = retriever.encode(["red circle"], retriever.instructions["text", "image"])
    assert (red @ images.T).argmax() == 1
