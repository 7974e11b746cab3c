"""Extra pairs as tasks of their own, and which candidates show a query's concept and so are no negatives of it."""

from __future__ import annotations

import json
import random
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from puma.data.mbeir import Benchmark, Candidate
from puma.errors import InputError
from puma.items.item import Item
from puma.mini.extra_pairs.held_out import HeldOut
from puma.mini.extra_pairs.icons import icon_files
from puma.mini.extra_pairs.mixtures import COUNT, Mixtures
from puma.mini.extra_pairs.wordnet import KINDS_OF_QUERIES, wordnet
from puma.training.pairs import Pair

ICON_QUERY, ICON_NAME, CLASS_QUERY, CLASS_NAME, KEYWORDS = 10, 13, 14, 15, 12
"""Tasks of the extra pairs: name to icon, icon to name, class to mixture, mixture to class, keywords to name."""
WORDS = dict(zip(KINDS_OF_QUERIES, (11, 16, 17), strict=True))
"""The task of each kind of query for a word of WordNet: three tasks get a larger share of the batches than one."""
SAME_CONCEPT = (0, 1, 2, 3, ICON_QUERY, ICON_NAME, *WORDS.values(), CLASS_QUERY, CLASS_NAME, KEYWORDS)
"""Tasks for which any other item of the concept is a right answer too. In tasks 4 to 8 it may be the very thing to tell
apart."""
ALIKE = (*SAME_CONCEPT, 4, 8)
"""Tasks for which any item of the concept is right once no modality is asked for. Tasks 6 and 7 ask for one thing about
an image, or for another than it shows."""
CHANGED = 7
"""The task whose candidates show another concept than its query's image."""
DRAWS, MOST_KEYWORDS = 3, 6
"""Of a concept's keywords: queries that are made of them, and words in one at most."""
Rows = Iterator[tuple[Pair, str]]
"""Pairs, each with its concept."""


def extra_pairs(
    kinds: Sequence[str], root: Path, size: int, home: Path | None = None, mixtures: Mixtures | None = None
) -> tuple[list[Pair], dict[str, str]]:
    """Training pairs without any name that could give away a concept of val or test.

    Args:
        kinds: of :data:`KINDS`, and :data:`CLASSES`.
        root: OpenPics, or other data with texts and images in tasks 0, 1 and 3: it lends its instructions.
        size: pixels of an icon's side.
        home: the cache folder.
        mixtures: what ``classes`` names.

    Returns:
        The pairs, and each query's concept by its id.

    Raises:
        InputError: the data lacks these tasks; ``classes`` without mixtures. And what fetching raises.
    """
    if not kinds:
        return [], {}
    benchmark = Benchmark(root)
    missing = {0, 1, 3} - set(benchmark.tasks("train"))
    if missing:
        raise InputError(f"extra_pairs: {root} lacks the tasks {sorted(missing)}, whose instructions they take")
    held = HeldOut(root)
    rows: list[tuple[Pair, str]] = []
    for kind in kinds:
        if kind != CLASSES:
            rows += KINDS[kind](held, benchmark, size, home)
        elif mixtures is None:
            raise InputError(
                "extra_pairs: classes are named on stored features, which no stage reads: set tower_rate to 0 and "
                "augment to false"
            )
        else:
            rows += _class_pairs(held, benchmark, mixtures)
    return [pair for pair, _ in rows], {pair.query_id: concept for pair, concept in rows}


def concepts_of(root: Path) -> dict[str, str]:
    """Each training query's concept by its id, where the data tells it (OpenPics does)."""
    benchmark, found = Benchmark(root), {}
    for task in benchmark.tasks("train"):
        for query in benchmark.queries(task, "train"):
            concept = json.loads(query.src or "{}").get("concept")
            if concept is not None:
                found[query.qid] = concept
    return found


def with_same_concept(pairs: Sequence[Pair], concepts: Mapping[str, str]) -> list[Pair]:
    """The pairs of :data:`SAME_CONCEPT` with every candidate of their concept, of the modality they ask for, added to
    what is known to be right. One of another modality is a wrong answer: what was asked for is part of the query."""
    shown = _candidates_of(pairs, concepts)
    held: dict[frozenset[str], frozenset[str]] = {}  # equal sets once in memory

    def known(pair: Pair) -> frozenset[str]:
        own = shown.get(concepts.get(pair.query_id, ""), {})
        union = pair.known | own.get(pair.candidate.modality, frozenset())
        return held.setdefault(union, union)

    return [replace(pair, known=known(pair)) if pair.task in SAME_CONCEPT else pair for pair in pairs]


def with_alike(pairs: Sequence[Pair], concepts: Mapping[str, str]) -> list[Pair]:
    """The pairs of :data:`ALIKE`, each with every candidate of its concept, of any modality (``Pair.alike``)."""
    of_modality = _candidates_of(pairs, concepts)
    shown = {concept: frozenset().union(*own.values()) for concept, own in of_modality.items()}

    def alike(pair: Pair) -> frozenset[str]:
        return shown.get(concepts.get(pair.query_id, ""), frozenset())

    return [replace(pair, alike=alike(pair)) if pair.task in ALIKE else pair for pair in pairs]


def _candidates_of(pairs: Sequence[Pair], concepts: Mapping[str, str]) -> dict[str, dict[str, frozenset[str]]]:
    """The candidates that show each concept, by modality."""
    shown: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for pair in pairs:
        if pair.task != CHANGED and (concept := concepts.get(pair.query_id)) is not None:
            shown[concept][pair.candidate.modality].add(pair.candidate_id)
    return {concept: {modality: frozenset(dids) for modality, dids in own.items()} for concept, own in shown.items()}


def _icon_pairs(held: HeldOut, benchmark: Benchmark, size: int, home: Path | None) -> Rows:
    instructions = {task: benchmark.instructions(task) for task in (0, 3)}
    paths, names = icon_files(held, size, home)
    rng = random.Random(1)
    of_name: dict[str, list[str]] = defaultdict(list)
    for number, name in enumerate(names):
        of_name[name].append(f"icon:{number}")
    for number, (path, name) in enumerate(zip(paths, names, strict=True)):
        image, text, known = Item(image=path), Item(text=name), frozenset(of_name[name])
        instruction = rng.choice(instructions[0])
        yield Pair(text, image, instruction, ICON_QUERY, f"i0:{number}", f"icon:{number}", known), name
        did, instruction = f"name:{name}", rng.choice(instructions[3])
        yield Pair(image, text, instruction, ICON_NAME, f"i3:{number}", did, frozenset([did])), name


def _word_pairs(held: HeldOut, benchmark: Benchmark, size: int, home: Path | None) -> Rows:
    instructions, rng = benchmark.instructions(1), random.Random(2)
    for number, meaning in enumerate(wordnet(held, home)):
        word = meaning.lemmas[0]
        did = f"word:{word}"
        known = frozenset([did])
        for kind, text in meaning.queries(rng):
            instruction = rng.choice(instructions)
            yield Pair(Item(text=text), Item(text=word), instruction, WORDS[kind], f"w:{number}", did, known), word


def _keyword_pairs(held: HeldOut, benchmark: Benchmark, size: int, home: Path | None) -> Rows:
    """Keywords of the training images of a concept, in other choices and orders than the data's own queries have."""
    instructions, rng = benchmark.instructions(1), random.Random(4)
    keywords: dict[str, set[str]] = defaultdict(set)
    names: dict[str, list[Candidate]] = defaultdict(list)
    for concept, source, _ in _of_concepts(benchmark, 0):
        keywords[concept].update(source.get("keywords") or ())
    for concept, _, candidate in _of_concepts(benchmark, 3):
        names[concept].append(candidate)
    for concept, words in keywords.items():
        if len(words) < 2 or concept not in names:
            continue
        known = frozenset(name.did for name in names[concept])
        for number in range(DRAWS):
            drawn = sorted(words)
            rng.shuffle(drawn)
            query = Item(text=", ".join(drawn[: rng.randint(1 if number else 2, MOST_KEYWORDS)]))
            name, instruction = rng.choice(names[concept]), rng.choice(instructions)
            yield (
                Pair(query, Item(text=name.text), instruction, KEYWORDS, f"k:{concept}:{number}", name.did, known),
                concept,
            )


def _class_pairs(held: HeldOut, benchmark: Benchmark, mixtures: Mixtures) -> Rows:
    instructions, rng = {task: benchmark.instructions(task) for task in (0, 3)}, random.Random(3)
    allowed = np.array([name not in held for name in mixtures.classifier.names])
    for path, name in mixtures.named(COUNT, allowed):
        image, text = Item(image=path), Item(text=name)
        # One id for all mixtures of a class: none is a negative of another's name, and few ids are known of each query.
        shown, said = f"mixture:{name}", f"class:{name}"
        yield Pair(text, image, rng.choice(instructions[0]), CLASS_QUERY, f"c0:{path}", shown, frozenset([shown])), name
        yield Pair(image, text, rng.choice(instructions[3]), CLASS_NAME, f"c3:{path}", said, frozenset([said])), name


def _of_concepts(benchmark: Benchmark, task: int) -> Iterator[tuple[str, dict[str, Any], Candidate]]:
    """Concept, source and candidate of a task's training pool, where the source tells the concept."""
    for candidate in benchmark.pool(task, "train"):
        source = json.loads(candidate.src or "{}")
        if concept := source.get("concept"):
            yield concept, source, candidate


CLASSES = "classes"
KINDS: dict[str, Callable[[HeldOut, Benchmark, int, Path | None], Rows]] = {
    "icons": _icon_pairs,
    "wordnet": _word_pairs,
    "keywords": _keyword_pairs,
}
"""What a recipe may name under ``extra_pairs``, beside :data:`CLASSES`."""
