"""One drawing to pixels: mending, limits, and the worker that a bad one may take down."""

import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from puma.mini.openpics import shards
from puma.mini.openpics.raster import MAX_SVG_BYTES, SIZE, UnfitError, encoded, pixels
from puma.mini.openpics.records import ImageRecord
from support.openpics_sources import BOMB, png_header, shape

RED_LEFT = '<rect width="50" height="100" fill="#f00"/><rect x="50" width="50" height="100" fill="#00f"/>'


def svg(body: str, attributes: str) -> str:
    return f'<svg xmlns="http://www.w3.org/2000/svg" {attributes}>{body}</svg>'


@pytest.mark.parametrize(
    "attributes",
    [
        'viewBox="0 0 100 100"',
        'width="100" height="100"',
        'width="100px" height="100px" viewBox="0,0,100,100"',
        'width="75pt" height="75pt"',
        'width="1in" height="1in" viewBox="0 0 100 100"',
        'width="100%" height="100%" viewBox="0 0 100 100"',
        'width="1e9" height="1e9" viewBox="0 0 100 100"',
        'stroke-width="3" preserveAspectRatio="none" width="300" height="3" viewBox="0 0 100 100"',
    ],
)
def test_the_page_is_found_however_it_is_said(attributes: str) -> None:
    array = pixels(svg(RED_LEFT, attributes), None)
    assert array.shape == (SIZE, SIZE, 3)
    assert array.dtype == np.uint8
    assert tuple(array[SIZE // 2, SIZE // 4]) == (255, 0, 0)
    assert tuple(array[SIZE // 2, 3 * SIZE // 4]) == (0, 0, 255)


def test_a_small_drawing_in_a_corner_is_brought_close(tmp_path: Path) -> None:
    body = '<rect x="700" y="900" width="40" height="20" fill="#f00"/>'
    page = tmp_path / "page.svg"
    page.write_text(svg(body, 'width="21cm" height="29.7cm" viewBox="0 0 744 1052"'))
    array = pixels(None, page)
    red = (array == (255, 0, 0)).all(axis=2)
    assert red.any(axis=0).sum() > 0.75 * SIZE
    assert red.any(axis=1).sum() == pytest.approx(red.any(axis=0).sum() / 2, abs=2)


def test_wide_images_are_padded_with_white(tmp_path: Path) -> None:
    Image.new("RGB", (300, 100), (0, 0, 255)).save(tmp_path / "wide.png")
    with pytest.raises(UnfitError, match="blank"):
        pixels(svg('<rect width="9" height="9" fill="#fff"/>', 'viewBox="0 0 9 9"'), None)
    array = pixels(None, tmp_path / "wide.png")
    assert (array[:70] == 255).all()
    assert tuple(array[SIZE // 2, SIZE // 2]) == (0, 0, 255)


@pytest.mark.parametrize(
    ("drawing", "reason"),
    [
        (BOMB, "entities within entities"),
        ('<!DOCTYPE svg [<!ENTITY x SYSTEM "file:///etc/passwd">]>' + svg("<text>&x;</text>", ""), "entities outside"),
        ('<!DOCTYPE svg [<!ENTITY x "' + "y" * 4000 + '">]>' + svg("&x;" * 400, ""), "entities too large"),
        (svg(" " * MAX_SVG_BYTES, 'viewBox="0 0 9 9"'), "too large in bytes"),
        (svg(RED_LEFT, 'viewBox="0 0 1 100000"'), "page too narrow"),
        (svg("<g", 'viewBox="0 0 9 9"'), "renderer"),
        ("nothing", "no svg element"),
        (svg("", 'viewBox="0 0 9 9"'), "blank"),
    ],
)
def test_what_is_refused(drawing: str, reason: str) -> None:
    with pytest.raises(UnfitError, match=reason):
        pixels(drawing, None)


def test_harmless_entities_are_kept() -> None:
    drawing = '<!DOCTYPE svg [<!ENTITY c "#f00">]>' + svg(
        '<rect width="50" height="9" fill="&c;"/>', 'viewBox="0 0 100 9"'
    )
    assert (pixels(drawing, None) == (255, 0, 0)).all(axis=2).any()


def test_references_out_of_the_file_are_cut(tmp_path: Path) -> None:
    Image.new("RGB", (9, 9), (0, 255, 0)).save(tmp_path / "secret.png")
    body = (
        f'<rect width="50" height="100" fill="#f00"/><image width="100" height="100" href="{tmp_path / "secret.png"}"/>'
    )
    array = pixels(svg(body, 'viewBox="0 0 100 100"'), None)
    assert not (array == (0, 255, 0)).all(axis=2).any()


def test_damaged_and_giant_files(tmp_path: Path) -> None:
    (tmp_path / "giant.png").write_bytes(png_header(20_000, 20_000))
    with pytest.raises(UnfitError, match="too many pixels"):
        pixels(None, tmp_path / "giant.png")
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 60, 3), np.uint8)).save(tmp_path / "whole.png")
    (tmp_path / "half.png").write_bytes((tmp_path / "whole.png").read_bytes()[:5000])
    with pytest.raises(UnfitError, match="damaged file"):
        pixels(None, tmp_path / "half.png")


def test_files_keep_every_pixel(tmp_path: Path) -> None:
    array = pixels(svg(shape(3, "#a1b2c3", "#312"), 'viewBox="0 0 100 100"'), None)
    (tmp_path / "p.webp").write_bytes(encoded(array))
    assert (np.asarray(Image.open(tmp_path / "p.webp")) == array).all()
    assert encoded(array) == encoded(array.copy())


def images(number: int) -> list[ImageRecord]:
    made = [svg(shape(i, "#a33", "#113"), 'viewBox="0 0 100 100"') for i in range(number)]
    return [ImageRecord(f"x/{i}", "x", "x", f"thing {i}", svg=drawing) for i, drawing in enumerate(made)]


def test_a_image_that_hangs_is_given_up_and_the_rest_go_on(tmp_path: Path) -> None:
    """An endless pipe as a file: reading it never ends, as a hanging renderer would not."""
    import os

    os.mkfifo(tmp_path / "endless.svg")
    jobs = images(5)
    jobs[2] = ImageRecord("x/endless", "x", "x", "endless", path=tmp_path / "endless.svg")
    began = time.monotonic()
    (shard,) = shards.render(jobs, tmp_path / "shards", workers=1, limit_s=2)
    assert time.monotonic() - began < 30
    reasons = [entry.get("reason") for entry, _ in shards.read_shard(shard)]
    assert reasons == [None, None, "took longer than 2 s", None, None]
    assert [data is not None for _, data in shards.read_shard(shard)] == [True, True, False, True, True]


def test_shards_that_exist_are_kept_and_scratch_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "SHARD", 4)
    jobs = images(10)
    files = shards.render(jobs, tmp_path)
    assert len(files) == 3
    before = {file: (file.stat().st_mtime_ns, file.read_bytes()) for file in files}
    files[1].rename(files[1].with_suffix(".zip.123.tmp"))
    assert shards.render(jobs, tmp_path) == files
    assert {f: f.read_bytes() for f in files} == {f: content for f, (_, content) in before.items()}
    assert files[0].stat().st_mtime_ns == before[files[0]][0]
    assert files[1].stat().st_mtime_ns != before[files[1]][0]
    assert sorted(tmp_path.iterdir()) == files
    changed = [*jobs[:-1], ImageRecord("x/9", "x", "x", "thing 9", svg=jobs[0].svg)]
    assert shards.render(changed, tmp_path)[2] != files[2]
