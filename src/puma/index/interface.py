"""What every index engine promises, and the checks of ids, vectors, modalities and payloads. Loads no torch."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from puma.errors import InputError
from puma.index.filters import Filter
from puma.index.provenance import Place, Stamp
from puma.items.item import MODALITIES

SCORE_DECIMALS = 6
"""Scores are rounded to this many decimals before they are compared: what differs less is rounding noise of the model,
not a difference."""
UNIT_TOLERANCE = 1e-3
"""How far a vector's length may be from 1."""
MAX_ID_LENGTH = 1024
_UNFIT = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")


@dataclass(frozen=True)
class Hit:
    """One search result.

    Args:
        id: the item's id.
        score: cosine similarity, [-1, 1], rounded to six decimals.
        modality: ``text``, ``image`` or ``image,text``.
        payload: what was stored beside the vector. Where the same content was stored with several payloads, the first
            that fits the filter.
        thumbnail: whether the index holds a small image of it (``Index.thumbnail``).
        other_payloads: the item's other payloads: the same content in other places or with other fields.
    """

    id: str
    score: float
    modality: str
    payload: dict[str, Any] = field(default_factory=dict)
    thumbnail: bool = False
    other_payloads: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True)
class Row:
    """One stored item.

    Args:
        id: the item's id.
        vector: float32 [dim] of unit length; [0] where vectors were not requested.
        modality: ``text``, ``image`` or ``image,text``.
        payload: what was stored beside the vector.
        content: a digest of what was embedded: the same content need not be embedded again.
        thumbnail: whether the index holds a small image of it (``Index.thumbnail``).
        other_payloads: as in :class:`Hit`.
    """

    id: str
    vector: np.ndarray
    modality: str
    payload: dict[str, Any]
    content: str
    thumbnail: bool = False
    other_payloads: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True)
class NewRow:
    """A checked row on its way into an engine; as :class:`Row`, with the payload as the JSON text that is stored."""

    id: str
    vector: np.ndarray
    modality: str
    payload: str
    content: str
    thumbnail: bool = False


@dataclass(frozen=True)
class PayloadJson:
    """What :func:`encoded_payload` made of a payload; ``Index.add`` takes it and need not encode it again."""

    text: str


class Engine(Protocol):
    """A store of checked rows. An acknowledged ``put`` survives ``kill -9``; putting an id again replaces its row.
    ``modalities`` is None or some of the three, ``where`` None or a filter as ``checked_filter`` returns it."""

    dim: int
    fingerprint: str | None

    def put(
        self, rows: Sequence[NewRow], thumbnails: Mapping[str, bytes] | None, sources: Sequence[tuple[str, str]] | None
    ) -> None:
        """Insert or replace rows, by id, all or none. ``thumbnails`` by content digest are stored before them,
        ``(source, id)`` pairs too. A row that is replaced loses its other places, unless its payload is one of them."""

    def put_copies(self, rows: Sequence[Row], vectors: np.ndarray, other: Any) -> None:
        """Insert rows of another engine of this kind with other vectors, float32 [n, dim]; their thumbnails come
        along."""

    def take_companions(self, other: Any, ids: Collection[str]) -> None:
        """Take over another engine's sources, places and stamps of these rows, in the place of one's own."""

    def delete(self, ids: Sequence[str]) -> int:
        """Remove rows and their sources; how many rows there were."""

    def get(self, ids: Sequence[str], vectors: bool = True) -> dict[str, Row]:
        """The rows of these ids, without those that do not exist."""

    def page(
        self,
        limit: int,
        after: str | None,
        modalities: Sequence[str] | None,
        where: Filter | None,
        vectors: bool = True,
    ) -> list[Row]:
        """The first rows by id that come after ``after``."""

    def scan(self, batch: int, vectors: bool) -> Iterator[list[Row]]:
        """All rows: of one moment and in the order they are stored, or in the order of ids while others may write."""

    def search(
        self, vectors: np.ndarray, k: int, modalities: Sequence[str] | None, where: Filter | None, exact: bool
    ) -> list[list[Hit]]:
        """The k nearest rows of each of [n, dim] vectors, best first, ties by id."""

    def count(self, modalities: Sequence[str] | None = None, where: Filter | None = None) -> int:
        """Rows stored (of these modalities, that fit)."""

    def sample(self) -> dict[str, np.ndarray]:
        """By modality, for those there are rows of, the vectors of a fixed random sample of its rows."""

    def thumbnail(self, name: str) -> bytes | None:
        """The small image of an id; None if there is none."""

    def note_sources(self, pairs: Sequence[tuple[str, str]]) -> None:
        """Remember which source gave which id."""

    def sources(self, under: Sequence[str]) -> set[tuple[str, str]]:
        """The pairs whose source is one of these paths or lies below one."""

    def sources_of(self, ids: Sequence[str]) -> set[tuple[str, str]]:
        """The pairs of these ids."""

    def forget_sources(self, pairs: Sequence[tuple[str, str]]) -> int:
        """Drop pairs with their places, and the rows that no source holds any more; how many rows."""

    def add_places(self, places: Sequence[Place]) -> list[Place]:
        """Keep further places of stored rows; those that were new."""

    def places(self, under: Sequence[str]) -> list[Place]:
        """Of items with several places, those whose source is one of these paths or lies below one."""

    def forget_places(self, places: Sequence[Place]) -> None:
        """Drop single places; each item keeps one at least."""

    def put_stamps(self, stamps: Sequence[Stamp]) -> None:
        """Remember the states of files that were read."""

    def stamps(self, under: Sequence[str]) -> dict[str, Stamp]:
        """What is remembered of sources that are one of these paths or lie below one, by source."""

    def verify(self) -> list[str]:
        """Faults, in plain words."""

    def compact(self) -> dict[str, int]:
        """Everything small and fast at once; what was dropped and, where known, bytes before and after."""

    def optimize(self) -> None:
        """Build or refresh what makes search fast; drop old versions."""

    def stats(self) -> dict[str, Any]:
        """Engine, size on disk and state of its indexes."""


def checked_vectors(vectors: Any, dim: int | None, what: str = "vectors") -> np.ndarray:
    """As float32 [n, dim], contiguous; one vector [dim] becomes [1, dim].

    Raises:
        InputError: wrong shape, not finite, or not of unit length (the row is named).
    """
    array = np.ascontiguousarray(vectors, dtype=np.float32)
    if array.ndim == 1 and array.size:
        array = array[None, :]
    if (
        array.ndim != 2
        or (dim is not None and array.shape[1] != dim and array.size)
        or (array.size and not array.shape[1])
    ):
        raise InputError(f"{what} must be [n, {dim or 'dim'}], got {list(array.shape)}")
    if not array.size:
        return array.reshape(0, dim or 0)
    finite = np.isfinite(array).all(axis=1)
    if not finite.all():
        raise InputError(f"{what}[{int(np.argmin(finite))}] holds NaN or infinity; the model that made it is at fault")
    lengths = np.linalg.norm(array, axis=1)
    off = np.abs(lengths - 1)
    if off.max() > UNIT_TOLERANCE:
        row = int(off.argmax())
        raise InputError(
            f"{what}[{row}] has length {lengths[row]:.4f}, not 1; divide each row by its norm (in float32)"
        )
    return array


def checked_ids(ids: Any, unique: bool = True) -> list[str]:
    """As a list of strings.

    Raises:
        InputError: an id is no string, empty, too long, holds a control character, or occurs twice.
    """
    if isinstance(ids, str):
        raise InputError(f"ids must be a sequence of strings, got one string {ids!r}")
    names: list[str] = list(ids)
    for place, value in enumerate(names):
        if not isinstance(value, str) or not 0 < len(value) <= MAX_ID_LENGTH or _UNFIT.search(value):
            raise InputError(
                f"ids[{place}] must be a string of 1 to {MAX_ID_LENGTH} characters, none of them a control character, "
                f"got {value!r:.80}"
            )
    if unique and len(set(names)) != len(names):
        seen: set[str] = set()
        double = next(value for value in names if value in seen or seen.add(value))  # type: ignore[func-returns-value]
        raise InputError(f"ids: {double!r} occurs twice in one call; which of the two is meant?")
    return names


def checked_modality(modality: str | Sequence[str] | None) -> tuple[str, ...] | None:
    """As a tuple without repetitions in the usual order; None for any modality, which all three together also are.

    Raises:
        InputError: one of them is unknown, or the sequence is empty.
    """
    if modality is None:
        return None
    given = (
        [modality] if isinstance(modality, str) else list(modality) if isinstance(modality, Iterable) else [modality]
    )
    if not given or any(not isinstance(name, str) or name not in MODALITIES for name in given):
        raise InputError(
            f"modality must be one of {', '.join(map(repr, MODALITIES))}, several of them, or None, "
            f"got {modality!r:.80}"
        )
    chosen = tuple(name for name in MODALITIES if name in given)
    return None if len(chosen) == len(MODALITIES) else chosen


def checked_k(k: int, what: str = "k") -> int:
    """Raise InputError unless ``k`` is an integer of at least 1."""
    if isinstance(k, bool) or not isinstance(k, (int, np.integer)) or k < 1:
        raise InputError(f"{what} must be an integer of at least 1, got {k!r}")
    return int(k)


def encoded_payload(payload: Mapping[str, Any] | PayloadJson | None, name: str) -> str:
    """A payload as JSON text.

    Raises:
        InputError: it is no mapping, or holds what JSON cannot say.
    """
    if payload is None:
        return "{}"
    if isinstance(payload, PayloadJson):
        return payload.text
    if not isinstance(payload, Mapping):
        raise InputError(f"the payload of {name!r} must be a dict or None, got {type(payload).__name__}")
    try:
        text = json.dumps(dict(payload), ensure_ascii=False, allow_nan=False)
        text.encode("utf-8")
        return text
    except (TypeError, ValueError) as error:
        raise InputError(f"the payload of {name!r} cannot be written as JSON: {error}") from None
