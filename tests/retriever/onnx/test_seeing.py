"""Images made ready for a graph: positions, windows and tables are transformers' own, and every image goes through
once."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers import Qwen2VLConfig, Qwen2VLModel
from transformers.vision_utils import (
    get_vision_interpolation_indices_and_weights,
    get_vision_position_ids,
    get_vision_window_index,
)

from puma.retriever.images.patches import Patches
from puma.retriever.images.tiles import Tiles
from puma.retriever.onnx import seeing

IMAGE = 7
GRIDS = st.tuples(st.integers(1, 9), st.integers(1, 9))


def patches(**more):
    return Patches(4, 2, 4 * 64, 64 * 64, 3, "pillow", 1 / 255, (0.5,) * 3, (0.5,) * 3, **more)


def thw(rows, columns):
    return torch.tensor([[1, rows * 2, columns * 2]])


@given(before=st.integers(0, 4), after=st.integers(0, 4), grid=st.none() | GRIDS)
@settings(deadline=None)
def test_positions_in_the_plane_are_the_models(before, after, grid):
    count = 0 if grid is None else grid[0] * grid[1]
    ids = [1] * before + [IMAGE] * count + [2] * (after + 1)
    config = Qwen2VLConfig(image_token_id=IMAGE)
    kinds = torch.tensor([[int(one == IMAGE) for one in ids]])
    wanted, _ = Qwen2VLModel.get_rope_index(
        SimpleNamespace(config=config, get_vision_position_ids=_of_the_model), torch.tensor([ids]), kinds, _grid(grid)
    )
    np.testing.assert_array_equal(seeing.plane_positions(ids, IMAGE, grid), wanted[:, 0])


def _of_the_model(*given, **options):
    return Qwen2VLModel.get_vision_position_ids(None, *given, **options)


def _grid(grid):
    return None if grid is None else thw(*grid)


@given(grid=GRIDS, window=st.integers(1, 4), table=st.integers(2, 9))
@settings(deadline=None)
def test_what_goes_into_the_tower_is_transformers_own(grid, window, table):
    steps, whole = patches(window=window, table=table), thw(*grid)
    np.testing.assert_array_equal(steps.positions(*grid).reshape(-1, 2), get_vision_position_ids(whole, 2))
    order, ends = get_vision_window_index(whole, 2, window_size=window * 8, patch_size=4)
    windows, places = steps.windows(*grid)
    np.testing.assert_array_equal(windows[windows >= 0], order)
    np.testing.assert_array_equal((windows >= 0).sum(1) * 4, ends.diff())
    np.testing.assert_array_equal(windows.ravel()[places], np.arange(grid[0] * grid[1]))
    entries, weights = steps.corners(*grid)
    wanted, shares = get_vision_interpolation_indices_and_weights(
        whole, table, align_corners=True, spatial_merge_size=2
    )
    learned = np.random.default_rng(0).normal(size=table**2)
    found = (learned[entries] * weights).sum(-1).ravel()  # at an entry itself rounding decides which is the other
    np.testing.assert_allclose(found, (learned[wanted.numpy()] * shares.numpy()).sum(-1), atol=1e-5)


def drawn(*sizes):
    colours = np.random.default_rng(0).integers(0, 256, (len(sizes), 3))
    return [Image.new("RGB", size, tuple(map(int, colour))) for size, colour in zip(sizes, colours, strict=True)]


@pytest.mark.parametrize("pixels", [1, 64 * 64, 10**9])
def test_every_image_goes_through_once_with_others_of_its_grid(pixels, monkeypatch):
    monkeypatch.setattr(seeing, "PASS_PIXELS", pixels)
    steps = patches(window=2)
    images = drawn((40, 30), (60, 30), (40, 31), (40, 30), (5, 300))
    found = seeing.seen(SimpleNamespace(images=steps), images)
    assert found.sizes == [image.size for image in images]
    assert sorted(unit for one in found.passes for unit in one.units) == [0, 1, 2, 3, 4]
    assert max(len(one.units) for one in found.passes) == (1 if pixels == 1 else 3)
    for one in found.passes:
        np.testing.assert_array_equal(one.inputs["pixel_values"], steps([images[unit] for unit in one.units]))
        assert len(one.inputs["window_places"]) == one.inputs["pixel_values"].shape[1]


@pytest.mark.parametrize("pixels", [1, 600, 10**9])
def test_tiles_are_counted_through_all_images(pixels, monkeypatch):
    monkeypatch.setattr(seeing, "PASS_PIXELS", pixels)
    steps = Tiles(48, 16, True, 1, "pillow", 1 / 255, (0.5,) * 3, (0.5,) * 3, "<f>", "<g>")
    images = drawn((40, 30), (60, 3), (16, 16))
    found = seeing.seen(SimpleNamespace(images=steps), images)
    np.testing.assert_array_equal(np.concatenate([one.inputs["pixel_values"] for one in found.passes]), steps(images))
    assert [unit for one in found.passes for unit in one.units] == list(range(sum(len(steps([i])) for i in images)))
    assert max(len(one.units) for one in found.passes) == {1: 1, 600: 2}.get(pixels, len(steps(images)))


def test_what_stands_in_the_prompt_for_an_image():
    export = SimpleNamespace(images=patches(), image_token="<i>", image_rows=0)
    assert seeing.stand_in(export, (24, 16)) == "<i>" * 6
    steps = Tiles(32, 16, True, 1, "pillow", 1 / 255, (0.5,) * 3, (0.5,) * 3, "<f>", "<g>")
    export = SimpleNamespace(images=steps, image_token="<i>", image_rows=2)
    assert seeing.stand_in(export, (32, 16)) == "<f><row_1_col_1><i><i><f><row_1_col_2><i><i>\n\n<f><g><i><i><f>"
