"""Text files in the encoding that they are in: recognised by their first bytes, or named by the caller. Loads no torch.

Bytes are split into lines, not text: a stray U+2028 inside a caption is no line's end.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator

from puma.items.objects import AnyPath, absolute
from puma.items.skips import Skip

MAX_LINE = 16 * 2**20
"""Bytes of a line in a text or JSONL file (characters, where it is not UTF-8); longer ones are skipped."""
EMPTY = "empty line"
"""The reason of a line that holds nothing."""
NOT_UTF8 = "not UTF-8"
"""The reason of a line that is not, before the reader's advice."""
LOOKED_AT = 4096
UTF8 = "utf-8-sig"
_MARKS = (
    (codecs.BOM_UTF8, UTF8),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def encoding_of(path: AnyPath, given: str | None = None) -> str:
    """The encoding of a file: the one that was given, by its mark, or UTF-16 without a mark where every other byte is
    NUL, as in European texts; else UTF-8.

    Raises:
        OSError: the file cannot be read.
    """
    if given is not None:
        return UTF8 if codecs.lookup(given).name == "utf-8" else given
    with path.open("rb") as stream:
        head = stream.read(LOOKED_AT)
    for mark, name in _MARKS:
        if head.startswith(mark):
            return name
    even, odd = head[::2].count(0), head[1::2].count(0)
    if len(head) >= 4 and max(even, odd) > len(head) // 4 and min(even, odd) < len(head) // 32 + 1:
        return "utf-16-le" if odd > even else "utf-16-be"
    return UTF8


def text_lines(path: AnyPath, encoding: str | None = None, advice: str = "") -> Iterator[tuple[str, str | Skip]]:
    """Lines, without the white space around them, with their place ``file:line``; of one that cannot be read, why.

    Args:
        encoding: as Python names it; None for the one that :func:`encoding_of` finds.
        advice: what is said after the reason where a line is not in the encoding.

    Raises:
        OSError: the file cannot be read.
    """
    encoding = encoding_of(path, encoding)
    if encoding != UTF8:
        yield from _other_lines(path, encoding, advice)
        return
    number = 0
    with path.open("rb") as stream:
        while raw := stream.readline(MAX_LINE):
            number += 1
            where = f"{path}:{number}"
            if len(raw) == MAX_LINE and not raw.endswith(b"\n"):
                while (rest := stream.readline(MAX_LINE)) and not rest.endswith(b"\n"):
                    pass
                yield where, Skip(where, f"the line is longer than {MAX_LINE:,} bytes")
                continue
            try:
                line = raw.decode(UTF8 if number == 1 else "utf-8").strip()
            except UnicodeDecodeError:
                yield where, Skip(where, NOT_UTF8 + advice)
                continue
            yield where, line or Skip(where, EMPTY)


def breaks_off(path: AnyPath, where: str, encoding: str, error: UnicodeError, advice: str) -> Skip:
    """The skip of all that follows a place where a file is not in its encoding."""
    reason = f"nothing can be read from here as {encoding} ({error}){advice}"
    return Skip(where, reason, source=absolute(path))


def _other_lines(path: AnyPath, encoding: str, advice: str) -> Iterator[tuple[str, str | Skip]]:
    number = 0
    with path.open(encoding=encoding) as stream:
        while True:
            number += 1
            where = f"{path}:{number}"
            try:
                line = stream.readline(MAX_LINE)
                is_long = len(line) == MAX_LINE and not line.endswith("\n")
                while is_long and (rest := stream.readline(MAX_LINE)) and not rest.endswith("\n"):
                    pass
            except UnicodeError as error:
                yield where, breaks_off(path, where, encoding, error, advice)
                return
            if not line:
                return
            if is_long:
                yield where, Skip(where, f"the line is longer than {MAX_LINE:,} characters")
                continue
            text = line.lstrip("\ufeff").strip() if number == 1 else line.strip()
            yield where, text or Skip(where, EMPTY)
