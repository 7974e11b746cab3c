"""A whole probe: draw data, embed at every depth, score, suggest a depth, write the report."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from puma.errors import InputError
from puma.evaluation.metrics import chance_hit_rate
from puma.evaluation.probing.choice import Point, check_target, suggest, within_one_error
from puma.evaluation.probing.depths import FIRST, KEEP_LAST, VARIANTS, depth_flops
from puma.evaluation.probing.embedding import embed, features, item_key
from puma.evaluation.probing.material import Material, Task, gather
from puma.evaluation.probing.plot import check_matplotlib, write_plot
from puma.evaluation.probing.report import markdown
from puma.evaluation.probing.scoring import KS, METRIC, cosines, mean_over_tasks, rates, ridge_scores
from puma.evaluation.probing.store import StateStore
from puma.pruning import decoder_of
from puma.retriever.devices import has_fast_bf16
from puma.retriever.inputs import why_unusable
from puma.retriever.model import Retriever
from puma.storage.folders import write_json, write_whole

FORMAT = 1
"""Raised whenever the same items would get other states than before."""
BATCH = 32
COUNTED = 16
"""Items whose FLOPs are counted."""
LISTED = 50
PRECISIONS = ("auto", "fp32", "bf16")


def probe(
    retriever: Retriever,
    root: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    name: str = "base",
    material: Material | None = None,
    quality: float | None = None,
    speed: float | None = None,
    keep_last: bool = True,
    precision: str = "auto",
    batch_size: int = BATCH,
    seed: int = 0,
    progress: bool = True,
    **draw: Any,
) -> dict[str, Any]:
    """Retrieval quality of a base at every depth, untrained, and where to cut it.

    Each item goes through the whole model once. The states are kept in ``<out>/states``: a killed probe goes on where
    it was, losing at most a batch, and a later one with another target embeds nothing. They take 8 x L x dim bytes an
    item (4 x L x dim without ``keep_last``).

    Args:
        retriever: the unpruned base, as :meth:`puma.retriever.model.Retriever.from_base` makes it.
        root: a benchmark in M-BEIR's layout.
        out: gets ``probe.json``, ``probe.md``, ``probe.png`` and ``probe.svg``.
        name: what the base is called in the report.
        material: the items, if they were drawn before; else drawn here with ``draw`` (see
            :func:`puma.evaluation.probing.material.gather`).
        quality, speed: the target, see :func:`puma.evaluation.probing.choice.suggest`.
        keep_last: whether the first k - 1 layers with the last are probed too; nearly doubles the work.
        precision: ``fp32``, ``bf16`` (autocast) or ``auto``: bf16 where it is fast.
        batch_size: items a forward pass.
        seed: of the draws and of the held-out train pairs.
        progress: a bar with rate and time left on stderr.

    Returns:
        What probe.json holds: ``depths`` (a row a depth and variant, with ``zero_shot`` and ``ridge``, each of a
        ``mean`` and ``tasks`` with rates in [0, 1]), ``cost``, ``chance``, ``tasks``, ``suggestion``.

    Raises:
        InputError, DataError: an argument or the data is at fault. DependencyError: matplotlib is missing.
        StorageError: the disk is full.
    """
    from tqdm import tqdm

    check_target(quality, speed)
    check_matplotlib()
    if precision not in PRECISIONS:
        raise InputError(f"precision={precision!r}: give one of {', '.join(PRECISIONS)}")
    if batch_size < 1:
        raise InputError(f"batch_size={batch_size}: give a whole number of at least 1")
    folder = Path(out)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"out={str(out)!r}: is a file; give a folder")
    if material is None:
        material = gather(root, seed=seed, **draw)
    layers = len(decoder_of(retriever.model).layers)
    cost = _cost(retriever, material)
    check_target(quality, speed, cost["depths"][0]["speed"])
    variants = VARIANTS if keep_last else (FIRST,)
    half = precision == "bf16" or (precision == "auto" and has_fast_bf16())
    used = "bf16" if half else "fp32"
    made_with = {
        "format": FORMAT,
        "model": retriever.fingerprint,
        "precision": used,
        "variants": list(variants),
    }
    shape = (len(variants), layers, retriever.dim)
    with StateStore(folder / "states", shape, made_with) as store:
        keys = [item_key(retriever, item) for item in material.items]
        faults = embed(retriever, material.items, keys, store, variants, batch_size, half, progress)
        depths = [(k, variant) for k in range(1, layers + 1) for variant in variants]
        rows = [
            _depth(store, keys, material.tasks, seed, cost["depths"][k - 1], variants, k, variant)
            for k, variant in tqdm(depths, unit="depth", desc="scoring", disable=not progress)
        ]
    result = _result(name, material, rows, cost, faults, quality, speed, used)
    write_plot(result, folder / "probe")
    write_whole(folder / "probe.md", markdown(result).encode("utf-8"))
    write_json(folder / "probe.json", result)
    return result


def _depth(
    store: StateStore,
    keys: Sequence[bytes],
    tasks: Sequence[Task],
    seed: int,
    cost: Mapping[str, float],
    variants: Sequence[str],
    layers: int,
    variant: str,
) -> dict[str, Any]:
    """One row of the result."""

    def states(places: Iterable[int]) -> np.ndarray:
        return store.read([keys[place] for place in places], (variants.index(variant), layers - 1))

    scores: dict[str, dict[str, dict[str, float]]] = {"zero_shot": {}}
    for task in tasks:
        queries, pool = states(task.queries), states(task.pool)
        scores["zero_shot"][str(task.task)] = rates(cosines(queries, pool), task.positives)
        if len(task.pairs):
            train = states(task.pairs[:, 0].tolist()), states(task.pairs[:, 1].tolist())
            mapped, strength = ridge_scores(*train, queries, pool, seed=seed)
            found = {**rates(mapped, task.positives), "strength": strength}
            scores.setdefault("ridge", {})[str(task.task)] = found
    counts = [len(task.queries) for task in tasks]
    row: dict[str, Any] = {"layers": layers, "variant": variant, "speed": cost["speed"]}
    for name, tables in scores.items():
        plain = [{key: table[key] for key in table if key != "strength"} for table in tables.values()]
        row[name] = {"mean": mean_over_tasks(plain, counts), "tasks": tables}
    return row


def _cost(retriever: Retriever, material: Material) -> dict[str, Any]:
    """FLOPs of embedding an item at each depth: the mean over a sample of the evaluated items, each without padding."""
    places = np.linspace(0, material.evaluated - 1, min(COUNTED, material.evaluated)).astype(int)
    sample = [material.items[place] for place in dict.fromkeys(places.tolist())]
    sample = [one for one in sample if why_unusable(retriever.inputs, one.item) is None]
    if not sample:
        raise InputError("no image of the sample can be read: is the data set's image folder complete?")
    device = next(retriever.model.parameters()).device
    batches = [{key: value.to(device) for key, value in features(retriever, [one]).items()} for one in sample]
    flops = depth_flops(retriever.model, batches)
    return {
        "how": "Cost and speed are relative to full depth and estimated, not timed: FLOPs of the whole forward pass "
        f"(vision tower, projector, k layers), counted on {len(sample)} of the evaluated items.",
        "depths": [
            {
                "layers": k,
                "flops_per_item": flops[k - 1] / len(sample),
                "relative": flops[k - 1] / flops[-1],
                "speed": flops[-1] / flops[k - 1],
            }
            for k in range(1, len(flops) + 1)
        ],
    }


def _result(
    name: str,
    material: Material,
    rows: list[dict[str, Any]],
    cost: dict[str, Any],
    faults: list[str],
    quality: float | None,
    speed: float | None,
    precision: str,
) -> dict[str, Any]:
    tasks = [
        {"task": task.task, "queries": len(task.queries), "pool": len(task.pool), "pairs": len(task.pairs)}
        for task in material.tasks
    ]
    chance = {
        f"hit_rate@{k}": float(
            np.mean([np.mean([chance_hit_rate(len(t.pool), len(c), k) for c in t.positives]) for t in material.tasks])
        )
        for k in KS
    }
    judged = "ridge" if "ridge" in rows[0] else "zero_shot"
    points = [
        Point(
            row["layers"],
            row["variant"] == KEEP_LAST,
            row[judged]["mean"][METRIC],
            row["speed"],
            row[judged]["mean"]["standard_error"],
        )
        for row in rows
    ]
    measure = "ridge-probed hit@10" if judged == "ridge" else "zero-shot hit@10"
    choice = suggest(points, quality=quality, speed=speed, measure=measure)
    point, near = choice.point, within_one_error(points)
    result = {
        "base": name,
        "dataset": material.dataset,
        "split": material.split,
        "layers": max(row["layers"] for row in rows),
        "precision": precision,
        "tasks": tasks,
        "chance": chance,
        "suggestion": {
            "layers": point.layers if point else None,
            "keep_last": point.keep_last if point else None,
            "variant": (KEEP_LAST if point.keep_last else FIRST) if point else None,
            "quality": quality,
            "speed": speed,
            "judged_by": judged,
            "sentence": choice.sentence,
            "within_one_standard_error": {"layers": near.layers, "keep_last": near.keep_last, "score": near.score},
        },
        "cost": cost,
        "depths": rows,
        "unreadable": len(faults),
        "unreadable_items": faults[:LISTED],
    }
    return json.loads(json.dumps(result))
