"""Text of other people on a terminal: names of files and stored texts may hold characters that steer it."""

from __future__ import annotations

import re

_STEERING = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
"""Control characters, among them escape and the ends of lines, and those that turn the direction of the text."""


def printable(text: str) -> str:
    r"""The text with every character that would steer a terminal written as an escape.

    Examples:
        >>> print(printable("a\x1b[31mb\nc"))
        a\x1b[31mb\nc
    """
    return _STEERING.sub(lambda found: found.group().encode("unicode_escape").decode(), text)
