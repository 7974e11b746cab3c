"""Tiny sources in the packages' own formats: a few hundred drawings, some of them broken on purpose.

Run as a program (arguments PACKAGES HOME SHARD) it builds OpenPics of them, to be killed by a test.
"""

from __future__ import annotations

import json
import struct
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

from PIL import Image, ImageDraw

from puma.errors import DependencyError
from puma.mini.fetch.packages import Package
from puma.mini.openpics import sources

NOUNS = [
    "apple",
    "boat",
    "crow",
    "drum",
    "eagle",
    "fence",
    "ghost",
    "harp",
    "igloo",
    "jacket",
    "kettle",
    "lemon",
    "mitten",
    "needle",
    "onion",
    "pillow",
    "quilt",
    "rabbit",
    "saddle",
    "tent",
    "umbrella",
    "violin",
    "wagon",
    "xylophone",
    "yacht",
    "zebra",
    "anchor",
    "barrel",
    "candle",
    "donkey",
    "engine",
    "feather",
    "guitar",
    "helmet",
    "island",
    "jar",
    "kite",
    "ladder",
    "magnet",
    "nest",
    "oven",
    "parrot",
    "rope",
    "scarf",
    "tiger",
    "urn",
    "vase",
    "whistle",
    "axe",
    "bucket",
    "clock",
    "dagger",
    "elbow",
]
COLOURS = {"red": "#d22", "blue": "#22d", "green": "#2a2"}
BOMB = (
    '<!DOCTYPE svg [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>'
    '<svg xmlns="http://www.w3.org/2000/svg" width="10" height="10"><text>&b;</text><rect width="5" height="5"/></svg>'
)


def shape(number: int, fill: str, edge: str) -> str:
    """A drawing in a 100 x 100 page that no other number gives."""
    x, y, r = 20 + number * 7 % 41, 20 + number * 13 % 43, 8 + number * 5 % 23
    return (
        f'<rect x="{x}" y="{y}" width="{r + 11}" height="{2 * r}" fill="{fill}" stroke="{edge}" stroke-width="3"/>'
        f'<circle cx="{90 - x}" cy="{80 - y / 2}" r="{r}" fill="{edge}"/>'
    )


def write(path: Path, content: str | bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds nothing."""
    head = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + struct.pack(">I", 13)
        + head
        + struct.pack(">I", zlib.crc32(head))
        + b"\0\0\0\0IEND\xaeB`\x82"
    )


def make_packages(root: Path, *, nouns: int = 36) -> None:
    """All packages, unpacked, one folder each under ``root``."""
    labels = [f"{c} {n}" if c else n for n in NOUNS[:nouns] for c in ("", *(COLOURS if n in NOUNS[::6] else ()))]
    codes = [f"{0x1F400 + i:X}" for i in range(len(labels))]
    entries = [
        {"label": label, "hexcode": code, "group": 3, "subgroup": 34 + i % 2,
         "tags": [label.split()[-1], f"tag{i}", f"hint{i % 7}", "thing"]}
        for i, (label, code) in enumerate(zip(labels, codes, strict=True))
    ]  # fmt: skip
    entries.append({"label": "regional indicator D", "hexcode": "1F1E9"})
    base = folder(root, sources.EMOJIBASE)
    write(base / "package/en/data.json", json.dumps(entries))
    groups = {"groups": {"3": "animals-nature"}, "subgroups": {"34": "animal-mammal", "35": "food-fruit"}}
    write(base / "package/meta/groups.json", json.dumps(groups))
    for v, (*_, package) in enumerate(sources.VENDORS):
        icons = {}
        for i, label in enumerate(labels):
            alike = 2 if v == 6 and i < 4 else v  # vendors 2 and 6 draw the first four alike
            drawing = shape(i * 8 + alike, COLOURS.get(label.split()[0], "#aa7"), f"#{alike * 25:02x}8844")
            icons[label.replace(" ", "-")] = {"body": drawing}
        icons["unknown-thing"] = {"body": "<rect/>"}
        write(folder(root, package) / "package/icons.json", json.dumps({"icons": icons, "width": 100, "height": 100}))
        chars = (
            {code.lower(): label.replace(" ", "-") for label, code in zip(labels, codes, strict=True)} if v < 4 else []
        )
        write(folder(root, package) / "package/chars.json", json.dumps(chars))
    _tuxpaint(folder(root, sources.TUXPAINT) / "usr/share/tuxpaint/stamps")
    _openclipart(folder(root, sources.OPENCLIPART) / "usr/share/openclipart/svg", nouns)


def _tuxpaint(root: Path) -> None:
    for i, noun in enumerate(NOUNS[:12]):
        image = Image.new("RGBA", (40, 30), (0, 0, 0, 0))
        pen = ImageDraw.Draw(image)
        pen.ellipse((2 * i, i, 2 * i + 12, i + 9), fill=(200, 10 * i, 30, 255))
        pen.rectangle((0, 28 - i, 38 - 3 * i, 29), fill=(0, 0, 200, 255))
        file = root / "animals" / "birds" / f"{noun}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        image.save(file)
        write(file.with_suffix(".txt"), f"A {noun}.\nde.utf8=Ein Ding.\n")
    whole = (root / "animals/birds/apple.png").read_bytes()
    write(root / "broken/truncated.png", whole[: len(whole) // 2])
    write(root / "broken/giant.png", png_header(20_000, 20_000))
    for name in ("truncated", "giant"):
        write(root / f"broken/{name}.txt", f"A {name} stamp.\n")
    write(root / "broken/nothing.txt", "\nde.utf8=Nichts\n")
    write(root / "broken/nothing.svg", "<svg/>")
    write(root / "broken/alone.txt", "A caption alone.\n")


def _openclipart(root: Path, nouns: int) -> None:
    def drawing(body: str, title: str, keywords: tuple[str, ...] = (), size: str = 'width="10cm" height="10cm"') -> str:
        items = "".join(f"<rdf:li>{k}</rdf:li>" for k in keywords)
        work = f"<Work><dc:title>{title}</dc:title><dc:subject><rdf:Bag>{items}</rdf:Bag></dc:subject></Work>"
        names = 'xmlns:dc="d" xmlns:rdf="r" xmlns="http://www.w3.org/2000/svg"'
        return f"<svg {names} {size}><metadata>{work}</metadata>{body}</svg>"

    for i, noun in enumerate(NOUNS[:nouns]):
        body = shape(1000 + i, "#777", "#333")
        write(root / f"animals/{noun}_01.svg", drawing(body, f"Old {noun} 01", ("old", f"shelf{i}", "thing")))
        write(
            root / f"tools/{noun}_frame.svg",
            drawing(shape(1200 + i, "#a3c", "#124"), f"Frame_{noun}", ("frame", f"wall{i}")),
        )
    write(root / "tools/same.svg", drawing(shape(1000, "#777", "#333"), "Same as another", ("antique",)))
    write(root / "tools/blank.svg", drawing("", "Blank sheet"))
    write(root / "tools/untitled.svg", drawing(shape(400, "#111", "#222"), "Untitled"))
    write(
        root / "tools/bomb.svg",
        BOMB.replace("<text>", "<metadata><Work><dc:title>Entity bomb</dc:title></Work></metadata><text>"),
    )
    write(root / "tools/not.svg", "<Work><dc:title>No drawing here</dc:title></Work>")


def folder(root: Path, package: Package) -> Path:
    return root / package.filename


def fetcher(root: Path, missing: tuple[str, ...] = ()) -> Callable[[Package], Path]:
    """Stands in for packages.fetch: the folder is there, or its client is missing."""

    def fetch(package: Package) -> Path:
        if package.client in missing:
            raise DependencyError(f"{package} needs {package.client}, which is not installed: install it")
        return folder(root, package)

    return fetch


if __name__ == "__main__":
    from puma.mini.openpics import build, shards

    shards.SHARD = int(sys.argv[3])
    build(sys.argv[2], fetch=fetcher(Path(sys.argv[1])))
