"""Closed forms: ridge, idf, caption vectors, and the affine map inside Linear-GELU-Linear."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from transformers import AutoModelForImageTextToText, AutoTokenizer

from puma.errors import InputError, ModelError
from puma.mini.base import projector
from puma.mini.base.held_out import held_out_split
from puma.mini.base.projector import (
    AffineMap,
    Ridge,
    as_linear_gelu_linear,
    caption_vectors,
    inverse_document_frequency,
    mean_reciprocal_rank,
    unit,
)
from puma.mini.base.settings import read_note
from puma.mini.base.vision import VisionTower, image_features


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.1, 1e4))
def test_ridge_solves_its_normal_equations(seed: int, strength: float) -> None:
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(30, 5)) * rng.uniform(0.5, 5, 5) + 3, rng.normal(size=(30, 4)) + 1
    affine = Ridge(x, y).solve(strength)
    spread = x.std(0) + 1e-3
    z = (x - x.mean(0)) / spread
    inner = np.linalg.solve(z.T @ z + strength * np.eye(5), z.T @ (y - y.mean(0)))
    np.testing.assert_allclose(affine(x), z @ inner + y.mean(0), atol=1e-4)


def test_ridge_limits() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(50, 3))
    y = x @ rng.normal(size=(3, 2)) + np.array([5.0, -1.0])
    np.testing.assert_allclose(Ridge(x, y).solve(1e-9)(x), y, atol=1e-3)
    np.testing.assert_allclose(Ridge(x, y).solve(1e12)(x), np.tile(y.mean(0), (50, 1)), atol=1e-3)
    twice = Ridge(x, y).solve(1.0, gain=2.0)(x) - y.mean(0)
    np.testing.assert_allclose(twice, 2 * (Ridge(x, y).solve(1.0)(x) - y.mean(0)), atol=1e-4)
    with pytest.raises(InputError, match="two or more"):
        Ridge(x[:1], y[:1])


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.floats(1e-3, 1e3), st.floats(-50, 50))
def test_projector_is_the_affine_map(seed: int, size: float, offset: float) -> None:
    rng = np.random.default_rng(seed)
    affine = AffineMap(
        (size * rng.normal(size=(12, 6))).astype(np.float32), (offset * rng.normal(size=6)).astype(np.float32)
    )
    x = np.abs(rng.normal(size=(200, 12))).astype(np.float32)
    weights = as_linear_gelu_linear(affine, x)
    hidden = torch.nn.functional.gelu(
        torch.from_numpy(x) @ torch.from_numpy(weights.weight_1).T + torch.from_numpy(weights.bias_1)
    )
    got = (hidden @ torch.from_numpy(weights.weight_2).T + torch.from_numpy(weights.bias_2)).numpy()
    want = affine(x)
    assert hidden.min() > 4.9
    assert np.abs(got - want).max() < 1e-5 * np.abs(want).max()


def test_idf_and_caption_vectors_by_hand() -> None:
    weights = inverse_document_frequency([[0, 1], [0, 2], [0], [0]], 4)
    np.testing.assert_allclose(weights, [0.1, np.log(2), np.log(2), np.log(4)], rtol=1e-6)
    embeddings = np.eye(4, dtype=np.float32)
    got = caption_vectors([[1, 3], [], [0]], embeddings, weights)
    np.testing.assert_allclose(got, [[0, 1 / 3, 0, 2 / 3], [0, 0, 0, 0], [1, 0, 0, 0]], atol=1e-6)


def test_unit_and_reciprocal_rank() -> None:
    rows = unit(np.array([[3.0, 4.0], [0.0, 0.0]], np.float32))
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-6)
    assert mean_reciprocal_rank(np.zeros((4, 4))) == 0.25  # ties count against
    assert mean_reciprocal_rank(np.eye(4)) == 1.0


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 60)), min_size=20, max_size=80), st.integers(0, 99))
def test_split_shares_neither_caption_nor_image(pairs: list[tuple[int, int]], seed: int) -> None:
    captions, images = [f"c{caption}" for caption, _ in pairs], [image for _, image in pairs]
    try:
        inside, outside = held_out_split(captions, images, 0.2, seed)
    except InputError:  # fewer than four groups: a test of its own below
        reject()
    for values in (captions, images):
        held = [values[i] for i in outside]
        assert len(held) == len(set(held)) >= 2
        assert not {values[i] for i in inside} & set(held)
    assert len(inside) + len(outside) <= len(pairs)


def test_split_keeps_chains_together_and_passes_over_giants() -> None:
    # captions a, b and c hang together through images 0 and 1; they are most of the pairs
    captions = ["a", "b", "b", "c"] * 10 + [f"x{i}" for i in range(10)]
    images = [0, 0, 1, 1] * 10 + list(range(2, 12))
    for seed in range(5):
        inside, outside = held_out_split(captions, images, 0.1, seed)
        assert set(range(40)) <= set(inside.tolist())
        assert len(outside) == 5
    with pytest.raises(InputError, match="got 1"):
        held_out_split(["a", "b", "b"], [0, 0, 1], 0.1, 0)


def write_benchmark(root: Path, paths: list[Path], captions: list[str]) -> None:
    query = root / "query/train/mbeir_toy_task0_train.jsonl"
    pool = root / "cand_pool/local/mbeir_toy_task0_train_cand_pool.jsonl"
    for path in (query, pool):
        path.parent.mkdir(parents=True)
    fields = {"query_img_path": None, "query_modality": "text", "query_src_content": None, "neg_cand_list": []}
    lines = [
        {"qid": f"90:{i}", "query_txt": caption, "pos_cand_list": [f"90:{i}"], "task_id": 0, **fields}
        for i, caption in enumerate(captions)
    ]
    query.write_text("".join(json.dumps(line) + "\n" for line in lines))
    fields = {"txt": None, "modality": "image", "src_content": None}
    lines = [{"did": f"90:{i}", "img_path": str(path.relative_to(root)), **fields} for i, path in enumerate(paths)]
    pool.write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_fitted_base_projects_captions_images_onto_their_words(
    tiny_base: Path, drawings: tuple[list[Path], list[str]], tmp_path: Path
) -> None:
    root, home = tmp_path / "bench", tmp_path / "home"
    (root / "mbeir_images").mkdir(parents=True)
    paths = []
    for path in drawings[0]:
        target = root / "mbeir_images" / path.name
        target.write_bytes(path.read_bytes())
        paths.append(target)
    write_benchmark(root, paths, drawings[1])
    folder = tmp_path / "fitted"
    folder.mkdir()
    projector.fitted_base(tiny_base, root, folder, home)
    note = read_note(folder)["projector"]
    assert note["pairs"] == len(paths)
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    plain = AutoModelForImageTextToText.from_pretrained(tiny_base, dtype=torch.float32).eval()
    for name, tensor in plain.state_dict().items():
        same = torch.equal(tensor, model.state_dict()[name])
        assert same != ("multi_modal_projector" in name), name
    tower = VisionTower(folder)
    features = image_features(tower, paths, home)[:].astype(np.float32)  # [n, channels, h, w]
    with torch.no_grad():
        tokens = model.model.multi_modal_projector(torch.from_numpy(features).flatten(2).transpose(1, 2)).numpy()
    words = projector.token_ids(AutoTokenizer.from_pretrained(folder), drawings[1])
    embeddings = projector.token_embeddings(folder)
    weights = inverse_document_frequency(words, len(embeddings))
    targets = caption_vectors(words, embeddings, weights)
    guess = unit(tokens.mean(1) - targets.mean(0))
    scores = guess @ unit(targets - targets.mean(0)).T
    rank = (scores > np.diag(scores)[:, None] + 1e-6).sum(1)
    assert rank.mean() < 0.15 * len(paths)  # chance: half
    assert np.linalg.norm(embeddings, axis=1).mean() == pytest.approx(
        np.linalg.norm(tokens - targets.mean(0), axis=2).mean(), rel=0.15
    )
    key = projector.fitting_key(root)
    query = next(root.glob("query/train/*.jsonl"))
    query.write_text(query.read_text() + "\n")
    assert projector.fitting_key(root) != key


def test_no_embeddings(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="embed_tokens"):
        projector.token_embeddings(tmp_path)
