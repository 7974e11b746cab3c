"""The pieces that the benchmarks' plots are drawn with, as SVG text."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence

INK, GREY, DOT = "#222", "#ccc", "#1f6f8b"
FONT = 'font-family="sans-serif" font-size="12"'


def bounds(values: Sequence[float]) -> tuple[float, float]:
    """The multiples of five that enclose the values; never equal."""
    low, high = 5 * math.floor(min(values) / 5), 5 * math.ceil(max(values) / 5)
    return float(low), float(high if high > low else low + 5)


def ticks(low: float, high: float) -> list[float]:
    """Multiples of five, or of ten over a long range."""
    step = 5 if high - low <= 40 else 10
    return [float(value) for value in range(math.ceil(low), math.floor(high) + 1) if value % step == 0]


def text(x: float, y: float, words: str, anchor: str, colour: str = INK) -> str:
    """Words at a place; ``anchor``: start, middle or end."""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}">{html.escape(words)}</text>'


def rule(x1: float, y1: float, x2: float, y2: float, colour: str, dash: str = "") -> str:
    """A straight line."""
    dashes = f' stroke-dasharray="{dash}"' if dash else ""
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}"{dashes}/>'


def polyline(points: Sequence[tuple[float, float]], colour: str) -> str:
    """A line through points."""
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>'


def dot(x: float, y: float, colour: str = DOT) -> str:
    """A filled circle."""
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}" fill-opacity="0.7"/>'


def svg(width: int, height: int, parts: Sequence[str]) -> str:
    """The whole drawing, on white."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'{FONT}><rect width="100%" height="100%" fill="#fff"/>{"".join(parts)}</svg>\n'
    )
