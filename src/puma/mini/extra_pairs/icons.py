"""Icons with their names: 24 icon sets from npm, each pinned with its licence, drawn once into the cache.

What OpenPics lacks for concepts that it never shows is names: its training split has 6,150, the icon sets draw some
21,000 more. No icon enters the project.
"""

from __future__ import annotations

import hashlib
import io
import json
import random
import re
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from puma.errors import require
from puma.mini.extra_pairs.held_out import HeldOut
from puma.mini.fetch.packages import Package, cache_home, fetch
from puma.storage.folders import written_folder

FORMAT = 1
"""Raised whenever the same packages would give other icons than before."""
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
NAMES = "names.json"


def icon_sets() -> list[tuple[Package, str]]:
    """The pinned packages with their licences."""
    rows = [line.split() for line in ICON_SETS.strip().splitlines()]
    return [
        (Package("npm", f"@iconify-json/{name}", version, f"iconify-json-{name}-{version}.tgz", digest), licence)
        for name, version, digest, licence in rows
    ]


def icon_files(held: HeldOut, size: int, home: Path | None = None) -> tuple[list[Path], list[str]]:
    """Icons in random dark colours on white, files of ``size`` pixels a side, and their names; drawn on first use.

    Raises:
        DependencyError, DownloadError, StorageError: as :func:`puma.mini.fetch.packages.fetch`.
    """
    key = hashlib.sha256(f"{FORMAT} {size} {held.digest} {ICON_SETS}".encode()).hexdigest()
    folder = (cache_home() if home is None else home) / "icons" / key[:12]
    if not folder.is_dir():
        require("drawing icons", "mini", "resvg_py")
        with written_folder(folder) as work:
            names = _draw_all(work, held, size, home)
            (work / NAMES).write_text(json.dumps(names), encoding="utf-8")
    names = json.loads((folder / NAMES).read_text(encoding="utf-8"))
    return [folder / f"{number}.png" for number in range(len(names))], names


def _draw_all(folder: Path, held: HeldOut, size: int, home: Path | None) -> list[str]:
    rng = random.Random(0)
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
            icon = _choose(variants, filled=package.name.endswith("/ph"))
            colour = "#" + "".join(f"{rng.randrange(150):02x}" for _ in range(3))
            drawn = _draw(icon, described, colour, size)
            if drawn is not None:
                drawn.save(folder / f"{len(names)}.png")
                names.append(name)
    return names


def _by_name(found: dict[str, Any]) -> dict[str, list[tuple[str, Any]]]:
    groups: dict[str, list[tuple[str, Any]]] = {}
    for name, icon in found.items():
        if said := [w for w in name.split("-") if w and w not in STYLE and not w.isdigit()]:
            groups.setdefault(" ".join(said), []).append((name, icon))
    return groups


def _choose(variants: list[tuple[str, Any]], *, filled: bool) -> Any:
    solid = [v for v in variants if not re.search("outline|thin|light|linear|broken|sharp", v[0])] or variants
    return next((icon for name, icon in solid if name.endswith("fill")), solid[0][1]) if filled else solid[0][1]


def _draw(icon: Any, described: Any, colour: str, size: int) -> Image.Image | None:
    import resvg_py  # here: a training without icons runs where it is not installed (the GPU kit)

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
    return page if np.asarray(page).std() >= 4 else None  # else blank
