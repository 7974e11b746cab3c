"""Task 7: an image and a change in words, answered by an image with that change.

Two kinds: the thing changes ("red heart" + "but blue" -> a blue heart), or the way it is drawn does ("in OpenMoji
style"). The pool holds images of the thing unchanged and in other styles, so that neither half of a query is enough.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator

from puma.mini.openpics.captions import STOP, head, words
from puma.mini.openpics.library import Library, Shown, order

MAX_ALIKE = 12
"""A frame ("... heart") that more concepts fill is a category: what changes would be all there is to say."""
MAX_CHANGE = 4
"""Most words of a change."""
MAX_PLAIN = 2
"""Most words of a change that is no "with ...": longer ones say all of the other name."""
TRAIN_CHANGES, TRAIN_STYLES = 3, 1
"""Training queries of each kind per image, at most."""
_PEOPLE = frozenset(
    ["man", "woman", "person", "men", "women", "people", "boy", "girl", "child", "merman", "mermaid", "merperson"]
)


def composed(library: Library, train: bool) -> Iterator[tuple[str, Shown, list[str], str]]:
    """Queries (text, image, positives, concept) of both kinds, in turn, so that a limit takes from both."""
    changes, styles = list(_changes(library, train)), list(_styles(library, train))
    if train:
        yield from changes
        yield from styles
        return
    each = 250
    for kind in (changes, styles):
        # one of each concept before a second of any
        seen: dict[str, int] = defaultdict(int)
        ranked: list[tuple[int, int, tuple[str, Shown, list[str], str]]] = []
        for query in sorted(kind, key=lambda q: order(f"{q[0]} {q[1].image.key}")):
            seen[query[3]] += 1
            ranked.append((seen[query[3]], len(ranked), query))
        yield from (query for *_, query in sorted(ranked, key=lambda r: r[:2])[:each])


def pairs(library: Library) -> list[tuple[str, str, str]]:
    """Concepts that differ in one place of their name: (from, to, the change in words)."""
    frames: dict[tuple[str, str], list[tuple[str, str]]] = defaultdict(list)
    for concept in library.concepts:
        name = library.name(concept)
        if name.startswith("flag of "):  # another country's flag is no change of this one
            continue
        tokens = re.sub(r"[,]", " ,", name).split()
        for start in range(len(tokens) + 1):
            for end in range(start, min(len(tokens), start + MAX_CHANGE) + 1):
                left, right = tokens[:start], tokens[end:]
                if any(w not in STOP and w != "," for w in left + right):
                    frames[" ".join(left), " ".join(right)].append((concept, " ".join(tokens[start:end])))
    best: dict[tuple[str, str], tuple[int, str]] = {}
    for members in frames.values():
        if not 2 <= len(members) <= MAX_ALIKE:
            continue
        for one, old in members:
            for other, new in members:
                if one == other or not _same_thing(library.name(one), library.name(other), old, new):
                    continue
                text = _change(old, new)
                size = len(words(f"{old} {new}"))
                if text and _modest(new or old) and size < best.get((one, other), (99, ""))[0]:
                    best[one, other] = (size, text)
    return [(one, other, text) for (one, other), (_, text) in sorted(best.items())]


def _same_thing(name: str, other: str, old: str, new: str) -> bool:
    return head(name) == head(other) or (set(words(old)) <= _PEOPLE and set(words(new)) <= _PEOPLE)


def _modest(new: str) -> bool:
    said = words(new)
    return len(said) <= MAX_PLAIN or said[0] in ("with", "in", "on", "facing")


def _change(old: str, new: str) -> str:
    new, old = new.strip(" ,"), old.strip(" ,")
    if new in ("light", "dark"):
        new += " skin tone"
    if not new:
        return f"without {old.removeprefix('with ')}" if old else ""
    if new in _PEOPLE:
        return (
            f"but a {new}"
            if new in ("man", "woman", "person", "boy", "girl", "child", "mermaid", "merman")
            else f"but {new}"
        )
    return f"but {new}"


def _changes(library: Library, train: bool) -> Iterator[tuple[str, Shown, list[str], str]]:
    by_start: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for one, other, text in pairs(library):
        by_start[one].append((other, text))
    for concept, targets in by_start.items():
        for shown in library.query_images[concept]:
            ranked = sorted(targets, key=lambda t, k=shown.image.key: order(f"{k} {t[0]}"))  # type: ignore[misc]
            for other, text in ranked[:TRAIN_CHANGES] if train else ranked:
                if found := sorted(library.found[other], key=lambda o: _nearness(o, shown)):
                    yield text, shown, [library.image(o) for o in found], concept


def _nearness(other: Shown, shown: Shown) -> tuple[bool, bytes]:
    """Images of the same source come first: they are the ones meant."""
    return other.image.source != shown.image.source, order(other.image.key)


def _styles(library: Library, train: bool) -> Iterator[tuple[str, Shown, list[str], str]]:
    for concept in library.concepts:
        for one in library.query_images[concept]:
            by_style: dict[str, list[Shown]] = defaultdict(list)
            for other in library.found[concept]:
                if other is not one and other.image.style != one.image.style:
                    by_style[other.image.style].append(other)
            if len(by_style) < 2:
                continue
            ranked = sorted(by_style, key=lambda style: order(f"{one.image.key} {style}"))
            for style in ranked[:TRAIN_STYLES] if train else ranked:
                text = f"as {style}" if style.startswith("a ") else f"in {style} style"
                yield text, one, [library.image(o) for o in by_style[style]], concept
