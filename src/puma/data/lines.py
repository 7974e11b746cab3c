"""Lines of M-BEIR's files: read one at a time, JSON objects asked for their fields by name, every fault gathered.

Memory stays bounded by the longest line. Loads no torch.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from typing import Any

from puma.errors import DataError
from puma.items.item import IMAGE, IMAGE_TEXT, MODALITIES, TEXT
from puma.items.skips import Skip

MAX_FAULTS = 20
"""Most faults of one file that a message lists."""
ID = re.compile(r"\d+:\d+")
LFS = b"version https://git-lfs"
"""How the small file begins that stands for a large one where Git LFS has not fetched it."""
MODALITY_OF = {name: name for name in MODALITIES} | {"text,image": IMAGE_TEXT}
"""Modality by its spelling; M-BEIR's card writes "text,image", its files "image,text"."""


class Faults:
    """Gathers the faults of one file, reported together.

    Args:
        path: the file.
        what: what is in it, for the message ("the queries").
        most: faults kept word for word; the others are counted.
    """

    def __init__(self, path: str | os.PathLike[str], what: str, most: int = MAX_FAULTS) -> None:
        self.path, self.what, self.most, self.count = os.fspath(path), what, most, 0
        self.found: list[tuple[int, str]] = []

    def add(self, line: int, message: str) -> None:
        """Note one fault; ``line`` counts from 1, 0 stands for the whole file."""
        self.count += 1
        if len(self.found) < self.most:
            self.found.append((line, message))

    def check(self) -> None:
        """Raise DataError if there was any."""
        if not self.count:
            return
        shown = "\n".join(f"  line {line}: {message}" if line else f"  {message}" for line, message in self.found)
        more = f"\n  ... and {self.count - len(self.found)} more" if self.count > len(self.found) else ""
        plural = "s" if self.count > 1 else ""
        raise DataError(f"{self.path}: {self.count} fault{plural} in {self.what}:\n{shown}{more}")


class SkippedLines(Faults):
    """The faults of one file's lines as skips: they are listed, and nothing is raised.

    Args:
        skips: gets one for each line.
    """

    def __init__(self, path: str | os.PathLike[str], what: str, skips: list[Skip]) -> None:
        super().__init__(path, what, most=0)
        self.skips = skips

    def add(self, line: int, message: str) -> None:
        super().add(line, message)
        self.skips.append(Skip(f"{self.path}, line {line}" if line else self.path, message, source=self.path))

    def check(self) -> None:
        """Nothing: the faulty lines were left out, and are in ``skips``."""


def lines(path: str | os.PathLike[str], faults: Faults) -> Iterator[tuple[int, str]]:
    """The lines that hold anything, with their numbers from 1.

    Raises:
        DataError: there is no such file, it may not be read, or it is only Git LFS's pointer to one.
    """
    try:
        with open(path, "rb") as stream:
            for number, raw in enumerate(stream, 1):
                if number == 1 and raw.startswith(LFS):
                    raise DataError(f"{os.fspath(path)}: is Git LFS's pointer to the file; fetch it: git lfs pull")
                try:
                    line = raw.decode("utf-8-sig" if number == 1 else "utf-8").strip("\r\n")
                except UnicodeDecodeError as error:
                    faults.add(number, f"is not UTF-8 (byte {error.start}: {raw[error.start]:#04x})")
                    continue
                if line.strip():
                    yield number, line
    except FileNotFoundError:
        raise DataError(f"{os.fspath(path)}: no such file") from None
    except IsADirectoryError:
        raise DataError(f"{os.fspath(path)}: is a folder, expected a file") from None
    except PermissionError:
        raise DataError(f"{os.fspath(path)}: may not be read; check its permissions") from None


def objects(path: str | os.PathLike[str], faults: Faults) -> Iterator[Fields]:
    """The JSON objects of a file of one a line. Raises DataError as :func:`lines`."""
    for number, line in lines(path, faults):
        try:
            value = json.loads(line)
        except ValueError as error:
            faults.add(number, f"is not JSON ({error}): {line[:60]!r}")
            continue
        except RecursionError:
            faults.add(number, f"is JSON nested too deeply: {line[:60]!r}")
            continue
        if not isinstance(value, dict):
            faults.add(number, f"must be a JSON object, got {shown(value)}")
            continue
        yield Fields(value, number, faults)


class Fields:
    """One JSON object, whose fields are asked for by name and kind; ``good`` falls with the first fault."""

    def __init__(self, value: dict[str, Any], line: int, faults: Faults) -> None:
        self.value, self.line, self.faults, self.good = value, line, faults, True

    def fault(self, message: str) -> None:
        self.good = False
        self.faults.add(self.line, message)

    def text(self, name: str) -> str | None:
        """A string; None where it is null, missing or empty."""
        value = self.value.get(name)
        if value is None or isinstance(value, str):
            return value if value and value.strip() else None
        self.fault(f"{name} must be a string or null, got {shown(value)}")
        return None

    def identity(self, name: str) -> str:
        """An id, "<data set>:<number>"."""
        value = self.value.get(name)
        if isinstance(value, str) and ID.fullmatch(value):
            return value
        self.fault(f'{name} must be "<dataset>:<number>", got {shown(value)}')
        return ""

    def identities(self, name: str, *, repeats: bool = False) -> tuple[str, ...]:
        """A list of ids, as strings (M-BEIR's files) or as {"did": id} (its card); each once. With ``repeats`` an id
        given twice is no fault."""
        values = self.value.get(name)
        if values is None:
            return ()
        if isinstance(values, list):
            values = [v.get("did") if isinstance(v, dict) else v for v in values]
        if not isinstance(values, list) or not all(isinstance(v, str) and ID.fullmatch(v) for v in values):
            self.fault(f'{name} must be a list of "<dataset>:<number>", got {shown(values)}')
            return ()
        once = tuple(dict.fromkeys(values))
        if len(once) < len(values) and not repeats:
            self.fault(f"{name} names a candidate twice: {shown(values)}")
        return once

    def source(self, name: str) -> str | None:
        """A string as it is; any other value as JSON."""
        value = self.value.get(name)
        return value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False)

    def image(self, name: str) -> str | None:
        """A path that stays under the root."""
        path = self.text(name)
        if path is not None and (os.path.isabs(path) or ".." in path.replace("\\", "/").split("/")):
            self.fault(f"{name} must be relative to the root and stay under it, got {path!r}")
        return path

    def modality(self, name: str, text: str | None, image: str | None) -> str:
        """The modality, which must agree with what the record holds (either spelling of both is taken)."""
        value = self.value.get(name)
        known = MODALITY_OF.get(value) if isinstance(value, str) else None
        if known is None:
            self.fault(f"{name} must be one of {', '.join(map(repr, MODALITIES))}, got {shown(value)}")
            return TEXT
        has = {TEXT: (True, False), IMAGE: (False, True), IMAGE_TEXT: (True, True)}[known]
        if self.good and has != (text is not None, image is not None):
            holds = " and ".join(w for w, v in (("a text", text), ("an image", image)) if v) or "neither text nor image"
            self.fault(f"{name} is {known!r}, but the record holds {holds}")
        return known


def shown(value: Any) -> str:
    """A value for a message, cut to 80 characters."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
