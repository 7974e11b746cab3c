"""The queries and candidates of OpenPics' eight tasks, made from a split's images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from puma.data.records import TASK_MODALITIES, Candidate, Query
from puma.items.item import IMAGE, IMAGE_TEXT, TEXT
from puma.mini.openpics.composed import composed
from puma.mini.openpics.library import Library, Shown, order

LIMITS = {"test": 500, "val": 200}
"""Most queries of one task; train has no limit but task 7's own."""
MAX_POSITIVES = 12
"""Most positives of a training query."""

INSTRUCTIONS: dict[int, tuple[str, str, str, str]] = {
    0: ("Find a picture of this:", "Which picture shows this?", "Show me:", "Find an image that shows:"),
    1: (
        "What is described here?",
        "Name the thing described:",
        "Which thing has these keywords?",
        "What fits these words?",
    ),
    2: (
        "Find an illustrated entry about:",
        "Find a picture with keywords for:",
        "Look up the entry on:",
        "Which illustrated entry is about this?",
    ),
    3: ("What is this?", "Name what is shown.", "Find the caption of this picture.", "What does the picture show?"),
    4: (
        "Find another picture of this.",
        "Find the same thing drawn differently.",
        "Which picture shows the same?",
        "Another drawing of this thing.",
    ),
    6: (
        "Answer the question about this picture:",
        "Look at the picture and answer:",
        "Question about the picture:",
        "Use the picture to answer:",
    ),
    7: (
        "Find this picture, but changed:",
        "Find a picture like this, but:",
        "Change the picture like so:",
        "The same, with this change:",
    ),
    8: (
        "Find the illustrated entry on this:",
        "Find an entry with picture about this:",
        "Which illustrated entry matches both?",
        "Look up this thing with hint:",
    ),
}
"""Prompts, the one to evaluate with first. Short: every word costs time in every training step."""


@dataclass
class Task:
    """One task of one split."""

    queries: list[Query]
    pool: list[Candidate]


T = TypeVar("T")


def make_tasks(library: Library, split: str) -> dict[int, Task]:
    """All tasks of a split, as far as its images give queries."""
    makers: dict[int, Callable[[Library, bool], Iterator[tuple[str | None, Shown | None, list[str], str]]]] = {
        0: _captions_to_images,
        1: _descriptions_to_names,
        2: _names_to_documents,
        3: _images_to_names,
        4: _images_to_images,
        6: _questions,
        7: composed,
        8: _images_to_documents,
    }
    return {task: _task(library, split, task, list(make(library, split == "train"))) for task, make in makers.items()}


def _task(
    library: Library, split: str, task: int, drafts: list[tuple[str | None, Shown | None, list[str], str]]
) -> Task:
    drafts = _limited(drafts, LIMITS.get(split))
    queries = []
    for text, shown, positives, concept in drafts:
        # the first positive is the one meant; the others are right, too
        unique = list(dict.fromkeys(positives))[: MAX_POSITIVES if split == "train" else None]
        queries.append(
            Query(
                qid=library.ids.query(),
                text=text,
                image_path=None if shown is None else shown.image_path,
                modality=TASK_MODALITIES[task][0],
                positives=tuple(unique),
                task_id=task,
                src=library.source(shown) if shown is not None else library.concept_source(concept),
            )
        )
        assert (queries[-1].modality in (TEXT, IMAGE_TEXT)) == (text is not None)
        assert (queries[-1].modality in (IMAGE, IMAGE_TEXT)) == (shown is not None)
    pool = dict.fromkeys(_pool(library, task))
    pool.update(dict.fromkeys(did for query in queries for did in query.positives))
    return Task(queries, [library.candidates[did] for did in sorted(pool, key=_number)])


def _pool(library: Library, task: int) -> Iterator[str]:
    """Everything of the split that could be taken for an answer."""
    for concept in library.concepts:
        if task in (1, 3, 6):
            yield library.title(concept)
        if task == 6 and (did := library.keyword_text(concept)):
            yield did
        if task in (0, 4, 7):
            yield from (library.image(one) for one in library.found[concept])
        if task in (2, 8):
            yield from (did for one in library.found[concept] if (did := library.document(one)))


def _number(did: str) -> int:
    return int(did.split(":")[1])


def _limited(drafts: list[tuple[str | None, Shown | None, list[str], str]], limit: int | None) -> list:
    """At most ``limit`` queries, taking one of each concept before a second of any."""
    if limit is None or len(drafts) <= limit:
        return drafts
    rounds: dict[str, int] = {}
    ranked: list[tuple[int, bytes, int, tuple[str | None, Shown | None, list[str], str]]] = []
    for text, shown, positives, concept in sorted(
        drafts, key=lambda a: order(f"{a[3]} {a[0]} {a[1].image.key if a[1] else ''}")
    ):
        rounds[concept] = rounds.get(concept, 0) + 1
        ranked.append((rounds[concept], order(concept), len(ranked), (text, shown, positives, concept)))
    return [item for *_, item in sorted(ranked, key=lambda r: r[:3])[:limit]]


def _first(did: str, others: Iterable[str]) -> list[str]:
    return list(dict.fromkeys([did, *others]))


def _captions_to_images(library: Library, train: bool) -> Iterator[tuple[str, None, list[str], str]]:
    for concept in library.concepts:
        images = [library.image(one) for one in library.found[concept]]
        if not train:
            yield library.name(concept), None, images, concept
            continue
        for one, did in zip(library.found[concept], images, strict=True):
            yield one.image.name, None, _first(did, images), concept


def _images_to_names(library: Library, train: bool) -> Iterator[tuple[None, Shown, list[str], str]]:
    for concept in library.concepts:
        for one in library.query_images[concept]:
            yield None, one, [library.title(concept)], concept


def _descriptions_to_names(library: Library, train: bool) -> Iterator[tuple[str, None, list[str], str]]:
    by_text: dict[str, list[str]] = {}
    for concept in library.concepts:
        keywords = library.keywords(concept)
        if description := library.description(concept):
            by_text.setdefault(description.lower(), []).append(concept)
        if library.tells(concept):
            by_text.setdefault(", ".join(keywords[:6]), []).append(concept)
        for synonym in library.synonyms(concept):
            by_text.setdefault(synonym, []).append(concept)
    for text, concepts in by_text.items():
        for concept in concepts if train else concepts[:1]:
            yield text, None, _first(library.title(concept), map(library.title, concepts)), concept


def _names_to_documents(library: Library, train: bool) -> Iterator[tuple[str, None, list[str], str]]:
    for concept in library.concepts:
        documents = [did for one in library.found[concept] if (did := library.document(one))]
        for did in documents if train else documents[:1]:
            yield library.name(concept), None, _first(did, documents), concept


def _images_to_images(library: Library, train: bool) -> Iterator[tuple[None, Shown, list[str], str]]:
    for concept in library.concepts:
        for one in library.query_images[concept]:
            others = [library.image(other) for other in _others(library.found[concept], one)]
            if others:
                yield None, one, others, concept


def _others(found: Sequence[Shown], one: Shown) -> list[Shown]:
    """The images other than this, in an order of its own, so that training pairs vary."""
    return sorted((o for o in found if o is not one), key=lambda o: order(f"{one.image.key} {o.image.key}"))


def _questions(library: Library, train: bool) -> Iterator[tuple[str, Shown, list[str], str]]:
    """Half ask for the name, half for what goes with it; the image alone does not tell which is wanted."""
    for concept in library.concepts:
        category, keywords = library.category(concept), library.keyword_text(concept)
        for number, one in enumerate(library.query_images[concept]):
            turn = (order(concept)[0] + number) % 2
            if keywords and (turn or not category):
                yield "which keywords describe it?", one, [keywords], concept
            elif category and (turn == 0 or keywords is None):
                yield f"which {category} is this?", one, [library.title(concept)], concept


def _images_to_documents(library: Library, train: bool) -> Iterator[tuple[str, Shown, list[str], str]]:
    for concept in library.concepts:
        hints = sorted(library.telling(concept), key=order)[:2] or [library.category(concept)]
        if not hints[0]:
            continue
        for one in library.query_images[concept]:
            documents = [did for o in _others(library.found[concept], one) if (did := library.document(o))]
            if documents:
                yield ", ".join(hints), one, documents, concept
