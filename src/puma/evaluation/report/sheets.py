"""Image sheets of the report: queries beside their best results, with thumbnails inside the page."""

from __future__ import annotations

import base64
import html
import io
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from puma.errors import ImageError
from puma.items.item import Item

SIDE = 96
"""Longest side of a thumbnail, in pixels."""
TEXT_SHOWN = 160
RESULTS_SHOWN = 5


@dataclass(frozen=True)
class Result:
    """One result of a query: what was found, its cosine, whether it is right."""

    item: Item
    score: float
    right: bool = False


@dataclass(frozen=True)
class Asked:
    """One query and its best results, best first.

    Args:
        query: the text, image or both.
        results: the first five are shown.
        instruction: shown small under the query.
        rank: of the first right result, if known (from 1).
        judged: whether it is known what is right; if not, nothing is said of it.
        wanted: a right result that is not among the first five, shown after them; NaN for its score if it has none.
        depth: how many results were ranked, if known: the rank of ``wanted`` is beyond it where ``rank`` is None.
    """

    query: Item
    results: Sequence[Result]
    instruction: str | None = None
    rank: int | None = None
    judged: bool = True
    wanted: Result | None = None
    depth: int | None = None


@dataclass(frozen=True)
class Sheet:
    """A titled list of queries, as "Task 0: text to image, failures"."""

    title: str
    rows: Sequence[Asked]


class Thumbnails:
    """Images as data URIs of at most a few kilobytes; each file is made once."""

    def __init__(self, side: int = SIDE) -> None:
        self.side = side
        self._made: dict[str, str | None] = {}

    def uri(self, item: Item) -> str | None:
        """A WebP data URI, or None where the image cannot be read."""
        if not isinstance(item.image, (str, os.PathLike)):
            return self._make(item)
        name = os.fspath(item.image)
        if name not in self._made:
            self._made[name] = self._make(item)
        return self._made[name]

    def _make(self, item: Item) -> str | None:
        try:
            image = item.open_image()
        except ImageError:
            return None
        if image is None:
            return None
        image = image.copy()
        image.thumbnail((self.side, self.side), Image.Resampling.LANCZOS)
        stream = io.BytesIO()
        image.save(stream, "WEBP", quality=70)
        return "data:image/webp;base64," + base64.b64encode(stream.getvalue()).decode()


def sheet_html(sheet: Sheet, thumbnails: Thumbnails) -> str:
    """The sheet as HTML; every text escaped."""
    rows = "".join(_row(row, thumbnails) for row in sheet.rows)
    return f"<section><h3>{html.escape(sheet.title)}</h3>{rows}</section>"


def _row(row: Asked, thumbnails: Thumbnails) -> str:
    results = list(row.results)[:RESULTS_SHOWN]
    place = next((number for number, result in enumerate(results, start=1) if result.right), None)
    verdict = f'<span class="verdict found">right at {place}</span>' if place else ""
    if not place and (row.judged or row.rank):
        missed = f"right at {row.rank:,} only" if row.rank else "not among the first"
        verdict = f'<span class="verdict">{missed}</span>'
    note = f"<small>{html.escape(row.instruction)}</small>" if row.instruction else ""
    cells = [f'<div class="item query">{_item(row.query, thumbnails)}<div>{note}{verdict}</div></div>']
    for result in results:
        kind, mark = ("item right", "✓ ") if result.right else ("item", "")
        score = f'<span class="score">{mark}{result.score:.3f}</span>'
        cells.append(f'<div class="{kind}">{_item(result.item, thumbnails)}{score}</div>')
    if row.wanted is not None:
        cells.append(_wanted(row, row.wanted, thumbnails))
    kind = "row" if row.wanted is None else "row six"
    return f'<div class="{kind}">{"".join(cells)}</div>'


def _wanted(row: Asked, wanted: Result, thumbnails: Thumbnails) -> str:
    if row.rank:
        verdict = f"right, rank {row.rank:,}"
    else:
        verdict = f"right, beyond rank {row.depth:,}" if row.depth else "right, not ranked"
    score = "" if math.isnan(wanted.score) else f" ({wanted.score:.3f})"
    return f'<div class="item wanted">{_item(wanted.item, thumbnails)}<span class="score">{verdict}{score}</span></div>'


def _item(item: Item, thumbnails: Thumbnails) -> str:
    parts = []
    if item.image is not None:
        uri = thumbnails.uri(item)
        alt = html.escape((item.text or "image")[:TEXT_SHOWN], quote=True)
        parts.append(f'<img src="{uri}" alt="{alt}" loading="lazy">' if uri else "<em>unreadable image</em> ")
    if item.text:
        text = item.text if len(item.text) <= TEXT_SHOWN else item.text[: TEXT_SHOWN - 1] + "…"
        parts.append(f"<div>{html.escape(text)}</div>")
    return "".join(parts)
