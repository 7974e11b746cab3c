"""puma-mini's tagger: the line between photographs and drawings, tags in training, and the way through the adapter."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from mini.test_quickstart import benchmark  # noqa: F401
from mini.test_training import STEPS, base  # noqa: F401
from puma.data import mbeir
from puma.errors import InputError, ModelError
from puma.items.item import Item, TaggedItem
from puma.mini import training
from puma.mini.adapter.file import read_adapter, read_header, write_adapter
from puma.mini.base import tags as base_tags
from puma.mini.base.classifier import Classifier
from puma.mini.base.tags import DRAWINGS_TAGGED, RIDGE, PhotoLine, fit_photo_line, make_tagger
from puma.mini.extra_pairs.tagged import DRAWINGS, TrainingTags, training_tags, with_tags
from puma.retriever.model import Retriever
from puma.training.pairs import read_pairs
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
    photos = drawn.random(2000) < 0.1
    pooled = (drawn.normal(size=(2000, 6)) * np.array([1, 2, 3, 1, 1, 5]) + photos[:, None] * 2.0).astype(np.float32)
    line = fit_photo_line(pooled, photos)
    # the slow obvious way: the least squares of rows weighed by their kind, with the ridge as more rows
    rows = (pooled - pooled.mean(0)) / (pooled.std(0) + 1e-6)
    weight = np.where(photos, 0.5 / photos.sum(), 0.5 / (~photos).sum())
    rows = rows - (weight[:, None] * rows).sum(0)
    target = np.where(photos, 1.0, -1.0)
    left = np.concatenate([rows * np.sqrt(weight)[:, None], np.sqrt(RIDGE) * np.eye(6)])
    right = np.concatenate([target * np.sqrt(weight), np.zeros(6)])
    slow = np.linalg.lstsq(left, right, rcond=None)[0] / (pooled.std(0) + 1e-6)
    np.testing.assert_allclose(line.weight, slow, rtol=1e-4)
    above = pooled @ line.weight + line.bias > 0
    assert above[~photos].mean() == pytest.approx(DRAWINGS_TAGGED, abs=2 / (~photos).sum())
    assert above[photos].mean() > 3 * DRAWINGS_TAGGED


@pytest.mark.parametrize("kind", [True, False])
def test_a_line_needs_both_kinds(kind):
    with pytest.raises(InputError, match="both kinds"):
        fit_photo_line(np.ones((4, 2), np.float32), np.full(4, kind))


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


def test_training_tags_name_photographs_by_the_classifier(photographs, tiny_base, classifier):
    root, paths = photographs
    tags = training_tags(tiny_base, "lite0", root, None)
    assert tags.classes == NAMES
    assert set(tags.photographs) | set(tags.names) == set(paths.values())
    assert not set(tags.photographs) & set(tags.names)
    again = tags.tagger.tagged([Item(image=path) for path in tags.photographs])
    same = [item.tag == tag for item, tag in zip(again, tags.photographs.values(), strict=True) if hasattr(item, "tag")]
    assert len(same) > 0.8 * len(again)  # stored features may be rounded, which moves images that lie on the line
    assert np.mean(same) > 0.9


def test_pairs_are_tagged_where_their_image_is_a_photograph(photographs):
    root, paths = photographs
    pairs = read_pairs(root) * 40
    photo, *others = paths.values()
    tags = TrainingTags({photo: "tiger"}, {path: path.stem for path in others}, NAMES, None)
    tagged = with_tags(pairs, tags)
    assert with_tags(pairs, tags) == tagged
    counts = {"photo": [0, 0], "drawing": [0, 0]}
    given = set()
    for before, after in zip(pairs, tagged, strict=True):
        for old, new in ((before.query, after.query), (before.candidate, after.candidate)):
            assert (new.text, new.image, new.modality) == (old.text, old.image, old.modality)
            if old.modality != "image":
                assert new is old
                continue
            kind = "photo" if old.image == photo else "drawing"
            counts[kind][0] += 1
            counts[kind][1] += isinstance(new, TaggedItem)
            if kind == "photo":
                assert new.tag == "tiger"
            elif isinstance(new, TaggedItem):
                given.add("own" if new.tag == new.image.stem else new.tag)
        assert (after.candidate_id, after.known) == (before.candidate_id, before.known)
    assert counts["photo"][0] == counts["photo"][1] > 0
    assert 0.5 * DRAWINGS < counts["drawing"][1] / counts["drawing"][0] < 2 * DRAWINGS
    assert given == {"own", *NAMES}


def test_data_without_photographs_has_no_tags(benchmark, tiny_base, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setenv("PUMA_HOME", str(tmp_path / "home"))
    with pytest.raises(InputError, match="no photographs, or no drawings; leave tags out"):
        training_tags(tiny_base, "lite0", benchmark, None)


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
    retriever.tagger = make_tagger(tiny_base, "lite0", PhotoLine(np.ones(320, np.float32), -1.0))
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
