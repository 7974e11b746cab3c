"""Training pairs beside OpenPics' own for puma-mini: icons with their names, and WordNet's glosses.

What OpenPics lacks for concepts that it never shows is names: its training split has 6,150. Icon sets draw some 21,000
more names; WordNet tells what 68,000 words mean. A name that shares a word with a concept of val or test is left out
(:class:`HeldOut`), so that those stay unseen. Packages are pinned; each set keeps its own licence, and no image of
theirs enters the project.
"""

from __future__ import annotations

import io
import json
import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import resvg_py
from PIL import Image

from puma.mini.fetch.packages import Package, fetch

# name, version, SHA-256 of the archive, licence
ICON_SETS = """
fa6-solid 1.2.4 082c792eaad4751626438773fa7360cb23f495b687cf2dd01b2b0fccc7f6af8b CC-BY-4.0
flat-color-icons 1.2.3 d8878a9b0f02d749bc8671eb7d47882eb711185cbcefbb365cbfb488773c4786 MIT
game-icons 1.2.4 f5758efb34d91c4f50b941f355f16ee73938625e5996fabc25171288404460a4 CC-BY-3.0
guidance 1.2.2 87a0b6a5791954a33c8694bfdb2635d38d1226bfbd3f58f853e036b365bd30fb CC-BY-4.0
healthicons 1.2.13 4c2552c45737788a6599da3c5b72610c7fb4e7f87075d401c56fa16d487d4caf MIT
hugeicons 1.2.35 cca09de913319938961fa0613a8eb42952f76c3ee13a7c68ef411091590c5d8b MIT
icon-park 1.2.4 c1a25212a31602aca93c3fa6f6b3288e89b9d7811afc132dfd78506e9d586b6f Apache-2.0
lucide 1.2.137 e74db8c3a55fff55bc82de21268c4bced9f65ff10aacc0d5f3a395b0e93243c3 ISC
material-symbols 1.2.98 142d50bf28e7db85362795be335ebc29dac611d73c404fc1e6fc5cc198e2b3d0 Apache-2.0
mdi 1.2.3 ddd817a7213f91de51147943915c0cda8c8b818a53c92b5c068cfa9883c6d7ac Apache-2.0
medical-icon 1.2.0 00a8e57a05b36d72483bf15cbc7aa89b7e26a179159111610a3eb29705bcc58c MIT
mingcute 1.2.8 fec65f4430ac70a968e0e7fc7741e7064ba91e6da992b905f75c9d70c717bd2c Apache-2.0
ph 1.2.2 e3a582a047d9829fc7e8842c660d8065e598d1b68bb58cb68e75a1f1e5a614cc MIT
solar 1.2.13 9efec9045e9188c5dd5cf9de52f8ad968ffabee565026480a6c74bfe63b3bbc2 CC-BY-4.0
streamline-cyber-color 1.2.2 bc71bb624b8a500841e2e47c0175bf13dfb99b38a6ddc2421d3ac21331e21eac CC-BY-4.0
streamline-emojis 1.2.4 5dac87c876b322500989828c5823143e0100d78881627a2e4081a4b897cbfdbc CC-BY-4.0
streamline-flex-color 1.2.2 17ef2e9d596bb288991c271a2b468be822f994cb073c94801a1c186a0e4af827 CC-BY-4.0
streamline-freehand-color 1.2.2 00d74cbddaf1bcf35c8614ac0544d10af69c7cee8801475473fe424ee0c0c642 CC-BY-4.0
streamline-kameleon-color 1.2.2 5f972d986afb340d8a45d7a16e767f99f91fdd94db53e46a78c79847212aed7b CC-BY-4.0
streamline-plump-color 1.2.2 33ed8a9ebda9ed896125f1e01873105688d68d0b0c95ca1bcead5a41309afcf6 CC-BY-4.0
streamline-stickies-color 1.2.2 e96b8b2bbe1efde22272c420a75024b4b2c7e224ec1f323c93a421a07410971e CC-BY-4.0
streamline-ultimate-color 1.2.2 46133a11f3734bcef29066391d7edc141ed1d8056242ddfa1b5d36ce286420b6 CC-BY-4.0
tabler 1.2.41 3bf99af156d28d05568aff524a35ed1ba238df640a7835a5e02e1f8e439685f6 MIT
temaki 1.2.6 24a874e1d81a7de9d56e534fdc56287cfe6e73488a24ef5c8982d4fd5f294d8d CC0-1.0
"""
WORDNET = Package(
    "apt",
    "wordnet-base",
    "1:3.0-37",
    "wordnet-base_1%3a3.0-37_all.deb",
    "61060d960f9ada8fa120872312eccd3ecebfbab8c4579e4f5a74e1cf67620752",
)
_STYLE = """
outline outlined filled fill bold line linear duotone rounded sharp solid broken thin light twotone two tone
color flat remix gradient stroke variant alt regular off 24px
"""
STYLE = frozenset(_STYLE.split())
"""Words of an icon's name that tell how it is drawn, not what."""
_INTERFACE = """
arrow chevron align border format text font sort filter table column row layout grid menu tab panel window app
application file folder document page brand logo cursor caret corner bracket code api git database server
cloud download upload login logout wifi signal network battery sim lte gpp hdr raw dots ellipsis radius flex
justify box dash square circle triangle rectangle hexagon octagon
"""
INTERFACE = frozenset(_INTERFACE.split())
"""Words of user interfaces; icons made of nothing else are left out."""
_SMALL_WORDS = """
of with the a an in on and at for to up down left right by from
"""
SMALL_WORDS = frozenset(_SMALL_WORDS.split())
COMMON = 900
"""A word in more glosses than this is no keyword."""
LOCATIONS, PEOPLE, ANIMALS, PLANTS = 15, 18, 5, 20  # lexicographer files of WordNet


def words(text: str) -> list[str]:
    """Lower-case words, plural s cut off."""
    found = re.findall(r"[a-z]+", text.lower())
    return [w[:-1] if len(w) > 3 and w.endswith("s") and not w.endswith("ss") else w for w in found]


class HeldOut:
    """Tells names that could give away a concept of val or test: those with a word that OpenPics' training names lack
    but a held-out name has, and those that hold all words of a held-out name."""

    def __init__(self, root: Path) -> None:
        held, seen = self._names(root, "val") | self._names(root, "test"), self._names(root, "train")
        count = Counter(w for name in seen for w in set(words(name)))
        self._unseen = {w for name in held for w in words(name) if count[w] < 2 and w not in SMALL_WORDS}
        self._whole: dict[str, list[frozenset[str]]] = defaultdict(list)
        for name in held:
            if rest := frozenset(w for w in words(name) if w not in SMALL_WORDS):
                self._whole[min(rest)].append(rest)

    def __contains__(self, name: str) -> bool:
        said = set(words(name))
        return bool(said & self._unseen) or any(rest <= said for w in said for rest in self._whole.get(w, ()))

    @staticmethod
    def _names(root: Path, split: str) -> set[str]:
        found: set[str] = set()
        files = [root / f"query/{split}/mbeir_openpics_task0_{split}.jsonl"]
        files += [root / f"cand_pool/local/mbeir_openpics_task{t}_{split}_cand_pool.jsonl" for t in (0, 3)]
        for path in files:
            for line in path.read_text(encoding="utf-8").splitlines():
                row = json.loads(line)
                source = json.loads(row.get("query_src_content") or row.get("src_content") or "{}")
                keys = ("name", "concept", "family")
                found |= {row.get("query_txt"), row.get("txt"), *(source.get(k) for k in keys)}
                found |= set(source.get("aliases", ()))
        return {name for name in found if name}


def icon_sets() -> list[tuple[Package, str]]:
    """The pinned packages with their licences."""
    rows = [line.split() for line in ICON_SETS.strip().splitlines()]
    return [
        (Package("npm", f"@iconify-json/{name}", version, f"iconify-json-{name}-{version}.tgz", digest), licence)
        for name, version, digest, licence in rows
    ]


def icons(held: HeldOut, size: int, home: Path | None = None, seed: int = 0) -> tuple[np.ndarray, list[str]]:
    """Icons in random dark colours on white, uint8 [n, size, size, 3], and their names."""
    rng = random.Random(seed)
    pixels: list[np.ndarray] = []
    names: list[str] = []
    for package, _ in icon_sets():
        found = next(fetch(package, home=home).rglob("icons.json"))
        described = json.loads(found.read_text(encoding="utf-8"))
        for name, variants in _by_name(described["icons"]).items():
            said = name.split()
            plain = sum(w in INTERFACE for w in said)
            if all(w in INTERFACE or len(w) < 3 for w in said) or len(said) > 6 or name in held:
                continue
            if plain * 2 >= len(said) and rng.random() < 0.7:
                continue
            icon = _chosen(variants, filled=package.name.endswith("/ph"))
            colour = "#" + "".join(f"{rng.randrange(150):02x}" for _ in range(3))
            drawn = _drawn(icon, described, colour, size)
            if drawn is not None:
                pixels.append(drawn)
                names.append(name)
    return np.stack(pixels), names


def _by_name(found: dict[str, Any]) -> dict[str, list[tuple[str, Any]]]:
    groups: dict[str, list[tuple[str, Any]]] = {}
    for name, icon in found.items():
        if said := [w for w in name.split("-") if w and w not in STYLE and not w.isdigit()]:
            groups.setdefault(" ".join(said), []).append((name, icon))
    return groups


def _chosen(variants: list[tuple[str, Any]], *, filled: bool) -> Any:
    solid = [v for v in variants if not re.search("outline|thin|light|linear|broken|sharp", v[0])] or variants
    return next((icon for name, icon in solid if name.endswith("fill")), solid[0][1]) if filled else solid[0][1]


def _drawn(icon: Any, described: Any, colour: str, size: int) -> np.ndarray | None:
    width, height = (icon.get(side, described.get(side, 16)) for side in ("width", "height"))
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" color="{colour}" '
        f'viewBox="{icon.get("left", 0)} {icon.get("top", 0)} {width} {height}" width="{size}" height="{size}">'
        f"{icon['body'].replace('currentColor', colour)}</svg>"
    )
    try:
        data = bytes(resvg_py.svg_to_bytes(svg_string=svg, width=size - 8, height=size - 8))
    except Exception:  # one unfit drawing of thousands
        return None
    image = Image.open(io.BytesIO(data)).convert("RGBA")
    page = Image.new("RGB", (size, size), "white")
    page.paste(image, ((size - image.width) // 2, (size - image.height) // 2), image)
    array = np.asarray(page)
    return array if array.std() >= 4 else None  # blank


@dataclass(frozen=True)
class Meaning:
    """A word of WordNet: its lemmas, gloss, the gloss's keywords, and the word above it."""

    lemmas: tuple[str, ...]
    gloss: str
    keywords: tuple[str, ...]
    above: tuple[str, ...]

    def queries(self, rng: random.Random) -> Iterator[str]:
        """Texts that ask for the first lemma: keywords, the gloss, a synonym."""
        if len(self.keywords) >= 2:
            drawn = list(self.keywords)
            rng.shuffle(drawn)
            yield ", ".join([*(self.above[:1] if rng.random() < 0.4 else ()), *drawn[: rng.randint(2, 6)]])
        yield self.gloss[:110]
        if len(self.lemmas) > 1:
            yield self.lemmas[1]


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
    told = Counter(w for _, gloss, _, _ in rows.values() for w in set(re.findall("[a-z]+", gloss.lower())))
    rng = random.Random(seed)
    found = []
    for lemmas, gloss, above, file in rows.values():
        if any(lemma in held for lemma in lemmas):
            continue
        if lemmas[0][0].isupper() and file in (LOCATIONS, PEOPLE) and rng.random() < 0.7:
            continue
        if " " in lemmas[0] and file in (ANIMALS, PLANTS) and rng.random() < 0.6:
            continue
        keywords = [w for w in re.findall("[a-z]{3,}", gloss.lower()) if told[w] <= COMMON]
        parents = tuple(rows[number][0][0].lower() for number in above if number in rows)
        found.append(
            Meaning(tuple(w.lower() for w in lemmas), gloss, tuple(dict.fromkeys(keywords)), parents),
        )
    return found
