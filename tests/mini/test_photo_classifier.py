"""puma-mini's photo classifier: the lines between photographs and drawings, what is made of the classes' names, and the
way through the adapter."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from mini.test_quickstart import benchmark  # noqa: F401
from mini.test_training import STEPS, base  # noqa: F401
from puma.data import mbeir
from puma.errors import InputError, ModelError
from puma.items.item import Item
from puma.mini import photo_classifier as fitting
from puma.mini import training
from puma.mini.adapter import file as adapter_file
from puma.mini.adapter.file import read_adapter, read_header, write_adapter
from puma.mini.base import photo_classifier as made_of
from puma.mini.base.classifier import Classifier
from puma.mini.base.photo_classifier import (
    DRAWINGS_TAKEN,
    RIDGE,
    SIDE,
    STATISTICS_COUNT,
    PhotoLines,
    fit_photo_lines,
    make_classifier,
    steps_of,
    tower_network,
)
from puma.mini.photo_classifier import fitted_classifier
from puma.retriever.model import Retriever
from puma.retriever.photographs.statistics import COUNT, pixel_statistics
from puma.training.recipes.recipe import read_recipe

NAMES = ("red dots", "stripes", "tiger")


@pytest.fixture
def classifier(monkeypatch, tiny_base):
    """A classifier and a tower of the tiny base in the place of the package's."""
    weight = np.random.default_rng(0).normal(size=(3, 320)).astype(np.float32)
    found = Classifier(weight, np.zeros(3, np.float32), NAMES)
    tiny = Retriever.from_base(tiny_base, layers=1, prompt="short", dtype=torch.float32, device="cpu")
    tower = tiny.model.vision_tower
    monkeypatch.setattr(made_of, "load_classifier", lambda *_: found)
    monkeypatch.setattr(made_of, "load_tower", lambda *_: copy.deepcopy(tower).eval())
    for room in (made_of, fitting):
        monkeypatch.setattr(room, "fetch", lambda *_, **__: Path())
    monkeypatch.setattr(adapter_file, "fetch", lambda *_, **__: Path())
    return found


def test_the_lines_are_ridge_regressions_and_let_the_stated_shares_through():
    drawn = np.random.default_rng(1)
    photos = drawn.random(4000) < 0.1
    pooled = (drawn.normal(size=(4000, 6)) * np.array([1, 2, 3, 1, 1, 5]) + photos[:, None] * 2.0).astype(np.float32)
    statistics = (drawn.normal(size=(4000, COUNT)) - photos[:, None]).astype(np.float32)
    lines = fit_photo_lines(pooled, statistics, photos)
    taken = pooled @ lines.weight + statistics @ lines.statistics + lines.bias > 0
    passed = statistics @ lines.gate[:-1] + lines.gate[-1] > 0
    for features, found, above in (
        (pooled, np.concatenate([lines.weight, lines.statistics]), taken),
        (pooled[:, :0], lines.gate[:-1], passed),
    ):
        # the slow obvious way: the least squares of rows weighed by their kind, with the ridge as more rows
        columns = np.concatenate([features, *[statistics] * int(STATISTICS_COUNT)], 1).astype(np.float64)
        scale = columns.std(0) + 1e-6
        rows = (columns - columns.mean(0)) / scale
        weight = np.where(photos, 0.5 / photos.sum(), 0.5 / (~photos).sum())
        rows = rows - (weight[:, None] * rows).sum(0)
        target = np.where(photos, 1.0, -1.0)
        left = np.concatenate([rows * np.sqrt(weight)[:, None], np.sqrt(RIDGE) * np.eye(rows.shape[1])])
        right = np.concatenate([target * np.sqrt(weight), np.zeros(rows.shape[1])])
        slow = np.linalg.lstsq(left, right, rcond=None)[0] / scale
        own = features.shape[1]
        np.testing.assert_allclose(found[:own], slow[:own], rtol=1e-3)
        np.testing.assert_allclose(found[own:], slow[own:].reshape(-1, COUNT).sum(0), rtol=1e-3)
        assert above[~photos].mean() == pytest.approx(DRAWINGS_TAKEN, abs=2 / (~photos).sum())
        assert above[photos].mean() > 3 * DRAWINGS_TAKEN


@pytest.mark.parametrize("kind", [True, False])
def test_a_line_needs_both_kinds(kind):
    with pytest.raises(InputError, match="both kinds"):
        fit_photo_lines(np.ones((4, 2), np.float32), np.ones((4, COUNT), np.float32), np.full(4, kind))


def styled(root, photo_names):
    """Give the training pictures of task 0 a style and a name, as OpenPics has them."""
    pool = mbeir.Benchmark(root).pool(0, "train")
    (path,) = Path(root, "cand_pool").rglob("*task0*train*")
    lines = []
    for candidate in pool:
        entry = {"did": candidate.did, "txt": candidate.text, "modality": candidate.modality}
        name = Path(candidate.image_path).stem
        about = {"name": name, "style": "a photo" if name in photo_names else "icon"}
        lines.append(json.dumps({**entry, "img_path": candidate.image_path, "src_content": json.dumps(about)}))
    path.write_text("\n".join(lines) + "\n")
    return {Path(c.image_path).stem: Path(root) / c.image_path for c in pool}


@pytest.fixture
def photographs(benchmark, tmp_path, monkeypatch):  # noqa: F811
    """The tiny benchmark with a third of its pictures called photographs."""
    import shutil

    monkeypatch.setenv("PUMA_HOME", str(tmp_path / "home"))
    root = tmp_path / "styled"
    shutil.copytree(benchmark, root)
    names = sorted(Path(c.image_path).stem for c in mbeir.Benchmark(root).pool(0, "train"))
    return root, styled(root, set(names[::3]))


def test_a_fitted_classifier_has_the_lines_the_names_and_the_direction(photographs, tiny_base, classifier):
    root, paths = photographs
    retriever = Retriever.from_base(tiny_base, layers=2, prompt="short", dtype=torch.float32, device="cpu")
    retriever.instructions = {("text", "image"): "Find it."}
    found = fitted_classifier(retriever, tiny_base, "lite0", root, None)
    assert (found.images.height, found.images.width, found.names) == (SIDE, SIDE, NAMES)
    chosen = {path: name in set(sorted(paths)[::3]) for name, path in paths.items()}  # fewer than DRAWINGS: all
    small = [found.images.resized(Item(image=path).open_image()) for path in chosen]
    statistics = np.stack([pixel_statistics(image) for image in small])
    with torch.no_grad():
        maps = [found.module.tower(torch.from_numpy(found.images([image]))).last_hidden_state for image in small]
    pooled = np.stack([one.mean((2, 3))[0].numpy() for one in maps])
    lines = fit_photo_lines(pooled, statistics, np.array(list(chosen.values())))
    # The features are those of a folded tower, and a ridge on few images enlarges their rounding.
    np.testing.assert_allclose(found.gate, lines.gate, rtol=0.02, atol=1e-4)
    np.testing.assert_allclose(found.statistics, lines.statistics, rtol=0.02, atol=1e-4)
    np.testing.assert_allclose(found.module.photo.weight.detach().numpy()[0], lines.weight, rtol=0.02, atol=1e-3)
    names = [Item(text=name) for name in NAMES]
    for side, instruction in enumerate(("Find it.", None)):
        made = retriever.encode(names, instruction)
        np.testing.assert_allclose(found.vectors[side], made - made.mean(0), atol=1e-5)
    text, image = retriever.encode(names).mean(0), retriever.encode([Item(image=path) for path in chosen]).mean(0)
    wanted = text / np.linalg.norm(text) - image / np.linalg.norm(image)
    np.testing.assert_allclose(found.direction, wanted, atol=1e-5)


def test_data_without_photographs_can_have_none(benchmark, tiny_base, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setenv("PUMA_HOME", str(tmp_path / "home"))
    retriever = Retriever.from_base(tiny_base, layers=1, prompt="short", dtype=torch.float32, device="cpu")
    with pytest.raises(InputError, match="no photographs, or no drawings; leave it out"):
        fitted_classifier(retriever, tiny_base, "lite0", benchmark, None)


def test_a_recipe_with_a_classifier_refuses_such_data_before_it_trains(base, benchmark, tmp_path):  # noqa: F811
    recipe = read_recipe("puma-mini", {**STEPS, "photo_classifier": True})
    with pytest.raises(InputError, match="leave it out"):
        training.train_recipe(recipe, benchmark, tmp_path / "out")
    assert not (tmp_path / "out.work").exists()


def test_a_recipe_with_a_classifier_makes_a_model_with_it(base, photographs, classifier, tmp_path):  # noqa: F811
    root, paths = photographs
    adapter = tmp_path / "a.safetensors"
    recipe = read_recipe("puma-mini", {**STEPS, "retrieve.steps": 2, "photo_classifier": True})
    training.train_recipe(recipe, root, tmp_path / "out", adapter=adapter)
    made = Retriever.from_pretrained(tmp_path / "out", device="cpu")
    assert made.photo_classifier.names == NAMES
    assert read_header(adapter)["format"] == 3
    back = read_adapter(adapter, base, device="cpu", home=tmp_path)
    assert back.photo_classifier.fingerprint == made.photo_classifier.fingerprint
    images = [Item(image=path) for path in paths.values()]
    found, wanted = (one.photo_classifier.recognised(images)[1] for one in (back, made))
    assert [one and one.to_bytes() for one in found] == [one and one.to_bytes() for one in wanted]
    assert any(found)
    np.testing.assert_array_equal(back.photo_classifier.direction, made.photo_classifier.direction)
    # The adapter rounds the weights, so the names' vectors are made anew of those.
    np.testing.assert_allclose(back.photo_classifier.vectors, made.photo_classifier.vectors, atol=0.05)


def test_an_adapter_refuses_another_classifier_and_early_formats(tiny_base, classifier, tmp_path, monkeypatch):
    retriever = Retriever.from_base(tiny_base, layers=1, prompt="short", dtype=torch.float32, device="cpu")
    one = np.ones(COUNT, np.float32)
    retriever.photo_classifier = make_classifier(
        *tower_network("lite0"),
        steps_of(tiny_base),
        PhotoLines(np.append(one, one[:1]), np.ones(320, np.float32), one, -1.0),
        vectors=np.ones((2, 3, retriever.dim), np.float32),
        direction=np.ones(retriever.dim, np.float32),
    )
    path = tmp_path / "a.safetensors"
    write_adapter(retriever, tiny_base, path)
    other = Classifier(classifier.weight + 1, classifier.bias, NAMES)
    monkeypatch.setattr(made_of, "load_classifier", lambda *_: other)
    with pytest.raises(ModelError, match="is not what the adapter's photo classifier was made with"):
        read_adapter(path, tiny_base)
    retriever.photo_classifier = None
    write_adapter(retriever, tiny_base, path)
    assert read_header(path)["format"] == 1
    assert read_adapter(path, tiny_base).photo_classifier is None
    path.write_bytes(path.read_bytes().replace(b'\\"format\\": 1', b'\\"format\\": 2'))
    with pytest.raises(ModelError, match="of format 2, which only an early PUMA read"):
        read_header(path)
