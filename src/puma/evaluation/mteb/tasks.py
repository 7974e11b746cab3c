"""Runs through mteb: OpenPics, or any benchmark in M-BEIR's layout, and mteb's own tasks.

mteb is the optional extra ``mteb``.

The data come from the folder; nothing is fetched, and mteb's result cache is not used. Tasks that mteb brings itself
load their data as mteb does, from the hub unless they are in its cache.

Where mteb counts otherwise than we do, and what is done about it:

- Ties: mteb ranks equal scores by the candidates' ids, from high to low; we rank a positive behind all that tie with
  it. Without ties the figures are the same; with ties mteb's are as good or better, as the ids have it. A model that
  gives everything one vector scores nothing with us and something there.
- ``hit_rate_at_k`` is our hit rate, M-BEIR's "recall"; ``recall_at_k`` is our recall. Both have five decimals.
- Images that cannot be read would stop mteb. Such candidates are left out of the corpus (never found, still
  positives), and such queries are left out of the run; the rates here count them as misses, those under ``mteb`` do
  not know of them.
- mteb seeds the global generators of random, numpy and torch.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from puma.data.mbeir import TaskName
from puma.errors import DownloadError, InputError
from puma.evaluation.mteb.encoder import MtebEncoder, require_mteb
from puma.evaluation.mteb.layout import KS, task_name, tasks
from puma.items.encoder import BATCH, Encoder
from puma.items.item import IMAGE, TEXT

__all__ = ["run", "task_name", "tasks"]

SKIPS_LISTED = 50


def run(
    encoder: Encoder,
    tasks: Iterable[int | str] | None = None,
    *,
    root: str | os.PathLike[str] | None = None,
    dataset: str | None = None,
    split: str = "test",
    pools: Sequence[str] = ("local",),
    ks: Sequence[int] = KS,
    instruction: str = "first",
    batch_size: int = BATCH,
    progress: bool = True,
    name: str = "puma/retriever",
) -> dict[str, dict[str, Any]]:
    """Score an encoder through mteb.

    Args:
        encoder: embeds both sides.
        tasks: tasks of the folder (ids, labels, data sets, names as :func:`task_name` gives them) or names of mteb's
            own; all of the folder's if None.
        root: the benchmark's folder. Needed unless all tasks are mteb's own.
        dataset, split, pools, ks: as for :func:`tasks`; mteb's own tasks have their own.
        instruction: ``first``: a query takes its task's first instruction (of mteb's tasks, their prompt). ``none``:
            nothing does.
        batch_size: items handed to the encoder at once.
        progress: whether mteb shows its bars.
        name: the model's name in mteb's records.

    Returns:
        By task id or label, in the shape of :func:`puma.evaluation.mbeir.evaluate`: ``name``, ``pool``, ``queries``,
        ``hit_rate@k``, ``recall@k``, ``ndcg@10`` and ``mrr@10`` where k = 10 was asked for, ``skipped``,
        ``skipped_items``, and ``mteb`` with all that mteb reports; the global pool under ``global``. Rates in [0, 1].
        mteb's own tasks stand by name, with ``main_score`` (which of its metrics it quotes) and ``mteb``
        ({split: [table of a subset]}).

    Raises:
        InputError: an argument, or a task that neither the folder nor mteb knows.
        DataError: the benchmark's files are at fault. DependencyError: mteb is not installed. DownloadError: the data
            of one of mteb's tasks cannot be had.
    """
    mteb = require_mteb()
    if instruction not in ("first", "none"):
        raise InputError(f"instruction must be 'first' or 'none', got {instruction!r}")
    own, foreign = _resolve(mteb, tasks, root, dataset, split, pools, ks)
    silent = {task.metadata.name: "" for task in [*own, *foreign]} if instruction == "none" else None
    model = MtebEncoder(encoder, name=name, instructions=silent)
    tables: dict[str, dict[str, Any]] = {}
    for task in own:
        table = _table(task, _scores(model, task, batch_size, progress)[split][0])
        if task.puma_pool == "local":
            tables.setdefault(str(task.puma_task), {}).update(table)
        else:
            tables.setdefault(str(task.puma_task), {})["global"] = table
    for task in foreign:
        _load(task)
        tables[task.metadata.name] = {
            "main_score": task.metadata.main_score,
            "mteb": _scores(model, task, batch_size, progress),
        }
        task.unload_data()
    return tables


def _scores(model: MtebEncoder, task: Any, batch_size: int, progress: bool) -> dict[str, list[dict[str, Any]]]:
    """What mteb reports of one task: by split, one table a subset. Its cache is left alone."""
    with _bars(progress):
        result = require_mteb().evaluate(
            model,
            task,
            cache=None,
            co2_tracker=False,
            encode_kwargs={"batch_size": batch_size, "show_progress_bar": progress},
            show_progress_bar=progress,
        )
    return dict(result.task_results[0].scores)


def _load(task: Any) -> None:
    try:
        task.load_data()
    except OSError as error:
        raise DownloadError(
            f"mteb could not load the data of its task {task.metadata.name} ({type(error).__name__}: {error}); they "
            "come from the Hugging Face hub, unless they are in its local cache"
        ) from None


def _resolve(
    mteb: Any,
    named: Iterable[int | str] | None,
    root: str | os.PathLike[str] | None,
    dataset: str | None,
    split: str,
    pools: Sequence[str],
    ks: Sequence[int],
) -> tuple[list[Any], list[Any]]:
    """The folder's tasks and mteb's own that were named."""
    names = None if named is None else list(dict.fromkeys(str(name) for name in named))
    if names is not None and not names:
        raise InputError("tasks is empty: name at least one, or None for all of the folder's")
    if root is None:
        if names is None or any(name.isdigit() for name in names):
            raise InputError("root is missing: task ids are those of a benchmark's folder")
        return [], [_foreign(mteb, name, []) for name in names]
    every = tasks(root, dataset=dataset, split=split, pools=pools, ks=ks)
    if names is None:
        return every, []
    benchmark = every[0].puma_benchmark
    by_name = {task.metadata.name: task.puma_task for task in every}
    wanted: list[TaskName] = []
    foreign = []
    for name in names:
        if name in by_name:
            wanted.append(by_name[name])
            continue
        try:
            wanted += benchmark.choose(split, [name])
        except InputError:
            foreign.append(_foreign(mteb, name, benchmark.tasks(split)))
    return [task for task in every if task.puma_task in wanted], foreign


def _foreign(mteb: Any, name: str, known: list[TaskName]) -> Any:
    try:
        task = mteb.get_task(name)
    except KeyError as error:
        shown = f"no task of the folder (it has {known}) and none" if known else "none"
        raise InputError(f"tasks: {name!r} is {shown} of mteb's: {error}") from None
    beyond = sorted(set(task.metadata.modalities) - {TEXT, IMAGE})
    if beyond:
        raise InputError(f"tasks: {name} asks for {' and '.join(beyond)}; only texts and images can be embedded")
    return task


def _table(task: Any, scores: Mapping[str, Any]) -> dict[str, Any]:
    readable = len(task.puma_qids)
    share = readable / (readable + task.puma_unreadable)  # an unreadable query is a miss, which mteb never saw
    table: dict[str, Any] = {
        "name": task.metadata.name,
        "pool": task.puma_size,
        "queries": readable + task.puma_unreadable,
    }
    for metric in ("hit_rate", "recall"):
        table |= {f"{metric}@{k}": float(scores[f"{metric}_at_{k}"]) * share for k in task.k_values}
    if 10 in task.k_values:
        table |= {f"{metric}@10": float(scores[f"{metric}_at_10"]) * share for metric in ("ndcg", "mrr")}
    skips = [f"{identity}: {reason}" for identity, reason in task.puma_skipped.items()]
    return table | {"skipped": len(skips), "skipped_items": skips[:SKIPS_LISTED], "mteb": dict(scores)}


@contextmanager
def _bars(shown: bool) -> Iterator[None]:
    """Without bars if not shown; mteb's loaders have their own, which no argument of it reaches."""
    import datasets

    before = datasets.are_progress_bars_disabled()
    if not shown:
        datasets.disable_progress_bars()
    try:
        yield
    finally:
        if not before:
            datasets.enable_progress_bars()
