"""puma-mini's tagger: the line between photographs and drawings, the shift, and the way through the adapter."""

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
from puma.mini import training
from puma.mini.adapter.file import read_adapter, read_header, write_adapter
from puma.mini.base import tags as base_tags
from puma.mini.base.classifier import Classifier
from puma.mini.base.known_images import features_of, stored_tower
from puma.mini.base.tags import (
    DRAWINGS_TAGGED,
    RIDGE,
    STATISTICS_COUNT,
    PhotoLine,
    fit_photo_line,
    make_tagger,
)
from puma.mini.tagging import SHARE, fitted_tagger
from puma.retriever.model import Retriever
from puma.retriever.tagging.statistics import COUNT, pixel_statistics
from puma.retriever.tagging.tagger import small_image
from puma.training.recipes.recipe import read_recipe

NAMES = ("red dots", "stripes", "tiger")


@pytest.fixture
def classifier(monkeypatch):
    """A classifier of the tiny tower in the place of the package's."""
    weight = np.random.default_rng(0).normal(size=(3, 320)).astype(np.float32)
    found = Classifier(weight, np.zeros(3, np.float32), NAMES)
    monkeypatch.setattr(base_tags, "load_classifier", lambda *_: found)
    return found


def test_the_line_is_a_ridge_regression_and_lets_the_stated_share_through():
    drawn = np.random.default_rng(1)
    photos = drawn.random(4000) < 0.1
    pooled = (drawn.normal(size=(4000, 6)) * np.array([1, 2, 3, 1, 1, 5]) + photos[:, None] * 2.0).astype(np.float32)
    statistics = (drawn.normal(size=(4000, 2)) - photos[:, None]).astype(np.float32)
    line = fit_photo_line(pooled, statistics, photos)
    # the slow obvious way: the least squares of rows weighed by their kind, with the ridge as more rows
    columns = np.concatenate([pooled, *[statistics] * int(STATISTICS_COUNT)], 1).astype(np.float64)
    scale = columns.std(0) + 1e-6
    rows = (columns - columns.mean(0)) / scale
    weight = np.where(photos, 0.5 / photos.sum(), 0.5 / (~photos).sum())
    rows = rows - (weight[:, None] * rows).sum(0)
    target = np.where(photos, 1.0, -1.0)
    left = np.concatenate([rows * np.sqrt(weight)[:, None], np.sqrt(RIDGE) * np.eye(rows.shape[1])])
    right = np.concatenate([target * np.sqrt(weight), np.zeros(rows.shape[1])])
    slow = np.linalg.lstsq(left, right, rcond=None)[0] / scale
    np.testing.assert_allclose(line.weight, slow[:6], rtol=1e-3)
    np.testing.assert_allclose(line.statistics, slow[6:].reshape(-1, 2).sum(0), rtol=1e-3)
    above = pooled @ line.weight + statistics @ line.statistics + line.bias > 0
    assert above[~photos].mean() == pytest.approx(DRAWINGS_TAGGED, abs=2 / (~photos).sum())
    assert above[photos].mean() > 3 * DRAWINGS_TAGGED


@pytest.mark.parametrize("kind", [True, False])
def test_a_line_needs_both_kinds(kind):
    with pytest.raises(InputError, match="both kinds"):
        fit_photo_line(np.ones((4, 2), np.float32), np.ones((4, 1), np.float32), np.full(4, kind))


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


def test_a_fitted_tagger_has_the_line_and_half_of_the_mean_shift(photographs, tiny_base, classifier):
    root, paths = photographs
    retriever = Retriever.from_base(tiny_base, layers=2, prompt="short", dtype=torch.float32, device="cpu")
    tagger = fitted_tagger(retriever, tiny_base, "lite0", root, None)
    names = {name: path for name, path in paths.items() if name in set(sorted(paths)[::3])}
    styles = np.array([name in names for name in paths])
    known = features_of(stored_tower(tiny_base), list(paths.values()), None)
    pooled = np.stack([known.lookup(Item(image=path)).astype(np.float32).mean((1, 2)) for path in paths.values()])
    small = [small_image(Item(image=path).open_image(), tagger.images) for path in paths.values()]
    line = fit_photo_line(pooled, np.stack([pixel_statistics(image) for image in small]), styles)
    np.testing.assert_allclose(tagger.statistics, line.statistics, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(tagger.module.photo.weight.detach().numpy()[0], line.weight, rtol=1e-4, atol=1e-6)
    # the slow obvious way: every image with its likeliest class, written as a text, and without it
    for row, instruction in enumerate((None, mbeir.Benchmark(root).instruction(3))):
        moves = []
        for path in paths.values():
            pixels = tagger.images([Item(image=path).open_image()])
            tag = NAMES[int(tagger.network(pixels)[0][0])]
            both, alone = Item(text=tag, image=path), Item(image=path)
            moves.append(retriever.encode([both], instruction) - retriever.encode([alone], instruction))
        np.testing.assert_allclose(tagger.shift[row], SHARE * np.concatenate(moves).mean(0), atol=1e-5)
    assert np.abs(tagger.shift).max() > 1e-3


def test_data_without_photographs_has_no_tags(benchmark, tiny_base, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setenv("PUMA_HOME", str(tmp_path / "home"))
    retriever = Retriever.from_base(tiny_base, layers=1, prompt="short", dtype=torch.float32, device="cpu")
    with pytest.raises(InputError, match="no photographs, or no drawings; leave tags out"):
        fitted_tagger(retriever, tiny_base, "lite0", benchmark, None)


def test_a_recipe_with_tags_refuses_such_data_before_it_trains(base, benchmark, tmp_path):  # noqa: F811
    with pytest.raises(InputError, match="leave tags out"):
        training.train_recipe(read_recipe("puma-mini", {**STEPS, "tags": True}), benchmark, tmp_path / "out")
    assert not (tmp_path / "out.work").exists()


def test_a_recipe_with_tags_makes_a_model_with_them(base, photographs, classifier, tmp_path):  # noqa: F811
    root, paths = photographs
    adapter = tmp_path / "a.safetensors"
    recipe = read_recipe("puma-mini", {**STEPS, "retrieve.steps": 2, "tags": True})
    training.train_recipe(recipe, root, tmp_path / "out", adapter=adapter)
    made = Retriever.from_pretrained(tmp_path / "out", device="cpu")
    assert made.tagger.names == NAMES
    assert read_header(adapter)["format"] == 2
    back = read_adapter(adapter, base, device="cpu", home=tmp_path)
    assert back.tagger.fingerprint == made.tagger.fingerprint
    images = [Item(image=path) for path in paths.values()]
    assert back.tagger.tagged(images) == made.tagger.tagged(images)


def test_an_adapter_refuses_another_classifier(tiny_base, classifier, tmp_path, monkeypatch):
    retriever = Retriever.from_base(tiny_base, layers=1, prompt="short", dtype=torch.float32, device="cpu")
    retriever.tagger = make_tagger(
        tiny_base,
        "lite0",
        PhotoLine(np.ones(320, np.float32), np.ones(COUNT, np.float32), -1.0),
        np.ones((2, 32), np.float32),
    )
    path = tmp_path / "a.safetensors"
    write_adapter(retriever, tiny_base, path)
    other = Classifier(classifier.weight + 1, classifier.bias, NAMES)
    monkeypatch.setattr(base_tags, "load_classifier", lambda *_: other)
    with pytest.raises(ModelError, match="its tower or classifier is not the one"):
        read_adapter(path, tiny_base)
    retriever.tagger = None
    write_adapter(retriever, tiny_base, path)
    assert read_header(path)["format"] == 1
    assert read_adapter(path, tiny_base).tagger is None
