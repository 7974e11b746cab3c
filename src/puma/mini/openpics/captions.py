"""Names and keywords of images from what packages say of them, and keys that are equal for two names of one thing."""

from __future__ import annotations

import html
import re
import unicodedata
from functools import lru_cache

MAX_WORDS = 9
"""Longest name kept, in words; the rest moves to the description."""

JUNK_NAMES = frozenset([
    "openclipart", "new document", "no title", "title", "drawing", "svg", "test", "unknown", "clip art", "clipart",
    "icon", "image", "picture", "symbol", "sign", "logo", "card", "people", "stuff", "misc", "various", "example",
    "sample", "object", "thing", "submission", "none", "untitled", "no name", "unnamed", "design", "shape", "vector",
    "illustration", "emblem",
])  # fmt: skip
"""Names that say nothing."""

JUNK_KEYWORDS = frozenset([
    "unsorted", "clip art", "clipart", "svg", "image", "media", "public domain", "png", "open clip art library",
    "externalsource", "hash", "icons", "icon", "theme", "lemon theme icon", "work", "special", "signs and symbols",
    "mapsym", "aj", "magick", "geometry", "united nations member", "filesystem", "musicstuff", "simple", "ipod",
    "vector", "inkscape", "sodipodi", "collection", "misc", "miscellany", "various", "drawing", "cliparts",
])  # fmt: skip
"""Keywords that say nothing of the image."""

STOP = frozenset([
    "a", "an", "the", "of", "in", "on", "at", "to", "from", "by", "for", "with", "and", "or", "is", "its", "as", "de",
    "la", "le", "il", "lo",
])  # fmt: skip
"""Words that two names may share without sharing meaning."""

_PEOPLE = {
    "man": "person", "men": "person", "woman": "person", "women": "person", "people": "person", "persons": "person",
    "male": "person", "female": "person", "lady": "person", "guy": "person", "gentleman": "person",
    "ladies": "person", "boy": "child", "girl": "child", "boys": "child", "girls": "child", "children": "child",
    "kid": "child", "kids": "child", "prince": "royal", "princess": "royal", "mother": "parent", "father": "parent",
    "mx": "santa", "mrs": "santa", "merman": "merperson", "mermaid": "merperson", "grandfather": "grandparent",
    "grandmother": "grandparent", "king": "monarch", "queen": "monarch", "mermen": "merperson",
}  # fmt: skip
_IRREGULAR = {
    "mice": "mouse", "geese": "goose", "feet": "foot", "teeth": "tooth", "leaves": "leaf", "knives": "knife",
    "wolves": "wolf", "loaves": "loaf", "halves": "half", "shelves": "shelf", "cherries": "cherry", "lives": "life",
    "cacti": "cactus", "dice": "die", "scarves": "scarf", "oxen": "ox",
}  # fmt: skip
_SAME = frozenset([
    "glass", "glasses", "bus", "gas", "lens", "cactus", "compass", "dress", "grass", "cross", "chess", "virus",
    "octopus", "hippopotamus", "us", "this", "is", "swiss", "boss", "moss", "kiss", "canvas", "iris", "tennis",
    "pants", "scissors", "atlas", "christmas", "venus", "mars", "uranus", "albatross", "species", "series", "news",
    "walrus", "rhinoceros", "lotus", "crocus", "hibiscus", "pegasus", "abacus", "circus", "campus", "sas",
])  # fmt: skip


def plain(text: str) -> str:
    """A text without markup, entities, control characters and doubled blanks, NFKC-normalised."""
    text = unicodedata.normalize("NFKC", html.unescape(re.sub(r"<[^>]*>", " ", text)))
    text = "".join(c if unicodedata.category(c)[0] != "C" else " " for c in text)
    return re.sub(r"\s+", " ", text).strip()


def short_name(text: str) -> str:
    """A lower-case name from a title or caption: no leading article, no closing full stop, no trailing number, no
    underscores, at most :data:`MAX_WORDS` words. May be empty."""
    text = plain(text).lower().replace("_", " ").replace(" & ", " and ").replace("’", "'").replace("`", "'")
    text = re.sub(r"^(clip ?art|drawing|picture|image|icon|symbol|logo)s? (of|by) (?=\w)", "", text)
    text = re.sub(r"\((b ?and ?w|b ?& ?w|bw|black and white|bandw|color|colou?r version|outline)\)", " ", text)
    text = re.sub(r"\b(b and w|bw|black/white|clip ?art|svg|v\d+|version \d+|remix|ver\.? ?\d+)\b", " ", text)
    text = re.sub(r"\([^)]*\)|\[[^\]]*\]|[\"“”]", " ", text)
    text = re.sub(r" - (clothing|body part|rpg map elements?|icon|symbol|sign|animal)s?$", "", text).replace(" - ", " ")
    text = re.sub(r"(?<=\w)-(?=\w)|[/\\|]+", " ", text) if " " not in text.strip() else text
    text = re.sub(r"[\s,.;:!#*+=~-]+$|^[\s,.;:!#*+=~'-]+", "", re.sub(r"\s+", " ", text)).strip()
    text = re.sub(r"^(a|an|the|some|one|another)\s+(?=\w)", "", text)
    text = re.sub(r"(?<=[a-z])[ -]?#?\d{1,3}$", "", text).strip(" -,.:;")
    words = text.split(" ")
    return " ".join(words[:MAX_WORDS]) if text else ""


def keyword(text: str) -> str:
    """A lower-case keyword, or "" if it says nothing."""
    text = re.sub(r"[_\s]+", " ", plain(text).lower()).strip(" .,;:-'\"()#")
    if (
        len(text) < 3
        or len(text) > 30
        or text in JUNK_KEYWORDS
        or text.startswith(("hash", "architett", "0x"))
        or not re.search("[a-z]", text)
    ):
        return ""
    return text if "@" not in text and "http" not in text else ""


def words(text: str) -> list[str]:
    """The words of a text, lower-case, without punctuation."""
    return re.findall(r"[^\W_]+(?:'[^\W_]+)?", text.lower())


@lru_cache(maxsize=65536)
def singular(word: str) -> str:
    """A word without its plural ending, by rule of thumb: keys only, never shown."""
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    if word in _SAME or len(word) < 4 or not word.endswith("s") or word.endswith(("ss", "'s", "us", "is")):
        return word
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if word.endswith(("ches", "shes", "xes", "sses", "zes", "oes")):
        return word[:-2]
    return word[:-1]


@lru_cache(maxsize=65536)
def stem(word: str) -> str:
    """A word's rough stem, for telling whether two texts share a word: running, runner, runs -> run."""
    word = singular(word.removesuffix("'s"))
    for ending in ("ing", "ers", "er", "ed", "ly", "ish", "y"):
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            word = word[: -len(ending)]
            break
    if len(word) > 3 and word[-1] == word[-2]:
        word = word[:-1]
    return word.removesuffix("e") if len(word) > 3 else word


def concept_key(name: str) -> str:
    """Two names of one thing have one key: word forms, articles and order of punctuation do not count."""
    return " ".join(singular(word) for word in words(name) if word not in ("a", "an", "the"))


def family_key(name: str) -> str:
    """As :func:`concept_key`, with skin tones, genders and numbers taken away."""
    text = re.sub(r"\b(medium[- ])?(light|dark|medium) skin tone\b", " ", name.lower())
    kept = [_PEOPLE.get(word, singular(word)) for word in words(text)]
    kept = [w for w in kept if w not in STOP and not w.isdigit() and (len(w) > 1 or len(kept) < 3)]
    if len(kept) > 1 and kept[0] == "person":  # man farmer, woman farmer, farmer
        kept = kept[1:]
    return " ".join(dict.fromkeys(kept)) or concept_key(name)


def head(name: str) -> str:
    """The noun a name is about: its last word before the first "with", "of", "in", comma..., singular."""
    text = re.split(r"\b(?:with|of|in|on|at|from|for|and|by|to|under|over|behind)\b|[,:(]", name.lower(), maxsplit=1)[0]
    found = [w for w in words(text) if not w.isdigit()] or words(name)
    return _PEOPLE.get(found[-1], singular(found[-1])) if found else ""


def without_shared_words(text: str, name: str) -> str:
    """A text without the words whose stem occurs in ``name``; punctuation and order stay.

    Examples:
        >>> without_shared_words("a running man runs", "man running")
        'a'
    """
    taken = {stem(word) for word in words(name)}
    kept = [w for w in text.split() if not ({stem(x) for x in words(w)} & taken)]
    return " ".join(kept).strip(" ,;:-")


def distinct_keywords(keywords: tuple[str, ...], name: str) -> tuple[str, ...]:
    """The keywords that share no word with the name."""
    taken = {stem(word) for word in words(name)}
    whole = "".join(words(name))
    return tuple(
        k
        for k in keywords
        if not ({stem(w) for w in words(k)} & taken) and not ("".join(words(k)) in whole and len(k) > 3)
    )
