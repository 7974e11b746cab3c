"""What WordNet says that some 68,000 nouns mean: glosses, their keywords, synonyms."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from puma.mini.extra_pairs.held_out import HeldOut
from puma.mini.fetch.packages import Package, fetch

WORDNET = Package(
    "apt",
    "wordnet-base",
    "1:3.0-37",
    "wordnet-base_1%3a3.0-37_all.deb",
    "61060d960f9ada8fa120872312eccd3ecebfbab8c4579e4f5a74e1cf67620752",
)
COMMON = 900
"""A word in more glosses than this is no keyword."""
KINDS_OF_QUERIES = ("keywords", "gloss", "synonym")
LOCATIONS, PEOPLE, ANIMALS, PLANTS = 15, 18, 5, 20  # lexicographer files of WordNet


@dataclass(frozen=True)
class Meaning:
    """A word of WordNet: its lemmas, gloss, the gloss's keywords, and the word above it."""

    lemmas: tuple[str, ...]
    gloss: str
    keywords: tuple[str, ...]
    above: tuple[str, ...]

    def queries(self, rng: random.Random) -> Iterator[tuple[str, str]]:
        """Texts that ask for the first lemma, each with its kind, one of :data:`KINDS_OF_QUERIES`."""
        if len(self.keywords) >= 2:
            drawn = list(self.keywords)
            rng.shuffle(drawn)
            first = self.above[:1] if rng.random() < 0.4 else ()
            yield "keywords", ", ".join([*first, *drawn[: rng.randint(2, 6)]])
        yield "gloss", self.gloss[:110]
        if len(self.lemmas) > 1:
            yield "synonym", self.lemmas[1]


def wordnet(held: HeldOut, home: Path | None = None, seed: int = 0) -> list[Meaning]:
    """WordNet's nouns, most names of places and persons and half the many-worded species left out."""
    folder = fetch(WORDNET, home=home)
    path = next(folder.rglob("data.noun"))
    rows: dict[str, tuple[list[str], str, list[str], int]] = {}
    for line in path.read_text(encoding="latin1").splitlines():
        if line.startswith("  "):
            continue  # the licence
        head, gloss = line.split("|", 1)
        part = head.split()
        count = int(part[3], 16)
        lemmas = [part[4 + 2 * i].replace("_", " ") for i in range(count)]
        start = 4 + 2 * count
        links = [part[start + 1 + 4 * i : start + 4 + 4 * i] for i in range(int(part[start]))]
        above = [link[1] for link in links if link[0] in ("@", "@i")]
        rows[part[0]] = (lemmas, gloss.strip().split('; "')[0].strip(' "'), above, int(part[1]))
    glosses_with = Counter(w for _, gloss, _, _ in rows.values() for w in set(re.findall("[a-z]+", gloss.lower())))
    rng = random.Random(seed)
    found = []
    for lemmas, gloss, above, file in rows.values():
        if any(lemma in held for lemma in lemmas):
            continue
        if lemmas[0][0].isupper() and file in (LOCATIONS, PEOPLE) and rng.random() < 0.7:
            continue
        if " " in lemmas[0] and file in (ANIMALS, PLANTS) and rng.random() < 0.6:
            continue
        keywords = [w for w in re.findall("[a-z]{3,}", gloss.lower()) if glosses_with[w] <= COMMON]
        parents = tuple(rows[number][0][0].lower() for number in above if number in rows)
        found.append(
            Meaning(tuple(w.lower() for w in lemmas), gloss, tuple(dict.fromkeys(keywords)), parents),
        )
    return found
