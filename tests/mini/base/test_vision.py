"""Feature maps: equal to the whole model's, computed once, whole after a kill."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText

from puma.errors import ImageError, InputError, ModelError
from puma.mini.base.feature_store import KEY_BYTES, FeatureStore
from puma.mini.base.vision import VisionTower, image_features


def files_of(home: Path) -> dict[str, Path]:
    return {path.name: path for path in home.glob("features/*/*")}


def test_tower_gives_what_the_whole_model_gives(tiny_base: Path, drawings: tuple[list[Path], list[str]]) -> None:
    tower = VisionTower(tiny_base)
    model = AutoModelForImageTextToText.from_pretrained(tiny_base, dtype=torch.float32).eval()
    pixels = torch.stack([tower.pixels(Image.open(path)) for path in drawings[0][::20]])
    with torch.no_grad():
        slow = model.model.vision_tower(pixels).last_hidden_state.numpy()
    assert slow.std() > 0.1
    np.testing.assert_allclose(tower.forward(pixels), slow, atol=1e-4)
    assert tower.shape == slow.shape[1:] == (320, 2, 2)
    fast = VisionTower(tiny_base, precision="bfloat16").forward(pixels)
    cosine = (fast * slow).sum() / np.linalg.norm(fast) / np.linalg.norm(slow)
    assert cosine > 0.99


def test_features_are_kept_and_follow_the_order_asked_for(
    tiny_base: Path, drawings: tuple[list[Path], list[str]], tmp_path: Path
) -> None:
    tower, paths = VisionTower(tiny_base), drawings[0][:40]
    first = image_features(tower, paths[:30], tmp_path, batch_size=7)
    direct = tower([Image.open(path).convert("RGB") for path in paths])
    np.testing.assert_allclose(first[:], direct[:30], atol=5e-3)
    before = files_of(tmp_path)["rows"].read_bytes()
    more = image_features(tower, [*reversed(paths), paths[0]], tmp_path)
    np.testing.assert_allclose(more[:], direct[[*range(39, -1, -1), 0]], atol=5e-3)
    assert files_of(tmp_path)["rows"].read_bytes().startswith(before)  # the thirty were not computed again
    assert len(more.rows) == 40
    np.testing.assert_allclose(more.pooled(block=16), more[:].astype(np.float32).mean((2, 3)), rtol=1e-6)


def test_unreadable_images_are_listed(tiny_base: Path, drawings: tuple[list[Path], list[str]], tmp_path: Path) -> None:
    torn, gone = tmp_path / "torn.png", tmp_path / "gone.png"
    torn.write_bytes(drawings[0][0].read_bytes()[:60])
    features = image_features(tiny_base, [drawings[0][0], torn, gone, drawings[0][1]], tmp_path)
    assert features.index.tolist() == [0, -1, -1, 1]
    assert [name for name, _ in features.unreadable] == [str(torn), str(gone)]
    assert not features.pooled()[1].any()
    with pytest.raises(ImageError, match="1 of these"):
        features[[0, 1]]
    assert image_features(tiny_base, [], tmp_path)[:].shape == (0, 320, 2, 2)


def test_half_written_files_lose_only_their_tail(
    tiny_base: Path, drawings: tuple[list[Path], list[str]], tmp_path: Path
) -> None:
    tower, paths = VisionTower(tiny_base), drawings[0][:20]
    whole = image_features(tower, paths, tmp_path)[:]
    files = files_of(tmp_path)
    for name, cut in (("keys", 3 * KEY_BYTES + 5), ("rows", 1001), ("keys", 1)):
        data = files[name].read_bytes()
        files[name].write_bytes(data[:-cut])
        # a last bit may differ: a batch of another size is summed in another order
        np.testing.assert_allclose(image_features(tower, paths, tmp_path)[:], whole, atol=5e-3)
        assert files["keys"].stat().st_size == 20 * KEY_BYTES


def test_kill_nine_and_go_on(tiny_base: Path, drawings: tuple[list[Path], list[str]], tmp_path: Path) -> None:
    paths = [str(path) for path in drawings[0]]
    code = (
        "import torch; torch.set_num_threads(1)\nfrom puma.mini.base.vision import *\n"
        f"image_features({str(tiny_base)!r}, {paths!r}, {str(tmp_path)!r}, batch_size=1)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    while process.poll() is None and not (files_of(tmp_path).get("keys") and files_of(tmp_path)["keys"].stat().st_size):
        time.sleep(0.002)
    process.kill()
    process.wait()
    tower = VisionTower(tiny_base)
    kept = files_of(tmp_path)["keys"].stat().st_size // KEY_BYTES
    assert 1 <= kept < len(paths)
    features = image_features(tower, paths, tmp_path)
    direct = tower([Image.open(path).convert("RGB") for path in paths])
    np.testing.assert_allclose(features[:], direct, atol=5e-3)


def test_fingerprint_follows_weights_precision_and_pixels(tiny_base: Path, tmp_path: Path) -> None:
    import shutil

    one = VisionTower(tiny_base)
    assert one.fingerprint == VisionTower(tiny_base).fingerprint
    assert one.fingerprint != VisionTower(tiny_base, precision="bfloat16").fingerprint
    copy = tmp_path / "copy"
    shutil.copytree(tiny_base, copy)
    text = (copy / "processor_config.json").read_text()
    (copy / "processor_config.json").write_text(text.replace('"do_normalize": true', '"do_normalize": false'))
    assert one.fingerprint != VisionTower(copy).fingerprint


def test_store_round_trips_and_checks_shapes(tmp_path: Path) -> None:
    rows = np.arange(12, dtype=np.float16).reshape(2, 2, 3)
    with FeatureStore(tmp_path, (2, 3)) as store:
        store.append([b"a" * 16, b"b" * 16], rows)
        with pytest.raises(ValueError, match=r"rows must be \(1, 2, 3\)"):
            store.append([b"c" * 16], rows)
    with FeatureStore(tmp_path, (2, 3)) as store:
        assert [store.position(key * 16) for key in (b"a", b"b", b"c")] == [0, 1, -1]
        np.testing.assert_array_equal(store.rows(), rows)


def test_bad_arguments(tiny_base: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'int4'"):
        VisionTower(tiny_base, precision="int4")
    with pytest.raises(ModelError, match="not a finished model folder"):
        VisionTower(tmp_path)
