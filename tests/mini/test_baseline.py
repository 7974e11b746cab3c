"""The no-LLM baseline: an honest encoder that learns, ignores instructions, and says so when it cannot."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from puma.errors import ImageError, InputError
from puma.items import Item
from puma.mini.baseline import RidgeBaseline

Drawings = tuple[list[Path], list[str]]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def baseline(tiny_base: Path, drawings: Drawings, home: Path) -> RidgeBaseline:
    paths, captions = drawings
    keep = [i for i in range(len(paths)) if i % 5 != 4]  # the fifth drawing of each is for the test
    return RidgeBaseline.fit(tiny_base, [paths[i] for i in keep], [captions[i] for i in keep], home=home)


def test_it_finds_unseen_images_of_known_words(baseline: RidgeBaseline, drawings: Drawings) -> None:
    paths, captions = drawings[0][4::5], drawings[1][4::5]
    images = baseline.encode([Item(image=path) for path in paths])
    texts = baseline.encode([Item(text=caption) for caption in captions])
    scores = texts @ images.T
    ranks = (scores >= np.diag(scores)[:, None]).sum(1)
    assert np.mean(ranks <= 5) > 0.6  # of 24; chance 0.21
    assert baseline.notes["pairs"] == 96


def test_rows_are_unit_and_dtype_float32(baseline: RidgeBaseline, drawings: Drawings) -> None:
    items = [Item("red dots"), Item(image=drawings[0][0]), Item("red dots", drawings[0][0]), Item("xyzzy")]
    rows = baseline.encode(items)
    assert rows.dtype == np.float32
    assert rows.shape == (4, baseline.dim)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-5)
    both = rows[0] + rows[1]
    np.testing.assert_allclose(rows[2], both / np.linalg.norm(both), atol=1e-5)
    assert baseline.encode([]).shape == (0, baseline.dim)


def test_instruction_is_ignored(baseline: RidgeBaseline) -> None:
    items = [Item("blue frame")]
    np.testing.assert_array_equal(baseline.encode(items), baseline.encode(items, instruction="Find a picture."))


def test_a_image_has_one_vector_in_every_form(baseline: RidgeBaseline, drawings: Drawings) -> None:
    path = drawings[0][7]
    forms = [path, str(path), path.read_bytes(), Image.open(path), np.asarray(Image.open(path))]
    rows = baseline.encode([Item(image=form) for form in forms])
    np.testing.assert_allclose(rows, np.tile(rows[0], (5, 1)), atol=2e-3)


def test_fitting_twice_gives_the_same(baseline: RidgeBaseline, tiny_base: Path, drawings: Drawings, home: Path) -> None:
    keep = [i for i in range(len(drawings[0])) if i % 5 != 4]
    paths, captions = [drawings[0][i] for i in keep], [drawings[1][i] for i in keep]
    again = RidgeBaseline.fit(tiny_base, paths, captions, home=home)
    assert again.fingerprint == baseline.fingerprint
    other = RidgeBaseline.fit(tiny_base, paths[:60], captions[:60], home=home)
    assert other.fingerprint != baseline.fingerprint


def test_unreadable_images(baseline: RidgeBaseline, tiny_base: Path, drawings: Drawings, tmp_path: Path) -> None:
    torn = tmp_path / "torn.png"
    torn.write_bytes(drawings[0][0].read_bytes()[:50])
    with pytest.raises(ImageError, match=r"torn\.png"):
        baseline.encode([Item(image=torn)])
    fitted = RidgeBaseline.fit(tiny_base, [torn, *drawings[0]], ["red dots", *drawings[1]], home=tmp_path)
    assert fitted.notes["unreadable"] == 1
    with pytest.raises(InputError, match="got 2 and 1"):
        RidgeBaseline.fit(tiny_base, [torn, torn], ["x"], home=tmp_path)
