"""``puma quickstart``: the whole road on real images, on a laptop, in minutes.

Here: the order of the steps, what is kept between runs, and what is told at the end. Not here: the steps themselves,
the recipe (:mod:`puma.mini.recipe`), the report's sheets (:mod:`puma.mini.showcase`).

A killed run goes on where it was: the images, the base and the vision features are in the cache folder, and what this
run has trained and measured is in ``<out>/work`` until everything is written.
"""

from __future__ import annotations

import functools
import itertools
import json
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from puma.data.mbeir import Benchmark
from puma.errors import InputError
from puma.evaluation.mbeir import chance, evaluate
from puma.evaluation.metrics import means
from puma.evaluation.report.page import Curve, write_report
from puma.items.item import Item
from puma.mini import openpics as images
from puma.mini.base.assemble import assemble
from puma.mini.base.projector import training_pairs
from puma.mini.base.vision import ImageFeatures, VisionTower, image_features, tower_precision
from puma.mini.baseline import RidgeBaseline
from puma.mini.fetch.packages import cache_home
from puma.mini.recipe import Recipe
from puma.mini.showcase import QUERIES, answered, answered_queries, task_sheets
from puma.retriever.encoding import has_fast_bf16
from puma.retriever.model import Retriever
from puma.search.searcher import Searcher
from puma.storage.folders import write_json
from puma.training.config import TrainConfig
from puma.training.pairs import Pair, first_instructions, read_pairs
from puma.training.stage import batches_of, train
from puma.training.teacher.store import CaptionTargets, caption_targets

Say = Callable[[str], None]


class KnownImages:
    """Stored vision features by an image's path: the retriever's ``vision``."""

    def __init__(self, paths: Sequence[Path], features: ImageFeatures) -> None:
        self._rows, self._row = features.rows, {}
        for path, row in zip(paths, features.index, strict=True):
            if row >= 0:
                self._row[os.fspath(path)] = int(row)

    def lookup(self, item: Item) -> np.ndarray | None:
        """The tower's output [channels, height, width], or None for an image that is not among them."""
        row = self._row.get(os.fspath(item.image)) if isinstance(item.image, (str, os.PathLike)) else None
        return None if row is None else np.asarray(self._rows[row])


@dataclass
class Run:
    """What a run has done so far; a part that is on disk from a killed run is not done again."""

    out: Path
    say: Say
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def work(self) -> Path:
        """Where unfinished things are."""
        return self.out / "work"

    def step(self, name: str, make: Callable[[], Any]) -> Any:
        """Do something, timed and announced."""
        self.say(f"[{len(self.seconds) + 1}] {name} ...")
        start = time.monotonic()
        value = make()
        self.seconds[name] = round(self.seconds.get(name, 0.0) + time.monotonic() - start, 1)
        return value

    def kept(self, name: str, make: Callable[[], Any]) -> Any:
        """Do something whose JSON value is kept for a resumed run, with the seconds that it took then."""
        path = self.work / f"{name.replace(' ', '_').replace(',', '')}.json"
        if path.is_file():
            found = json.loads(path.read_text(encoding="utf-8"))
            self.seconds[name] = found["seconds"]
            return found["value"]
        value = self.step(name, make)
        write_json(path, {"value": value, "seconds": self.seconds[name]})
        return value


def quickstart(
    out: str | os.PathLike[str] = "runs/quickstart",
    *,
    home: str | os.PathLike[str] | None = None,
    recipe: Recipe | None = None,
    say: Say = print,
    root: Path | None = None,
    base: Path | None = None,
) -> dict[str, Any]:
    """Assemble the mini base, build OpenPics, prune, distil, train, evaluate, index, search, report.

    Args:
        out: the folder of results: ``model``, ``index``, ``report.html``, ``results.json``, ``runs``.
        home: the cache folder.
        recipe: what is trained, and how long.
        say: where the lines of the tale go.
        root, base: a benchmark and a base model to use instead of OpenPics and the mini base.

    Returns:
        What ``results.json`` holds: ``systems`` and ``seconds``.

    Raises:
        InputError: ``out`` is a file. And what the steps raise: no client, no network, a full disk.
    """
    folder = Path(out)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"out={str(out)!r}: is a file; give a folder")
    cache = None if home is None else Path(home)
    plan = (recipe or Recipe()).for_this_machine()
    run = Run(folder, say)
    root = root or run.step("pictures", lambda: images.build(cache))
    base = base or run.step("base model", lambda: assemble(cache, settings=plan.base, images=root))
    _refuse_another(run.work, plan, root, base)
    vision = run.step("vision features", lambda: known_images(base, root, cache))
    systems: dict[str, Any] = {"chance": chance(root)}
    systems["ridge_baseline"] = run.kept("evaluate ridge baseline", lambda: _ridge(base, root, cache))
    retriever = run.step("prune", lambda: student(base, plan, vision))
    systems["pruned_untrained"] = run.kept("evaluate untrained", lambda: evaluate(retriever, root))
    logs = _trained(run, retriever, plan, base, root, vision, cache)
    runs = folder / "runs"
    systems["trained"] = run.kept("evaluate trained", lambda: evaluate(retriever, root, run_dir=runs))
    model = folder / "model"
    retriever.instructions = first_instructions(root)
    retriever.save_pretrained(model, replace=True)
    searcher = run.step("index", lambda: _indexed(retriever, root, folder / "index"))
    answers = run.step("search", lambda: answered_queries(searcher, root))
    results = {
        "systems": {name: systems[name] for name in ("trained", "pruned_untrained", "ridge_baseline", "chance")},
        "seconds": run.seconds,
    }
    sheets = [answered(answers), *task_sheets(root, runs)]
    write_report(
        folder / "report.html",
        title="PUMA quickstart",
        results=results["systems"],
        curves=_curves(logs),
        sheets=sheets,
        notes=_notes(plan, root, retriever),
        seconds=run.seconds,
    )
    write_json(folder / "results.json", results)
    shutil.rmtree(run.work, ignore_errors=True)
    _tell(say, folder, results, answers)
    return results


def known_images(base: Path, root: Path, home: Path | None, *, show_progress: bool = True) -> KnownImages:
    """The vision features of every image of a benchmark, from the cache where it has them."""
    paths = sorted(path for path in (root / "mbeir_images").rglob("*") if path.is_file())
    tower = VisionTower(base, precision=tower_precision())
    return KnownImages(paths, image_features(tower, paths, home, show_progress=show_progress))


def student(base: Path, plan: Recipe, vision: KnownImages) -> Retriever:
    """The pruned, untrained retriever, reading stored vision features."""
    retriever = Retriever.from_base(base, layers=plan.layers, prompt=plan.prompt, dtype=torch.float32)
    return _fast(retriever, vision)


def _fast(retriever: Retriever, vision: KnownImages | None) -> Retriever:
    retriever.vision = vision
    retriever.autocast = torch.bfloat16 if has_fast_bf16() else None
    # At twenty tokens a text, on a CPU, the plain form of attention trains a fifth faster than the fused one.
    retriever.model.set_attn_implementation("eager")
    return retriever


def _ridge(base: Path, root: Path, home: Path | None) -> dict[str, Any]:
    baseline = RidgeBaseline.fit(base, *training_pairs(root), home=home, precision=tower_precision())
    return evaluate(baseline, root)


def _trained(
    run: Run,
    retriever: Retriever,
    plan: Recipe,
    base: Path,
    root: Path,
    vision: KnownImages,
    home: Path | None,
) -> dict[str, list[dict[str, float]]]:
    """Both stages, or the weights that a killed run had finished."""
    done = run.work / "trained"
    if (done / "config.json").is_file():
        retriever.model = _fast(Retriever.from_pretrained(done), vision).model
        found = json.loads((run.work / "logs.json").read_text(encoding="utf-8"))
        run.seconds.update(found["seconds"])
        return found["logs"]
    logs: dict[str, list[dict[str, float]]] = {}
    pairs = run.step("read pairs", lambda: read_pairs(root, limit=plan.rows_per_query))
    targets = run.step("teacher", lambda: distillation_targets(base, plan, pairs, home))
    for name, config in (("distil", plan.distil), ("train", plan.retrieve)):
        if config.steps:
            logs[name] = run.step(
                name, functools.partial(_stage, retriever, pairs, config, run.work / name, vision, targets)
            )
    spent = {name: run.seconds[name] for name in ("read pairs", "teacher", *logs)}
    write_json(run.work / "logs.json", {"logs": logs, "seconds": spent})
    retriever.save_pretrained(done, replace=True)
    return logs


def _stage(
    retriever: Retriever,
    pairs: Sequence[Pair],
    config: TrainConfig,
    out: Path,
    vision: KnownImages,
    targets: CaptionTargets,
) -> list[dict[str, float]]:
    return train(retriever, pairs, config, out, vision=vision, teacher=targets).log


def distillation_targets(base: Path, plan: Recipe, pairs: Sequence[Pair], home: Path | None) -> CaptionTargets:
    """The unpruned base's states of every text that stage 1 will meet, and of the captions of its images."""
    captions: dict[str, str] = {}
    for pair in pairs:
        if pair.task == 3 and pair.query.image is not None and pair.candidate.text:
            captions.setdefault(os.fspath(pair.query.image), pair.candidate.text)  # type: ignore[arg-type]
    batches = itertools.islice(batches_of(pairs, plan.distil), plan.distil.steps)
    met = [item for rows in batches for row in rows for item in (pairs[row].query, pairs[row].candidate)]
    texts = [item.text for item in met if item.image is None and item.text]
    seen = {os.fspath(item.image) for item in met if isinstance(item.image, (str, os.PathLike)) and item.text is None}
    captions = {path: caption for path, caption in captions.items() if path in seen}
    # bf16 weights: a state is a target, not an answer, and the whole depth is five times the student's
    dtype = torch.bfloat16 if has_fast_bf16() else torch.float32
    teacher = Retriever.from_base(base, prompt=plan.teacher_prompt, dtype=dtype)
    store = (cache_home() if home is None else home) / "teacher"
    return caption_targets(teacher, texts, captions, centre=True, store=store, show_progress=True)


def _indexed(retriever: Retriever, root: Path, index: Path) -> Searcher:
    """Every image of the benchmark, all splits, and the test split's texts: what there is to search."""
    if index.exists():
        shutil.rmtree(index)  # of an earlier model
    searcher = Searcher(retriever, index)
    searcher.add_paths([root / "mbeir_images"])
    texts = {c.text: c for c in Benchmark(root).global_pool("test") if c.modality == "text" and c.text}
    searcher.add([Item(text=text) for text in texts], payloads=[{"text": text} for text in texts])
    return searcher


def _refuse_another(work: Path, plan: Recipe, root: Path, base: Path) -> None:
    """A killed run's work goes on only under the same plan; under another it is done anew."""
    described = json.loads(json.dumps({"recipe": plan.describe(), "root": root.name, "base": base.name}))
    path = work / "plan.json"
    if path.is_file() and json.loads(path.read_text(encoding="utf-8")) != described:
        shutil.rmtree(work)
    if not path.is_file():
        write_json(path, described)


def _curves(logs: Mapping[str, Sequence[Mapping[str, float]]]) -> list[Curve]:
    titles = {"distil": "Stage 1: self-distillation", "train": "Stage 2: MAC-Loss"}
    curves = []
    for stage, log in logs.items():
        for term in ("loss", "contrastive", "distillation"):
            rows = [entry for entry in log if term in entry]
            if rows and (term == "loss" or stage == "distil"):
                curves.append(Curve(term, [r["step"] for r in rows], [r[term] for r in rows], titles[stage]))
    return curves


def _notes(plan: Recipe, root: Path, retriever: Retriever) -> list[str]:
    from puma.pruning import count_parameters

    counts = count_parameters(retriever.model)
    return [
        f"{plan.layers} decoder layers of the base kept: {counts['total'] / 1e6:.1f} M parameters with token "
        f"embeddings, {counts['without_embeddings'] / 1e6:.1f} M without.",
        f"Distilled for {plan.distil.steps} and trained for {plan.retrieve.steps} steps of "
        f"{plan.retrieve.batch_size} pairs, seed {plan.retrieve.seed}. No concept of the test pools occurs in a "
        "training pair.",
        f"Data: {root.name}; its DATASHEET.md tells sources, licences and flaws.",
    ]


def _tell(say: Say, folder: Path, results: Mapping[str, Any], answers: Sequence[Any]) -> None:
    say("")
    say(
        "hit@10 in local pools        "
        + "".join(f"{'task ' + task:>9}" for task in results["systems"]["chance"])
        + "     mean"
    )
    for name, tasks in results["systems"].items():
        row = "".join(f"{100 * table['hit_rate@10']:9.1f}" for table in tasks.values())
        say(f"{name:28s} {row}{100 * means(tasks.values(), ['hit_rate@10'])['hit_rate@10']:9.1f}")
    say("")
    for query, hits in zip(QUERIES, answers, strict=False):
        best = hits.results[0].item if hits.results else None
        shown = "nothing" if best is None else (best.text or Path(str(best.image)).name)
        say(f"  {query.label:44.44s} -> {shown}")
    say("")
    say(f"report   {folder / 'report.html'}")
    say(f"model    {folder / 'model'}   (also: SentenceTransformer({str(folder / 'model')!r}))")
    say(f'search   puma search {folder / "index"} "a red fox" --modality image --model {folder / "model"}')
    say(f"page     puma serve {folder / 'index'} --model {folder / 'model'}   then open http://127.0.0.1:8000/")
    say('your own puma index add my.index ~/Pictures  &&  puma search my.index "at the beach"   (with puma-mini)')
    say(
        "a real base: puma train --base Qwen/Qwen2-VL-2B-Instruct --data DIR --layers 12 --out my-retriever"
        "   (docs/real-base.md)"
    )
