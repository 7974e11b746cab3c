"""From a base and a data set to a trained retriever folder: both stages of the method in order, on one process or
several.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from puma.errors import InputError, require
from puma.items.skips import Skip, summary
from puma.pruning import cut, decoder_of
from puma.pruning.hub import holds
from puma.pruning.loading import cast_weights
from puma.retriever.model import PROMPT_FILE, Retriever
from puma.storage.folders import refuse_below_file
from puma.training.any_modality import with_any_instructions
from puma.training.collating import Targets
from puma.training.config import TrainConfig
from puma.training.distillation_settings import is_folder
from puma.training.distributed import join, processes, wait
from puma.training.pairs import Pair, first_instructions, read_pairs
from puma.training.planned import met_pairs
from puma.training.rounds import Rounds, names_with_rounds, train_rounds
from puma.training.run_folder import CONFIGURATION
from puma.training.stage import TrainResult, train
from puma.training.teacher.dual_depth import DualDepth
from puma.training.teacher.folder import captions_of, folder_targets, refuse_text_teacher, teaches_images
from puma.training.teacher.store import PromptTargets, teacher_states
from puma.training.unlabelled import item_rows, read_items, teachable
from puma.training.unreadable import FILE as LIST
from puma.training.validation import Validation

NO_TEXTS = "no pairs of two texts to distil on"


def to_stderr(line: str) -> None:
    """Print on stderr, from the first process."""
    if processes()[0] == 0:
        print(line, file=sys.stderr)


def train_two_stages(
    base: str | os.PathLike[str],
    data: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    layers: int | None = None,
    keep_last: bool = False,
    prompt: str = "chat",
    image_tokens: tuple[int, int] | None = None,
    attn: str | None = None,
    distil: TrainConfig | None = None,
    retrieve: TrainConfig | None = None,
    rounds: Rounds | None = None,
    distil_if_texts: bool = False,
    strict: bool = False,
    say: Callable[[str], None] = to_stderr,
) -> dict[str, list[dict[str, float]]]:
    """Prune, distil on the data's pairs of texts, train on all its tasks, save.

    Args:
        base: a base model, or a retriever folder. A retriever is trained on as it is, or cut first to ``layers``. Its
            folder can then be stage 1's teacher: the whole depth, trained, teaches its own shallow part.
        data: root of a benchmark in M-BEIR's layout.
        out: the retriever's folder; ``out`` + ``.work`` holds checkpoints. Called again, an unfinished run goes on from
            them, also with more steps.
        layers, keep_last, prompt, image_tokens: as :meth:`puma.retriever.model.Retriever.from_base`.
        attn: how attention is computed: ``sdpa``, ``eager`` or ``flash_attention_2``; None for the base's own.
        distil: stage 1, or None to leave it out.
        retrieve: stage 2.
        rounds: more training after it (:mod:`puma.training.rounds`).
        distil_if_texts: leave stage 1 out, with a message, where the data has no pairs of texts; else that is an error.
        strict: refuse data with a faulty row; else such rows are left out and counted.
        say: where progress messages go.

    Returns:
        The stages' logs.

    Raises:
        InputError: ``out`` is there already; stage 1 on a retriever without the folder of a trained teacher; ``layers``
            out of range; no pairs of texts; no val split to evaluate on.
    """
    require("training", "train")
    target = free_target(out)
    trained_before = holds(base, PROMPT_FILE)
    if trained_before and distil is not None and not (distil.distillation_weight > 0 and is_folder(distil.teacher)):
        raise InputError(
            f"base={str(base)!r} is a retriever already, and its untrained base is not there to teach it: leave stage "
            "1 out (--distil-steps 0, in a recipe distil: null), or give distil.teacher the folder of a trained model, "
            "with a slash in its path"
        )
    retrieve = retrieve or TrainConfig()
    again = rounds.configs if rounds else []
    check_teachers(distil, retrieve, *again)
    join()  # the other processes, if any, before weights are placed
    negatives = max(stage.hard_negatives for stage in (distil, retrieve, *again) if stage is not None)
    faults: list[Skip] = []
    pairs = read_pairs(data, negatives=negatives, strict=strict, faults=faults)
    if faults:
        say(f"{data}: left out {summary(faults, 'faulty entries')} (--strict refuses such data)")
    texts = [pair for pair in pairs if pair.query.image is None and pair.candidate.image is None]
    paired_texts = distil is not None and not distil.items_only and not teaches_images(distil)
    if distil is not None and paired_texts and not texts:
        if not distil_if_texts:
            raise InputError(
                f"data={str(data)!r}: {NO_TEXTS}; leave stage 1 out: --distil-steps 0, in a recipe distil: null"
            )
        say(f"{data}: {NO_TEXTS}: stage 1 is left out (--distil-steps 0, in a recipe distil: null, says so)")
        distil = None
    validation = read_validation(data, [stage for stage in (distil, retrieve, *again) if stage is not None])
    shared = distil is not None and distil.distillation_weight > 0 and distil.teacher == "shared"
    if trained_before:
        retriever = Retriever.from_pretrained(base, attn=attn)
        if layers is not None:
            cut(retriever.model, layers, keep_last=keep_last)
    elif shared:
        # whole: the student is cut out of the teacher
        retriever = Retriever.from_base(base, prompt=prompt, image_tokens=image_tokens, attn=attn)
    else:
        retriever = Retriever.from_base(
            base, layers=layers, keep_last=keep_last, prompt=prompt, image_tokens=image_tokens, attn=attn
        )
    work = target.with_name(target.name + ".work")
    following = names_with_rounds(["distil", "retrieve"], rounds)
    logs = {}
    if distil is not None:
        teacher: Targets | DualDepth | None = None
        rows = _first_rows(data, distil, pairs, texts, strict=strict)
        if shared:
            depth = layers or len(decoder_of(retriever.model).layers)
            teacher = DualDepth(retriever.model, depth, keep_last=keep_last, ret_id=retriever.inputs.ret_id)
        elif distil.distillation_weight > 0 and is_folder(distil.teacher):
            teacher = _folder_targets(distil, rows, pairs, work)
        elif distil.distillation_weight > 0:
            teacher = _stored_targets(base, prompt, attn, rows, work / "teacher")
        begun = has_begun(work, following["distil"])
        wait()
        result = train(retriever, rows, distil, work / "distil", teacher=teacher, validation=validation, fixed=begun)
        logs["distil"] = result.log
        tell(result, work / "distil", say)

    def run(config: TrainConfig, name: str) -> None:
        beside = _folder_targets(config, pairs, pairs, work) if config.distillation_weight > 0 else None
        begun = has_begun(work, following[name])
        result = train(retriever, pairs, config, work / name, teacher=beside, validation=validation, fixed=begun)
        logs[name] = result.log
        tell(result, work / name, say)

    run(retrieve, "retrieve")
    if rounds:
        train_rounds(lambda: retriever.model, rounds, run)
    shares = [stage.any_share for stage in (distil, retrieve, *again) if stage is not None]
    retriever.instructions = with_any_instructions(first_instructions(data), shares)
    cast_weights(retriever.model, retriever.saved_dtype)  # the base's own type
    if processes()[0] == 0:
        retriever.save_pretrained(target)
    wait()
    return logs


def has_begun(work: Path, name: str | None) -> bool:
    """Whether the stage of that name has begun: what it stands on may not change any more."""
    return name is not None and (work / name / CONFIGURATION).is_file()


def tell(result: TrainResult, work: Path, say: Callable[[str], None]) -> None:
    """Say how far a stage got in its minutes, which weights it kept, and how many pairs it could not use."""
    if result.minutes is not None:
        say(f"{work.name}: {result.steps:,} steps in {result.minutes:.1f} minutes")
    if result.best_step is not None:
        say(f"{work.name}: best on val at step {result.best_step} of {result.steps}; those weights are kept")
    if result.unreadable:
        say(f"{work.name}: {result.unreadable:,} pairs replaced, their images cannot be used: {work / LIST}")


def free_target(out: str | os.PathLike[str]) -> Path:
    """The folder to be made.

    Raises:
        InputError: it is there already, or its path leads through a file.
    """
    target = Path(out)
    refuse_below_file(target, "out")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InputError(
            f"out={str(out)!r}: exists; give another folder or remove it first (to train a finished retriever on: "
            f"--base {out} --out another)"
        )
    return target


def read_validation(data: str | os.PathLike[str], stages: Sequence[TrainConfig]) -> Validation | None:
    """What the stages evaluate on, read by the first process alone; None where none evaluates.

    Raises:
        InputError: the data has no val split.
    """
    evaluating = [stage for stage in stages if stage.eval_every]
    if not evaluating or processes()[0] != 0:
        return None
    return Validation.read(data, queries=evaluating[-1].eval_queries, seed=evaluating[-1].seed)


def check_teachers(distil: TrainConfig | None, *others: TrainConfig) -> None:
    """Refuse teachers that a base other than the mini one cannot have.

    Raises:
        InputError: a text teacher that is fetched for ``base: mini`` alone; a stage 2 whose teacher is no folder.
    """
    refuse_text_teacher(distil)
    for config in others:
        refuse_text_teacher(config)
        if config.distillation_weight > 0 and not is_folder(config.teacher):
            raise InputError(
                f"retrieve.teacher={config.teacher!r}: stage 2 distils from a trained model alone; give its folder, "
                "with a slash in its path, or distillation_weight 0"
            )


def _first_rows(
    data: str | os.PathLike[str], config: TrainConfig, pairs: list[Pair], texts: list[Pair], *, strict: bool
) -> list[Pair]:
    """What stage 1 reads: pairs of texts (the paper), all pairs under a trained retriever, or items without pairs."""
    everything = teaches_images(config)
    if not config.items_only:
        return pairs if everything else texts
    items = read_items(data, strict=strict)
    if not everything:
        by_texts = is_folder(config.teacher)  # an embedder of texts teaches images by captions; the base does not
        items = teachable(items, captions_of(pairs) if by_texts else ())
    return item_rows(items, seed=config.seed)


def _folder_targets(config: TrainConfig, rows: list[Pair], pairs: list[Pair], work: Path) -> Targets:
    met = met_pairs(rows, config)
    captions = captions_of(pairs)
    return folder_targets(config.teacher, met, store=work / "teacher", captions=captions, show_progress=True)


def _stored_targets(
    base: str | os.PathLike[str], prompt: str, attn: str | None, pairs: Sequence[Pair], store: Path
) -> PromptTargets:
    """The unpruned base's states of all texts, each process computing its part of them."""
    rank, ranks = processes()
    teacher = Retriever.from_base(base, prompt=prompt, attn=attn)
    prompts = [(p.query, p.instruction) for p in pairs] + [(p.candidate, None) for p in pairs]
    states: dict[str, np.ndarray] = {}
    # Its own part first: the others' are there by the time they are read. One writer a folder.
    for part in sorted(range(ranks), key=lambda number: number != rank):
        folder = store / f"{part}-of-{ranks}" if ranks > 1 else store
        states |= teacher_states(teacher, prompts[part::ranks], store=folder, show_progress=part == rank == 0)
        if part == rank:
            wait()
    return PromptTargets(teacher, states)
