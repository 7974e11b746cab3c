"""Damaged and hostile images: an ImageError or an image, no warning, memory within a ceiling, and no more work than
the bytes and pixels allow."""

import json
import os
import struct
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from PIL import Image

from puma.errors import ImageError
from puma.items import open_image
from puma.items.image_checks import MAX_PARTS, MAX_SCANS, scans, why_costly, why_too_many_scans
from puma.items.opening import MAX_SLOW_SAMPLES

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
from _image_mutations import SIDES, bombs, mutated, run_length_bmp, seeds, tiff

SURVEY = Path(__file__).parents[2] / "benchmarks" / "_image_survey.py"


def survey(count: int, seed: int, max_pixels: int) -> dict:
    command = [sys.executable, str(SURVEY), str(count), str(seed), str(max_pixels)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def sound_survey(count: int, seed: int, max_pixels: int) -> None:
    found = survey(count, seed, max_pixels)
    assert found["escaped"] == []
    assert found["warned"] == []
    assert found["starved"] == []
    assert found["opened"] + found["refused"] == found["pictures"] == count
    assert found["opened"] > count / 10, "so few survive that nothing is tested"
    assert found["peak_growth_mib"] < found["ceiling_mib"]


def test_ten_thousand_mutated_images():
    sound_survey(10_000, 0, 4_000_000)


@pytest.mark.slow
def test_ten_thousand_others_at_the_real_limit():
    sound_survey(10_000, 1, 80_000_000)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 8))
def test_sixty_thousand_more(seed):
    sound_survey(10_000, seed, 4_000_000)


@pytest.mark.parametrize(("name", "data"), seeds().items(), ids=list(seeds()))
def test_sound_images_of_every_kind_open(name, data):
    image = open_image(data)
    assert image.mode == "RGB"
    turned = name in ("png", "jpeg", "webp", "tiff")  # those with an orientation
    expected = (3, 2) if name in ("ppm-plain", "ppm-odd") else SIDES[::-1] if turned else SIDES
    assert image.size == expected


def test_mutations_repeat_and_differ():
    first = list(mutated(500, 3))
    assert first == list(mutated(500, 3))
    assert len({data for _, data in first}) > 400
    assert first != list(mutated(500, 4))


HARMLESS = ("apng-frames", "gif-frames")
"""Frames beyond the first are never read: these are images."""


@pytest.mark.parametrize(("name", "data"), bombs().items(), ids=list(bombs()))
def test_bombs_are_refused(name, data):
    if name in HARMLESS:
        assert open_image(data).mode == "RGB"
    else:
        with pytest.raises(ImageError):
            open_image(data)


COSTLY = {
    "png-chunks": "chunks",
    "jpeg-segments": "segments",
    "jpeg-fill": "segments",
    "jpeg-junk": "belong to no segment",
    "gif-comments": "blocks before the first frame",
    "tiff-strips": "strips",
    "tiff-tile": "tiles of 60000 x 60000",
    "tiff-samples": "samples a pixel",
    "tiff-fax-rows": "rows of a fax",
    "ppm-comment": "header",
    "ppm-comments": "comments",
}


@pytest.mark.parametrize(("name", "words"), COSTLY.items())
def test_what_costs_too_much_is_told_before_a_decoder_sees_it(name, words, monkeypatch):
    monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("a decoder was asked"))
    with pytest.raises(ImageError, match=words):
        open_image(bombs()[name])


@pytest.mark.parametrize(("name", "data"), seeds().items(), ids=list(seeds()))
def test_sound_images_cost_nothing_odd(name, data):
    assert why_costly(data, 80_000_000) is None


def test_what_is_counted_up_to_the_limit_passes():
    """One below each limit: else the checks above could be anything."""
    jpeg = seeds()["jpeg"]
    assert why_costly(jpeg[:2] + b"\xff\xfe\0\2" * (MAX_PARTS - 100) + jpeg[2:], 1) is None
    assert why_costly(tiff({273: (4, MAX_PARTS, 8)}), 1) is None
    assert why_costly(tiff({273: (4, MAX_PARTS + 1, 8)}), 1) is not None
    assert why_costly(tiff({322: (3, 1, 256), 323: (3, 1, 256)}), 256 * 256) is None
    assert why_costly(tiff({322: (3, 1, 256), 323: (3, 1, 256)}), 256 * 256 - 1) is not None


def test_a_big_endian_and_a_big_tiff_are_looked_into():
    classic = struct.pack(">2sHLH", b"MM", 42, 8, 1) + struct.pack(">HHLHH", 277, 3, 1, 9, 0) + bytes(4)
    big = struct.pack("<2sHHHQQ", b"II", 43, 8, 0, 16, 1) + struct.pack("<HHQQ", 277, 16, 1, 9) + bytes(8)
    assert "9 samples" in str(why_costly(classic, 1))
    assert "9 samples" in str(why_costly(big, 1))


def test_scans_of_a_progressive_image():
    data = seeds()["jpeg-progressive"]
    assert 5 < scans(data) < 20
    assert scans(seeds()["jpeg"]) == 1
    assert why_too_many_scans(data, 80_000_000) is None
    last = data[data.rindex(b"\xff\xda") : -2]
    many = data[:-2] + last * MAX_SCANS + b"\xff\xd9"
    with pytest.raises(ImageError, match="scans"):
        open_image(many)
    few = data[:-2] + last * 40 + b"\xff\xd9"
    assert why_too_many_scans(few, 1000) is None
    assert "limit of 25" in str(why_too_many_scans(few, 80_000_000))


def test_slow_decoders_get_small_images_only():
    assert open_image(run_length_bmp(200, 100, b"\x02\x07\0\0" * 100)).size == (200, 100)
    with pytest.raises(ImageError, match="slow to decode"):
        open_image(run_length_bmp(MAX_SLOW_SAMPLES + 1, 1, b"\x02\x07\0\0"))


def test_damaged_notes_do_not_cost_the_image():
    sound = seeds()["jpeg"]
    place = sound.index(b"Exif\0\0") + 6
    damaged = sound[: place + 4] + b"\xff\xff\xff\xff" + sound[place + 8 :]
    assert open_image(damaged).size == SIDES


def test_numbers_that_are_none_are_black_and_silent():
    values = struct.pack("<4f", float("nan"), float("inf"), float("-inf"), 0.5)
    data = b"Pf\n4 1\n-1.0\n" + values.replace(struct.pack("<f", float("nan")), b"\x01\0\xa0\x7f")  # a signalling one
    assert [open_image(data).getpixel((x, 0))[0] for x in range(4)] == [0, 255, 0, 127]


def test_no_warning_comes_out_of_threads_and_filters_are_as_before():
    odd = [data for name, data in mutated(400, 9) if name.startswith(("jpeg ", "tiff ", "png "))]
    before = list(warnings.filters)

    def opened(data: bytes) -> bool:
        try:
            open_image(data)
        except ImageError:
            return False
        return True

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        inside = list(warnings.filters)
        with ThreadPoolExecutor(8) as pool:
            assert any(pool.map(opened, odd * 3))
        assert list(warnings.filters) == inside
    assert caught == []
    assert list(warnings.filters) == before


def test_a_reduced_jpeg_keeps_the_side_and_the_limits():
    stream = seeds()["jpeg-progressive"]
    assert open_image(stream, least_side=10).size == (19, 12)
    assert open_image(stream, least_side=30).size == SIDES
    assert open_image(seeds()["png-clear"], least_side=5).size == SIDES
    with pytest.raises(ImageError, match="over the limit"):
        open_image(stream, max_pixels=100, least_side=5)


def test_the_callers_image_is_copied():
    mine = Image.new("RGB", (4, 4), (1, 2, 3))
    opened = open_image(mine)
    opened.putpixel((0, 0), (9, 9, 9))
    assert mine.getpixel((0, 0)) == (1, 2, 3)
