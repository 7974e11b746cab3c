"""The images that are kept, by concept, family and split, and the candidates made of them."""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from puma.data.records import Candidate
from puma.items.item import IMAGE, IMAGE_TEXT, TEXT
from puma.mini.openpics.captions import distinct_keywords, short_name, without_shared_words
from puma.mini.openpics.records import ImageRecord

DATASET, NUMBER = "openpics", 20
"""The data set's name in files, and its number in ids (M-BEIR uses 0 to 9)."""
DOCUMENT_KEYWORDS = 8
"""Most keywords in a document's text."""
SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Shown:
    """An image that is kept: where its file is, and where it belongs."""

    image: ImageRecord
    image_path: str
    concept: str
    family: str
    split: str


@dataclass(frozen=True)
class _Facts:
    """What is known of a concept from all its images together."""

    name: str
    keywords: tuple[str, ...]
    description: str
    category: str
    aliases: tuple[str, ...]


def order(text: str) -> bytes:
    """A fixed pseudo-random order that does not depend on what else there is."""
    return hashlib.sha256(f"openpics order {text}".encode()).digest()


class Library:
    """All images of one split, by concept.

    Args:
        shown: the images.
        ids: gives candidates their numbers; one for all splits, so that no two share one.
        sides: whether a concept's images are parted into those asked with and those found, so that no query's own
            image is among the candidates of image queries (val and test). In train every image is both.
        common: keywords that too many concepts share to tell anything.
    """

    def __init__(self, shown: Sequence[Shown], ids: Ids, *, sides: bool, common: frozenset[str]) -> None:
        self.shown, self.ids, self.common = list(shown), ids, common
        self.by_concept: dict[str, list[Shown]] = defaultdict(list)
        for one in self.shown:
            self.by_concept[one.concept].append(one)
        self.concepts = sorted(self.by_concept)
        self.found: dict[str, list[Shown]] = {}
        self.query_images: dict[str, list[Shown]] = {}
        for concept, members in self.by_concept.items():
            ranked = sorted(members, key=lambda one: order(one.image.key))
            half = (len(ranked) + 1) // 2
            parted = sides and len(ranked) > 1
            self.found[concept] = ranked[:half] if parted else ranked
            self.query_images[concept] = ranked[half:] if parted else ranked
        self.candidates: dict[str, Candidate] = {}
        self._facts = {concept: self._fact(concept) for concept in self.concepts}

    def name(self, concept: str) -> str:
        """The name most of its images carry."""
        return self._facts[concept].name

    def keywords(self, concept: str) -> tuple[str, ...]:
        """All its images' keywords that share no word with its name; the telling ones first."""
        return self._facts[concept].keywords

    def telling(self, concept: str) -> tuple[str, ...]:
        """Its keywords without the common ones."""
        return tuple(k for k in self.keywords(concept) if k not in self.common)

    def tells(self, concept: str) -> bool:
        """Whether its keywords tell what it is, as far as counting can know."""
        return len(self.telling(concept)) >= 1 and len(self.keywords(concept)) >= 2

    def synonyms(self, concept: str) -> tuple[str, ...]:
        """Other sources' names for it that share no word with its name."""
        aliases = self._facts[concept].aliases
        return tuple(a for a in aliases if without_shared_words(a, self.name(concept)) == a)

    def description(self, concept: str) -> str:
        """The longest description without the words of its name, or "" where too little is left."""
        return self._facts[concept].description

    def category(self, concept: str) -> str:
        """What a person would call its kind, or ""."""
        return self._facts[concept].category

    def _fact(self, concept: str) -> _Facts:
        images = [one.image for one in self.by_concept[concept]]
        names = Counter(image.name for image in images)
        name = min(names, key=lambda n: (-names[n], n))
        keywords = distinct_keywords(tuple(dict.fromkeys(k for p in images for k in p.keywords)), name)
        texts = {without_shared_words(text, name) for text in {p.description for p in images}}
        longest = max(texts, key=lambda text: (len(text), text))
        kinds = Counter(p.category for p in images if p.category)
        aliases = {short_name(alias) for p in images for alias in (p.name, *p.aliases)}
        return _Facts(
            name=name,
            keywords=tuple(sorted(keywords, key=lambda k: k in self.common)),
            description=longest if len([w for w in longest.split() if len(w) > 3]) >= 4 else "",
            category=min(kinds, key=lambda c: (-kinds[c], c)) if kinds else "",
            aliases=tuple(sorted(aliases - {name, ""})),
        )

    def image(self, one: Shown) -> str:
        """The candidate that is this image."""
        return self._candidate(f"image {one.image.key}", None, one.image_path, self.source(one))

    def title(self, concept: str) -> str:
        """The candidate that is a concept's name."""
        return self._candidate(f"name {concept}", self.name(concept), None, self.concept_source(concept))

    def keyword_text(self, concept: str) -> str | None:
        """The candidate that is a concept's keywords, or None where they do not tell it."""
        keywords = self.keywords(concept)[:DOCUMENT_KEYWORDS]
        if not self.tells(concept):
            return None
        text = ", ".join(keywords)  # concepts with equal keywords share one candidate: nothing tells them apart
        return self._candidate(f"keywords {text}", text, None, self.concept_source(concept))

    def document(self, one: Shown) -> str | None:
        """The candidate that is this image with a text about it that does not say its name, or None."""
        keywords = self.keywords(one.concept)[:DOCUMENT_KEYWORDS]
        text = (
            ", ".join(keywords) if len(keywords) >= 2 else self.description(one.concept) or self.category(one.concept)
        )
        text = without_shared_words(text, self.name(one.concept)) if len(keywords) < 2 else text
        if len(text) < 3:
            return None
        return self._candidate(f"document {one.image.key}", text, one.image_path, self.source(one))

    def source(self, one: Shown) -> str:
        """What is known of an image, as JSON, for src_content: training may vary its captions with it."""
        image = one.image
        known = {
            "name": image.name,
            "aliases": list(image.aliases),
            "keywords": list(image.keywords),
            "description": image.description,
            "category": image.category,
            "concept": one.concept,
            "family": one.family,
            "source": image.source,
            "style": image.style,
        }
        return json.dumps({k: v for k, v in known.items() if v}, ensure_ascii=False)

    def concept_source(self, concept: str) -> str:
        """What is known of a concept, as JSON, for src_content."""
        known = {
            "name": self.name(concept),
            "aliases": list(self._facts[concept].aliases),
            "concept": concept,
            "family": self.by_concept[concept][0].family,
        }
        return json.dumps({k: v for k, v in known.items() if v}, ensure_ascii=False)

    def _candidate(self, key: str, text: str | None, image: str | None, src: str) -> str:
        did = self.ids.candidate(key)
        if did not in self.candidates:
            modality = IMAGE_TEXT if text and image else IMAGE if image else TEXT
            self.candidates[did] = Candidate(did, text, image, modality, src)
        return did


class Ids:
    """Numbers for candidates and queries, in the order first asked for."""

    def __init__(self) -> None:
        self._candidates: dict[str, str] = {}
        self._queries = 0

    def candidate(self, key: str) -> str:
        """The did of what ``key`` names: always the same."""
        return self._candidates.setdefault(key, f"{NUMBER}:{len(self._candidates) + 1}")

    def query(self) -> str:
        """A new qid."""
        self._queries += 1
        return f"{NUMBER}:{self._queries}"


def common_keywords(images: Iterable[Shown], most: int) -> frozenset[str]:
    """Keywords that more than ``most`` concepts have, and stamps' folders, which are kinds rather than keywords."""
    having: dict[str, set[str]] = defaultdict(set)
    folders: set[str] = set()
    for one in images:
        for keyword in one.image.keywords:
            having[keyword].add(one.concept)
        if one.image.source == "tuxpaint":
            folders.update(one.image.keywords)
    many = {keyword for keyword, concepts in having.items() if len(concepts) > most}
    return frozenset(many | folders)
