"""``puma quickstart``: from nothing to a searchable index of real images, on a laptop, in minutes.

A killed run goes on where it was: the images, the base and the vision features are in the cache folder, and what this
run has trained and measured is in ``<out>/work`` until everything is written.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from puma.data.mbeir import Benchmark
from puma.errors import InputError, require
from puma.evaluation.mbeir import chance, evaluate
from puma.evaluation.metrics import means
from puma.evaluation.report.page import Curve, write_report
from puma.items.item import Item
from puma.mini import openpics
from puma.mini.base.assemble import assemble
from puma.mini.base.known_images import KnownImages, known_images
from puma.mini.base.projector import training_pairs
from puma.mini.base.vision import tower_precision
from puma.mini.baseline import RidgeBaseline
from puma.mini.showcase import QUERIES, answered_queries, answers_sheet, task_sheets
from puma.mini.training import base_settings, for_this_machine, prepared, student, train_stages
from puma.retriever.model import Retriever
from puma.search.searcher import Searcher
from puma.storage.folders import write_json
from puma.training.config import LENGTHS
from puma.training.recipes.recipe import Recipe, read_recipe

Say = Callable[[str], None]
TRAINED = "trained"
"""The folder of a run's work that holds the trained retriever."""
LOSS_TITLES = {"mac": "MAC-Loss", "split-mac": "split MAC-Loss", "infonce": "InfoNCE", "siglip": "SigLIP's loss"}
"""Losses as the report calls them; others by their names in recipes."""


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

    def training_step(self, name: str, make: Callable[[], Any]) -> Any:
        """Do a part of the training; in results and report stage 2 is called ``train``."""
        return self.step("train" if name == "retrieve" else name, make)

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
    minutes: float | None = None,
    say: Say = print,
    root: Path | None = None,
    base: Path | None = None,
) -> dict[str, Any]:
    """Assemble the mini base, build OpenPics, prune, train, evaluate, index, search, report.

    Args:
        out: the folder of results: ``model``, ``index``, ``report.html``, ``results.json``, ``runs``.
        home: the cache folder.
        recipe: what is trained, and how long; None for the shipped recipe ``mini``.
        minutes: wall time of stage 2, in place of the recipe's steps or minutes; a resumed run goes on with what is
            left of it, and one that is resumed with more minutes than before trains on.
        say: where progress messages go.
        root, base: a benchmark and a base model to use instead of OpenPics and the mini base.

    Returns:
        What ``results.json`` holds: ``systems``, ``steps`` by stage, and ``seconds``.

    Raises:
        InputError: ``out`` is a file; ``minutes`` is no positive number. And what the steps raise: no client, no
            network, a full disk.
    """
    require("the quickstart", "mini")
    folder = Path(out)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"out={str(out)!r}: is a file; give a folder")
    cache = None if home is None else Path(home)
    plan = for_this_machine(recipe or read_recipe("mini"))
    if minutes is not None:
        if not minutes > 0:
            raise InputError(f"minutes={minutes}: give a positive number, as 5")
        plan = replace(plan, retrieve=replace(plan.retrieve, steps=0, minutes=float(minutes), least_steps=0))
    run = Run(folder, say)
    root = root or run.step("pictures", lambda: openpics.build(cache))
    base = base or run.step("base model", lambda: assemble(cache, settings=base_settings(plan), images=root))
    _drop_work_of_another_recipe(run.work, plan, root, base)
    vision = run.step("vision features", lambda: known_images(base, root, cache))
    systems: dict[str, Any] = {"chance": chance(root)}
    systems["ridge_baseline"] = run.kept("evaluate ridge baseline", lambda: _evaluate_ridge(base, root, cache))
    retriever = run.step("prune", lambda: student(base, plan, vision))
    systems["pruned_untrained"] = run.kept("evaluate untrained", lambda: evaluate(retriever, root))
    logs = _train(run, retriever, plan, base, root, vision, cache)
    runs = folder / "runs"
    systems["trained"] = run.kept("evaluate trained", lambda: evaluate(retriever, root, run_dir=runs))
    model = folder / "model"
    retriever.save_pretrained(model, replace=True)
    searcher = run.step("index", lambda: _build_index(retriever, root, folder / "index"))
    answers = run.step("search", lambda: answered_queries(searcher, root))
    results = {
        "systems": {name: systems[name] for name in ("trained", "pruned_untrained", "ridge_baseline", "chance")},
        "steps": {name: int(log[-1]["step"]) for name, log in logs.items() if log},
        "seconds": run.seconds,
    }
    sheets = [answers_sheet(answers), *task_sheets(root, runs)]
    write_report(
        folder / "report.html",
        title="PUMA quickstart",
        results=results["systems"],
        curves=_loss_curves(logs, plan),
        sheets=sheets,
        notes=_notes(plan, root, retriever, results["steps"]),
        seconds=run.seconds,
    )
    write_json(folder / "results.json", results)
    shutil.rmtree(run.work, ignore_errors=True)
    _say_results(say, folder, results, answers)
    return results


def _evaluate_ridge(base: Path, root: Path, home: Path | None) -> dict[str, Any]:
    baseline = RidgeBaseline.fit(base, *training_pairs(root), home=home, precision=tower_precision())
    return evaluate(baseline, root)


def _train(
    run: Run,
    retriever: Retriever,
    recipe: Recipe,
    base: Path,
    root: Path,
    vision: KnownImages,
    home: Path | None,
) -> dict[str, list[dict[str, float]]]:
    """Both stages, or the weights that a killed run had finished."""
    done = run.work / TRAINED
    if (done / "config.json").is_file():
        trained = prepared(Retriever.from_pretrained(done), recipe, vision)
        retriever.model, retriever.instructions = trained.model, trained.instructions
        found = json.loads((run.work / "logs.json").read_text(encoding="utf-8"))
        run.seconds.update(found["seconds"])
        return found["logs"]
    before = set(run.seconds)
    logs = train_stages(
        retriever, recipe, base, root, run.work, vision=vision, home=home, step=run.training_step, say=run.say
    )
    spent = {name: seconds for name, seconds in run.seconds.items() if name not in before}
    write_json(run.work / "logs.json", {"logs": logs, "seconds": spent})
    retriever.save_pretrained(done, replace=True)
    return logs


def _build_index(retriever: Retriever, root: Path, index: Path) -> Searcher:
    """Every image of the benchmark, all splits, and the test split's texts: what there is to search."""
    if index.exists():
        shutil.rmtree(index)  # of an earlier model
    searcher = Searcher(retriever, index)
    searcher.add_paths([root / "mbeir_images"])
    texts = {c.text: c for c in Benchmark(root).global_pool("test") if c.modality == "text" and c.text}
    searcher.add([Item(text=text) for text in texts], payloads=[{"text": text} for text in texts])
    return searcher


def _drop_work_of_another_recipe(work: Path, recipe: Recipe, root: Path, base: Path) -> None:
    """A killed run's work goes on only under the same plan; under another it is done anew. Of one that differs in its
    length alone the checkpoints stay, and what was made of the trained model is made anew."""
    described = json.loads(json.dumps({"recipe": asdict(recipe), "root": root.name, "base": base.name}))
    length = {name: described["recipe"]["retrieve"].pop(name) for name in LENGTHS}
    path = work / "plan.json"
    before = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    if before is not None and {**before, "length": None} != {**described, "length": None}:
        shutil.rmtree(work)
    elif before is not None and before["length"] != length:
        shutil.rmtree(work / TRAINED, ignore_errors=True)
        (work / "evaluate_trained.json").unlink(missing_ok=True)
    write_json(path, {**described, "length": length})


def _loss_curves(logs: Mapping[str, Sequence[Mapping[str, float]]], recipe: Recipe) -> list[Curve]:
    loss = recipe.retrieve.loss
    contrast = LOSS_TITLES.get(loss, loss)
    titles = {"distil": "Stage 1: self-distillation", "retrieve": f"Stage 2: {contrast}" if len(logs) > 1 else contrast}
    curves = []
    for stage, log in logs.items():
        for term in ("loss", "contrastive", "distillation"):
            rows = [entry for entry in log if term in entry]
            if rows and (term == "loss" or stage == "distil"):
                curves.append(Curve(term, [r["step"] for r in rows], [r[term] for r in rows], titles[stage]))
    return curves


def _notes(recipe: Recipe, root: Path, retriever: Retriever, steps: Mapping[str, int]) -> list[str]:
    from puma.pruning import count_parameters, decoder_of

    counts, layers = count_parameters(retriever.model), len(decoder_of(retriever.model).layers)
    config = recipe.retrieve
    distilled = f"Distilled for {steps['distil']} steps, then t" if steps.get("distil") else "T"
    in_time = config.minutes and steps.get("retrieve", 0) > config.least_steps
    within = f" in the {config.minutes:g} minutes that it had" if in_time else ""
    return [
        f"{layers} decoder layers of the base kept: {counts['total'] / 1e6:.1f} M parameters with token "
        f"embeddings, {counts['without_embeddings'] / 1e6:.1f} M without.",
        f"{distilled}rained for {steps.get('retrieve', 0)} steps of "
        f"{config.batch_size} pairs{within}, seed {config.seed}. No concept of the test pools occurs in a training "
        "pair.",
        f"Data: {root.name}; its DATASHEET.md tells sources, licences and flaws.",
    ]


def _say_results(say: Say, folder: Path, results: Mapping[str, Any], answers: Sequence[Any]) -> None:
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
        "a real base: puma train --base Qwen/Qwen2-VL-2B-Instruct --data pairs.csv --layers 12 --out my-retriever"
        "   (docs/real-base.md)"
    )
