"""The arguments of ``Index.add``, checked and turned into rows."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from puma.errors import InputError
from puma.index.interface import NewRow, PayloadJson, checked_ids, checked_vectors, encoded_payload
from puma.index.provenance import Place
from puma.items.item import MODALITIES


@dataclass(frozen=True)
class Addition:
    """Rows, thumbnails by content digest, and ``(source, id)`` pairs, as :meth:`puma.index.interface.Engine.put` takes
    them."""

    rows: list[NewRow]
    thumbnails: dict[str, bytes]
    sources: list[tuple[str, str]]


def checked_addition(
    dim: int | None,
    ids: Sequence[str],
    vectors: Any,
    modalities: Sequence[str],
    payloads: Sequence[Mapping[str, Any] | PayloadJson | None] | None,
    contents: Sequence[str] | None,
    thumbnails: Sequence[bytes | None] | None,
    sources: Sequence[str | None] | None,
) -> Addition:
    """What is to be stored. Each payload is encoded once, here or before.

    Args:
        dim: length that the vectors must have; None for any.
        ids, vectors, modalities, payloads, contents, thumbnails, sources: as :meth:`puma.Index.add` takes them.

    Raises:
        InputError: an argument is not as described, or their lengths differ.
    """
    names = checked_ids(ids)
    array = checked_vectors(vectors, dim)
    given = [None] * len(names) if payloads is None else list(payloads)
    digests = names if contents is None else checked_ids(contents, unique=False)
    images = [None] * len(names) if thumbnails is None else list(thumbnails)
    origins = [None] * len(names) if sources is None else list(sources)
    lengths = {"ids": len(names), "vectors": len(array), "modalities": len(modalities)}
    lengths |= {"payloads": len(given), "contents": len(digests)}
    lengths |= {"thumbnails": len(images), "sources": len(origins)}
    if isinstance(modalities, str) or len(set(lengths.values())) != 1:
        raise InputError(f"the arguments of add must be equally long sequences, got {lengths}")
    for modality in modalities:
        if modality not in MODALITIES:
            raise InputError(f"modalities must be of {', '.join(map(repr, MODALITIES))}, got {modality!r}")
    texts = [encoded_payload(payload, name) for name, payload in zip(names, given, strict=True)]
    for place, image in enumerate(images):
        if image is not None and (not isinstance(image, bytes) or not image):
            raise InputError(f"thumbnails[{place}] must be bytes or None, got {image!r:.80}")
    pairs = checked_pairs((source, name) for source, name in zip(origins, names, strict=True) if source is not None)
    columns = zip(names, array, modalities, texts, digests, strict=True)
    small = {content: image for content, image in zip(digests, images, strict=True) if image is not None}
    return Addition([NewRow(*row) for row in columns], small, pairs)


def checked_places(places: Iterable[Place]) -> list[Place]:
    """Places as a list; InputError where one cannot be stored. An empty source stands for what was given directly."""
    found = list(places)
    for place in found:
        if not isinstance(place, Place):
            raise InputError(f"places must be of puma.index.Place, got {place!r:.80}")
        if place.source:
            checked_source(place.source)
        if not isinstance(place.payload, str) or not isinstance(_parsed(place.payload), dict):
            raise InputError(
                f"the payload of {place.id!r:.80} must be a JSON object as text, got {place.payload!r:.80}"
            )
    checked_ids([place.id for place in found], unique=False)
    return found


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def checked_under(under: Sequence[str]) -> list[str]:
    """Paths as a list; InputError unless each is a string that can be stored."""
    if isinstance(under, str):
        raise InputError(f"under must be a sequence of paths, got one string {under!r:.80}")
    return [checked_source(path) for path in under]


def checked_source(source: Any) -> str:
    """Raise InputError unless a source is a string that can be stored."""
    if not isinstance(source, str) or not source:
        raise InputError(f"a source must be a string with something in it, got {source!r:.80}")
    try:
        source.encode("utf-8")
    except UnicodeEncodeError:
        raise InputError(f"source {source!r:.80}: is no valid text; rename the file") from None
    return source


def checked_pairs(pairs: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """``(source, id)`` pairs as a list; InputError where one cannot be stored."""
    found = [(checked_source(source), name) for source, name in pairs]
    checked_ids([name for _, name in found], unique=False)
    return found
