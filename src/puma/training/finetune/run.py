"""From a table of pairs and a retriever to a fine-tuned retriever folder, and what that brought.

The weights that are saved are the best of the run on one half of what is held out, those from before training among
them: a training that does not help changes nothing.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from puma.data.pair_tables import PairTable
from puma.errors import InputError, require
from puma.items.item import Item
from puma.items.skips import Skip, summary
from puma.pruning.loading import cast_weights
from puma.retriever.inputs import why_unusable
from puma.retriever.model import Retriever
from puma.retriever.stored_vision import VisionFeatures
from puma.storage.folders import write_json
from puma.training.any_modality import with_any_instructions
from puma.training.distributed import join, processes, wait
from puma.training.finetune.examples import Example, Examples, read_examples
from puma.training.finetune.held_out import HeldOut
from puma.training.finetune.report import gains
from puma.training.finetune.settings import default_config
from puma.training.finetune.split import FRACTION, Split, split_examples
from puma.training.finetune.working import report_skips, same_data
from puma.training.pairs import Pair
from puma.training.stage import TrainResult, train
from puma.training.two_stages import free_target, tell, to_stderr
from puma.training.validation import MEAN, TrainingEncoder

Store = Callable[[Sequence[Path], Path], VisionFeatures]
BEFORE, REPORT = "before.json", "report.json"


@dataclass(frozen=True)
class Tuning:
    """What is trained on and judged by.

    Args:
        pairs: to train on.
        choose: the half of the held-out part that the weights are chosen by.
        measure: the half that the gain is measured on.
        instructions: the table's most frequent instruction, by modalities.
    """

    pairs: list[Pair]
    choose: HeldOut
    measure: HeldOut
    instructions: Mapping[tuple[str, str | None], str]

    @property
    def images(self) -> list[Path]:
        """The image files of them all, each once."""
        items = [item for pair in self.pairs for item in (pair.query, pair.candidate, *(i for _, i in pair.negatives))]
        for half in (self.choose, self.measure):
            items += [question.query for question in half.questions]
            items += [item for pool in half.pools.values() for item in pool.values()]
        return list(dict.fromkeys(Path(item.image_name) for item in items if item.image is not None))


def fine_tune(
    base: str | os.PathLike[str],
    data: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    columns: Mapping[str, str] | None = None,
    held_out: float = FRACTION,
    changes: Mapping[str, Any] | None = None,
    attn: str | None = None,
    strict: bool = False,
    store: Store | None = None,
    say: Callable[[str], None] = to_stderr,
    show_progress: bool = True,
) -> dict[str, Any]:
    """Train a retriever on with a table of pairs, and save it.

    Args:
        base: the retriever's folder or hub name.
        data: as :class:`puma.data.pair_tables.PairTable`.
        out: the new retriever's folder; ``out`` + ``.work`` holds checkpoints, from which an unfinished run goes on.
        columns: the table's columns by field.
        held_out: the share of the queries that is not trained on, in (0, 1).
        changes: training settings that go before the defaults
            (:func:`puma.training.finetune.settings.default_config`).
        attn: as :meth:`puma.retriever.model.Retriever.from_pretrained`.
        strict: refuse data with a row that cannot be used; else such rows are left out, counted and listed.
        store: makes the outputs of the frozen vision tower once for all steps, of image files; kept in the folder that
            it is given. None computes them at every step.
        say: where progress messages go.

    Returns:
        ``helped``: whether the trained weights were kept; ``gains``
        (:func:`puma.training.finetune.report.gains`); ``data``: how many pairs there were; ``best_step``, ``steps``,
        ``config`` and ``log`` of the training.

    Raises:
        InputError: ``out`` is there already, too few pairs, ``base`` is no retriever, or the working folder belongs to
            other data. DataError: the table cannot be used. And what training raises.
    """
    require("training", "train")
    target = free_target(out)
    table = PairTable(data, columns)
    work = target.with_name(target.name + ".work")
    examples = read_examples(table, work / "images", strict=strict, show_progress=show_progress)
    split = split_examples(examples.rows, held_out)
    join()
    retriever = Retriever.from_pretrained(base, attn=attn)
    skips = list(examples.skips)
    tuning = tuning_of(examples, split, retriever, skips)
    config = default_config(retriever.model, tuning.pairs, changes)
    counts = _counts(examples, split, tuning, skips)
    _say_data(table.path, counts, skips, work, say)
    same_data(work, {"data": examples.fingerprint, "model": retriever.fingerprint, "held_out": held_out})
    images = [] if store is None or config.reads_pixels else tuning.images
    vision = store(images, work) if store is not None and images else None
    before = _before(retriever, tuning, TrainingEncoder(retriever, vision, config.precision), work, say)
    result = train(
        retriever,
        tuning.pairs,
        config,
        work / "retrieve",
        vision=vision,
        validation=tuning.choose,
        show_progress=show_progress,
    )
    tell(result, work / "retrieve", say)
    chosen = _chosen_by(result, TrainingEncoder(retriever, vision, config.precision), tuning)
    helped = chosen > before["chosen_by"]
    if helped:
        cast_weights(retriever.model, retriever.saved_dtype)
        retriever.model.eval()
        instructions = {**retriever.instructions, **tuning.instructions}
        retriever.instructions = with_any_instructions(instructions, [config.any_share])
        after = tuning.measure.ranks(retriever)
    else:
        retriever = Retriever.from_pretrained(base, attn=attn)
        after = before["ranks"]
    report = {
        "helped": helped,
        "chosen_by": {"before": before["chosen_by"], "after": chosen},
        "gains": gains(tuning.measure, before["ranks"], after),
        "data": counts,
        "steps": result.steps,
        "best_step": result.best_step,
        "config": asdict(config),
        "log": result.log,
    }
    if processes()[0] == 0:
        write_json(work / REPORT, report)
        retriever.save_pretrained(target)
    wait()
    return report


def tuning_of(examples: Examples, split: Split, retriever: Retriever, skips: list[Skip]) -> Tuning:
    """The training's pairs and both halves of what is held out.

    Args:
        skips: gets the held-out rows whose images the model cannot read. Those of training rows are found, counted and
            replaced when they are met (:mod:`puma.training.unreadable`).

    Raises:
        InputError: a half of what is held out has no row that can be read.
    """
    rows, known = examples.rows, examples.known
    tried: dict[str, str | None] = {}

    def reason(key: str, item: Item) -> str | None:
        if key not in tried:
            tried[key] = why_unusable(retriever.inputs, item)
        return tried[key]

    def with_instruction(row: Example) -> Example:
        return replace(row, instruction=row.instruction or retriever.instructions.get(row.modalities))

    def readable(numbers: Sequence[int]) -> list[Example]:
        kept = []
        for number in numbers:
            row = rows[number]
            why = reason(row.query_key, row.query) or reason(row.positive_key, row.positive)
            if why:
                skips.append(Skip(f"held-out pair {number + 1}", why))
            else:
                kept.append(with_instruction(row))
        return kept

    choose, measure = readable(split.choose), readable(split.measure)
    if not choose or not measure:
        raise InputError(f"no held-out pair has images that can be read: {summary(skips, 'rows')}")
    pool = choose + measure
    trained = [with_instruction(rows[number]) for number in split.train]
    counts: dict[tuple[str, str | None], Counter[str]] = {}
    for row in rows:
        if row.instruction:
            counts.setdefault(row.modalities, Counter())[row.instruction] += 1
    return Tuning(
        pairs=[_pair(row, known[row.query_key]) for row in trained],
        choose=HeldOut.of(choose, pool, known),
        measure=HeldOut.of(measure, pool, known),
        instructions={pair: counter.most_common(1)[0][0] for pair, counter in counts.items()},
    )


def _pair(row: Example, known: frozenset[str]) -> Pair:
    return Pair(
        query=row.query,
        candidate=row.positive,
        instruction=row.instruction,
        task=row.task,
        query_id=row.query_id,
        candidate_id=row.positive_key,
        known=known | {row.query_key},  # in pairs that go both ways the query itself is another's candidate
        negatives=row.negatives,
    )


def _counts(examples: Examples, split: Split, tuning: Tuning, skips: Sequence[Skip]) -> dict[str, int]:
    return {
        "pairs": len(examples.rows),
        "repeated": examples.repeated,
        "left_out": len(skips),
        "train": len(tuning.pairs),
        "choose": len(tuning.choose.questions),
        "measure": len(tuning.measure.questions),
        "shared_positives": split.shared_positives,
    }


def _say_data(
    path: Path, counts: Mapping[str, int], skips: Sequence[Skip], work: Path, say: Callable[[str], None]
) -> None:
    repeated = f" ({counts['repeated']:,} rows say what another says)" if counts["repeated"] else ""
    say(f"{path}: {counts['pairs']:,} different pairs{repeated}")
    report_skips(work, skips, say)
    say(
        f"{counts['train']:,} pairs to train on; held out: {counts['choose']:,} queries to choose the weights by and "
        f"{counts['measure']:,} others to measure on; no query is on two sides"
    )
    if counts["shared_positives"]:
        say(f"{counts['shared_positives']:,} held-out positives are positives in training, too: the data hang together")


def _before(
    retriever: Retriever, tuning: Tuning, encoder: TrainingEncoder, work: Path, say: Callable[[str], None]
) -> dict[str, Any]:
    """The figures of the untouched model, computed once for a run and its resumes."""
    path = work / BEFORE
    if not path.is_file():
        say("measuring the model as it is ...")
        found = {
            "chosen_by": tuning.choose.figures(encoder)[MEAN],
            "ranks": tuning.measure.ranks(retriever),
        }
        if processes()[0] == 0:
            write_json(path, found)
        return found
    return dict(json.loads(path.read_text(encoding="utf-8")))


def _chosen_by(result: TrainResult, encoder: TrainingEncoder, tuning: Tuning) -> float:
    """The figure that the trained weights were chosen by."""
    for entry in result.log:
        if MEAN in entry and entry["step"] == result.best_step:
            return entry[MEAN]
    return tuning.choose.figures(encoder)[MEAN]
