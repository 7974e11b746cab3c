"""The adapter's file: a trained retriever comes back from it and its base, and from no other base."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file, save_file

from puma.errors import InputError, ModelError
from puma.items import Item
from puma.mini.adapter.file import FORMAT, HEADER, read_adapter, read_header, write_adapter
from puma.retriever.model import Retriever
from support import tiny

LAYERS = 2
NOTES = {"recipe": {"steps": 3}, "figures": [70.5]}


def items() -> list[Item]:
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8))
    return [Item(text="red fox"), Item(text="blue heart"), Item(image=image), Item(text="a dog", image=image)]


def train_a_little(retriever: Retriever, *, tower: bool = True, scale: float = 0.1) -> None:
    """Moves every weight as training would: matrices a little, norms, batch statistics and counts too; of the token
    embeddings only [RET]."""
    g = torch.Generator().manual_seed(1)
    table = retriever.model.get_input_embeddings().weight
    with torch.no_grad():
        for name, tensor in retriever.model.state_dict().items():
            if not tower and "vision_tower" in name:
                continue
            if tensor.data_ptr() == table.data_ptr():
                tensor[-1] += torch.randn(tensor.shape[1], generator=g) * 0.1
            elif not tensor.is_floating_point():
                tensor += 5
            else:
                spread = tensor.std() if tensor.ndim > 1 else torch.tensor(0.3)
                tensor += torch.randn(tensor.shape, generator=g).abs() * scale * spread


@pytest.fixture(scope="module")
def trained(base: Path) -> Retriever:
    retriever = Retriever.from_base(base, layers=LAYERS, prompt="short", dtype=torch.float32, device="cpu")
    train_a_little(retriever)
    retriever.instructions = {("text", "image"): "Find a picture of this.", ("image", "text"): "Name it."}
    retriever.instructions["image", None] = "Find what this picture shows."
    return retriever


@pytest.fixture(scope="module")
def written(trained: Retriever, base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("adapter") / "a.safetensors"
    write_adapter(trained, base, path, notes=NOTES)
    return path


def test_the_retriever_comes_back(trained: Retriever, base: Path, written: Path) -> None:
    back = read_adapter(written, base, device="cpu")
    assert (back.encode(items()) * trained.encode(items())).sum(1).min() > 0.9999
    assert back.instructions == trained.instructions
    assert back.dimensions == ()
    assert back.prompt == trained.prompt
    untrained = Retriever.from_base(base, layers=LAYERS, prompt="short", dtype=torch.float32, device="cpu")
    assert (untrained.encode(items()) * trained.encode(items())).sum(1).min() < 0.99
    for name, tensor in trained.model.state_dict().items():
        found = back.model.state_dict()[name]
        assert found.dtype == tensor.dtype
        if tensor.ndim < 2:  # norms, biases, batch statistics and their counts
            assert torch.equal(found, tensor), name
    ret = trained.model.get_input_embeddings().weight[-1]
    assert torch.equal(back.model.get_input_embeddings().weight[-1], ret)


def test_the_lengths_it_was_trained_for_travel_with_it(trained: Retriever, base: Path, tmp_path: Path) -> None:
    trained.dimensions = (8, 16)
    try:
        write_adapter(trained, base, tmp_path / "a.safetensors")
    finally:
        trained.dimensions = ()
    assert read_adapter(tmp_path / "a.safetensors", base, device="cpu").dimensions == (8, 16)


def test_saved_it_is_an_ordinary_folder(base: Path, written: Path, tmp_path: Path) -> None:
    back = read_adapter(written, base, device="cpu")
    back.save_pretrained(tmp_path / "model")
    again = Retriever.from_pretrained(tmp_path / "model", device="cpu")
    # Not equal to the last bit: kernels differ with the alignment of a mapped file, on one thread.
    np.testing.assert_allclose(again.encode(items()), back.encode(items()), atol=1e-6)
    assert (again.fingerprint, again.instructions) == (back.fingerprint, back.instructions)


def test_every_tensor_is_as_near_as_the_report_says(trained: Retriever, base: Path, tmp_path: Path) -> None:
    untrained = Retriever.from_base(base, layers=LAYERS, prompt="short", dtype=torch.float32, device="cpu")
    old, new = untrained.model.state_dict(), trained.model.state_dict()
    for bits, most in ((8, 0.01), (4, 0.2)):
        report = write_adapter(trained, base, tmp_path / "a", bits=bits)
        found = read_adapter(tmp_path / "a", base, device="cpu").model.state_dict()
        errors = {module.name: module.error for module in report.modules}
        lost = moved = 0.0
        for name in new:
            if ".mlp." in name:
                lost += float((found[name] - new[name]).double().square().sum())
                moved += float((new[name] - old[name]).double().square().sum())
        assert errors["language_model.layers.mlp"] == pytest.approx((lost / moved) ** 0.5, rel=1e-4)
        assert 0 < errors["language_model.layers.mlp"] < most
        assert sum(module.size for module in report.modules) == report.size == (tmp_path / "a").stat().st_size


def test_tower_bits_and_rank_make_it_smaller(trained: Retriever, base: Path, tmp_path: Path) -> None:
    sizes = [
        write_adapter(trained, base, tmp_path / "a", **more).size
        for more in ({}, {"tower_bits": 4}, {"bits": 4}, {"bits": 4, "rank": 2})
    ]
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) == 4
    kinds = {entry["kind"] for entry in read_header(tmp_path / "a")["tensors"].values()}
    assert kinds == {"value", "rows", "delta", "low-rank"}
    assert read_adapter(tmp_path / "a", base, device="cpu").encode(items()).shape == (4, tiny.HIDDEN)


def test_a_frozen_tower_takes_nothing(base: Path, tmp_path: Path) -> None:
    retriever = Retriever.from_base(base, layers=LAYERS, prompt="short", dtype=torch.float32, device="cpu")
    train_a_little(retriever, tower=False)
    report = write_adapter(retriever, base, tmp_path / "a")
    assert all(
        module.size == 0 and module.kinds == "same" for module in report.modules if "vision_tower" in module.name
    )


def test_the_same_bytes_every_time(trained: Retriever, base: Path, written: Path, tmp_path: Path) -> None:
    again = write_adapter(trained, base, tmp_path / "b", notes=NOTES)
    assert (tmp_path / "b").read_bytes() == written.read_bytes()
    assert again.size == written.stat().st_size
    write_adapter(trained, base, tmp_path / "c", notes={})
    assert (tmp_path / "c").read_bytes() != written.read_bytes()


def test_the_header_tells_what_it_is(written: Path) -> None:
    header = read_header(written)
    assert (header["layers"], header["keep_last"], header["notes"]) == (LAYERS, False, NOTES)
    any_wanted = ["image", None, "Find what this picture shows."]
    assert header["instructions"][:2] == [any_wanted, ["image", "text", "Name it."]]


def test_keep_last(base: Path, tmp_path: Path) -> None:
    made = {"layers": LAYERS, "keep_last": True, "prompt": "short", "dtype": torch.float32, "device": "cpu"}
    retriever = Retriever.from_base(base, **made)
    train_a_little(retriever)
    last = write_adapter(retriever, base, tmp_path / "a", keep_last=True)
    back = read_adapter(tmp_path / "a", base, device="cpu")
    assert (back.encode(items()) * retriever.encode(items())).sum(1).min() > 0.9999
    first = write_adapter(retriever, base, tmp_path / "b")
    assert first.size > last.size  # against the wrong layers every matrix is another one


def other_base(base: Path, folder: Path, change: str) -> Path:
    """A copy of the base with one tensor changed."""
    shutil.copytree(base, folder)
    tensors = load_file(folder / "model.safetensors")
    name = next(name for name in tensors if change in name)
    tensors[name] = tensors[name] + np.float32(0.01)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_another_base_is_refused(base: Path, written: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"made for another base .*q_proj.* differ"):
        read_adapter(written, other_base(base, tmp_path / "q", "layers.1.self_attn.q_proj"))
    with pytest.raises(ModelError, match="made for another base"):
        read_adapter(written, tiny.base_folder(tmp_path / "seed", seed=1))
    with pytest.raises(InputError, match="layers=2"):
        read_adapter(written, tiny.base_folder(tmp_path / "short", layers=1))
    # What it carries itself may differ: layers that were cut off, norms, the rows made by assembling.
    for what in ("layers.3.mlp.up_proj", "layers.0.input_layernorm"):
        back = read_adapter(written, other_base(base, tmp_path / what, what), device="cpu")
        assert back.fingerprint == read_adapter(written, base, device="cpu").fingerprint


def test_the_image_tokens_row_is_carried(base: Path, written: Path, tmp_path: Path) -> None:
    shutil.copytree(base, tmp_path / "other")
    tensors = load_file(tmp_path / "other" / "model.safetensors")
    name = next(name for name in tensors if name.endswith("embed_tokens.weight"))
    image = json.loads((base / "config.json").read_text())["image_token_index"]
    tensors[name] = tensors[name].copy()
    tensors[name][image] += 1
    save_file(tensors, tmp_path / "other" / "model.safetensors", metadata={"format": "pt"})
    back = read_adapter(written, tmp_path / "other", device="cpu")
    assert back.fingerprint == read_adapter(written, base, device="cpu").fingerprint


def test_settings_of_the_base_are_compared_first(tiny_base: Path, tmp_path: Path) -> None:
    retriever = Retriever.from_base(tiny_base, layers=1, prompt="short", dtype=torch.float32, device="cpu")
    write_adapter(retriever, tiny_base, tmp_path / "a")
    shutil.copytree(tiny_base, tmp_path / "other")
    note = json.loads((tiny_base / "base.json").read_text())
    note["settings"]["image_size"] = 96
    (tmp_path / "other" / "base.json").write_text(json.dumps(note))
    with pytest.raises(ModelError, match="image_size 96 instead of 64"):
        read_adapter(tmp_path / "a", tmp_path / "other")


def test_a_projector_fitted_after_the_base_was_made_is_carried(tiny_base: Path, tmp_path: Path) -> None:
    """Trained from a base with another projector, written against the plain one."""
    shutil.copytree(tiny_base, tmp_path / "fitted")
    tensors = load_file_pt(tmp_path / "fitted" / "model.safetensors")
    for name in tensors:
        if "projector" in name and name.endswith("weight"):
            tensors[name] = torch.randn(tensors[name].shape, generator=torch.Generator().manual_seed(0)) / 8
        elif "projector" in name:
            tensors[name] = tensors[name] + 8
    save_file_pt(tensors, tmp_path / "fitted" / "model.safetensors")
    made = {"layers": 1, "prompt": "short", "dtype": torch.float32, "device": "cpu"}
    retriever = Retriever.from_base(tmp_path / "fitted", **made)
    report = write_adapter(retriever, tiny_base, tmp_path / "a")
    kinds = {module.name: module.kinds for module in report.modules}
    assert kinds["multi_modal_projector.linear_1"] == "value"
    assert kinds["language_model.layers.mlp"] == "same"
    back = read_adapter(tmp_path / "a", tiny_base, device="cpu")
    both = [r.encode([item for item in items() if item.image]) for r in (back, retriever)]
    assert (both[0] * both[1]).sum(1).min() > 0.99999


def load_file_pt(path: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file as load

    return load(path)


def save_file_pt(tensors: dict[str, torch.Tensor], path: Path) -> None:
    from safetensors.torch import save_file as save

    save(tensors, path, metadata={"format": "pt"})


def test_too_big_is_refused_with_a_table(trained: Retriever, base: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="more than limit=1,000") as caught:
        write_adapter(trained, base, tmp_path / "a", limit=1000)
    output = str(caught.value)
    assert "language_model.layers.mlp" in output
    assert "header" in output
    assert "in all" in output
    assert not list(tmp_path.iterdir())


def test_bad_arguments(trained: Retriever, base: Path, tmp_path: Path) -> None:
    for bad, message in (
        ({"bits": 9}, "bits=9"),
        ({"bits": 1}, "bits=1"),
        ({"tower_bits": 16}, "tower_bits=16"),
        ({"rank": 0}, "rank=0"),
        ({"group": 0}, "group=0"),
        ({"notes": {"a": object()}}, "plain JSON"),
        ({"notes": {"a": float("nan")}}, "plain JSON"),
    ):
        with pytest.raises(InputError, match=message):
            write_adapter(trained, base, tmp_path / "a", **bad)
    with pytest.raises(InputError, match="no model folder"):
        write_adapter(trained, tmp_path, tmp_path / "a")
    assert not list(tmp_path.iterdir())


def test_a_retriever_of_another_base_or_of_no_numbers_is_refused(base: Path, tiny_base: Path, tmp_path: Path) -> None:
    retriever = Retriever.from_base(base, layers=LAYERS, prompt="short", dtype=torch.float32, device="cpu")
    with pytest.raises(ModelError, match="this base's"):
        write_adapter(retriever, tiny_base, tmp_path / "a")
    retriever.processor.image_processor.image_mean = [0.1] * 3
    with pytest.raises(ModelError, match="image processor is not this base's"):
        write_adapter(retriever, base, tmp_path / "a")
    retriever = Retriever.from_base(base, layers=LAYERS, prompt="short", dtype=torch.float32, device="cpu")
    next(retriever.model.parameters()).data[0, 0] = torch.nan
    with pytest.raises(ModelError, match="not finite"):
        write_adapter(retriever, base, tmp_path / "a")


def test_files_that_are_none_are_refused(base: Path, written: Path, tmp_path: Path) -> None:
    data = written.read_bytes()
    with pytest.raises(InputError, match="no such file"):
        read_adapter(tmp_path / "gone", base)
    foreign = tmp_path / "foreign.safetensors"
    save_file({"x": np.ones(3, np.float32)}, foreign)
    with pytest.raises(ModelError, match="no PUMA adapter"):
        read_adapter(foreign, base)
    for kept in (0, 7, 500, len(data) // 2, len(data) - 1):
        (tmp_path / "cut").write_bytes(data[:kept])
        with pytest.raises(ModelError, match="cut or no safetensors file"):
            read_adapter(tmp_path / "cut", base)
    (tmp_path / "flipped").write_bytes(data[:-10] + bytes([data[-10] ^ 1]) + data[-9:])
    with pytest.raises(ModelError, match="does not have the checksum"):
        read_adapter(tmp_path / "flipped", base)


def test_a_newer_format_is_refused(base: Path, written: Path, tmp_path: Path) -> None:
    header = read_header(written)
    for change, message in (
        ({"format": FORMAT + 1}, "update PUMA"),
        ({"format": None}, "header .* cannot be read"),
        ({"tensors": {}}, "only one of them has"),
    ):
        save_file(load_file(written), tmp_path / "new", metadata={HEADER: json.dumps({**header, **change})})
        with pytest.raises(ModelError, match=message):
            read_adapter(tmp_path / "new", base)
    name = next(name for name, entry in header["tensors"].items() if entry["kind"] == "delta")
    entry = {**header["tensors"][name], "kind": "woven"}
    header["tensors"][name] = entry
    save_file(load_file(written), tmp_path / "new", metadata={HEADER: json.dumps(header)})
    with pytest.raises(ModelError, match="unknown way, 'woven'"):
        read_adapter(tmp_path / "new", base)
