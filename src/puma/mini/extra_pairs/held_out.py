"""Names that could give away a concept of val or test: no extra pair may hold one, so that those stay unseen."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter, defaultdict
from pathlib import Path

from puma.data.mbeir import Benchmark

_SMALL_WORDS = """
of with the a an in on and at for to up down left right by from
"""
SMALL_WORDS = frozenset(_SMALL_WORDS.split())


def words(text: str) -> list[str]:
    """Lower-case words, plural s cut off."""
    found = re.findall(r"[a-z]+", text.lower())
    return [w[:-1] if len(w) > 3 and w.endswith("s") and not w.endswith("ss") else w for w in found]


class HeldOut:
    """Tells names that could give away a concept of val or test: those with a word that OpenPics' training names lack
    but a held-out name has, and those that hold all words of a held-out name."""

    def __init__(self, root: Path) -> None:
        held, seen = self._names(root, "val") | self._names(root, "test"), self._names(root, "train")
        self._names_of_held_out = held
        count = Counter(w for name in seen for w in set(words(name)))
        self._unseen = {w for name in held for w in words(name) if count[w] < 2 and w not in SMALL_WORDS}
        self._whole: dict[str, list[frozenset[str]]] = defaultdict(list)
        for name in held:
            if rest := frozenset(w for w in words(name) if w not in SMALL_WORDS):
                self._whole[min(rest)].append(rest)

    @property
    def digest(self) -> str:
        """Tells sets of held-out names apart."""
        return hashlib.sha256(json.dumps([sorted(self._unseen), sorted(self._names_of_held_out)]).encode()).hexdigest()

    def __contains__(self, name: str) -> bool:
        said = set(words(name))
        return bool(said & self._unseen) or any(rest <= said for w in said for rest in self._whole.get(w, ()))

    @staticmethod
    def _names(root: Path, split: str) -> set[str]:
        """Texts of task 0's queries and of the pools of tasks 0 and 3, and the names that their sources give."""
        benchmark = Benchmark(root)
        found: set[str | None] = set()
        present = set(benchmark.tasks(split))
        rows = [*benchmark.queries(0, split)] if 0 in present else []
        pools = [candidate for task in (0, 3) if task in present for candidate in benchmark.pool(task, split)]
        for text, src in [(row.text, row.src) for row in rows] + [(row.text, row.src) for row in pools]:
            source = json.loads(src or "{}")
            found |= {text, *(source.get(key) for key in ("name", "concept", "family"))}
            found |= set(source.get("aliases", ()))
        return {name for name in found if name}
