"""From what embedding clients send to vectors in the form that they request."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np

from puma.errors import ImageError, InputError
from puma.items.item import Item
from puma.items.references import NEVER_FETCHED, image_reference
from puma.serve.images import CheckedImage, image_from_text
from puma.serve.responses import NotFoundError
from puma.serve.schemas_clients import ImageAddress, ImagePart, Part, TextOrImage, TextPart
from puma.serve.served_model import ServedModel
from puma.serve.service import Service
from puma.serve.settings import ServeSettings

DECIMALS = 8
"""Of numbers in JSON: a unit vector's float32 has no more to say, and a double's digits are twice as many."""
MOST_WARNINGS = 50


def model_name(service: Service, name: str | None) -> str:
    """The name to answer with; the first one if none is requested.

    Raises:
        NotFoundError: another model is requested.
    """
    names = service.settings.model_names
    if not name:
        return names[0]
    if name not in names:
        raise NotFoundError(f"model {name!r}: not served; there is {', '.join(map(repr, names))}", "model_not_found")
    return name


def query_instruction(model: ServedModel, item: Item, modality: str | None = None) -> str | None:
    """The instruction of a query for items of one modality; of any, where no more is known."""
    return model.instructions.get((item.modality, modality)) or None


def item_of_parts(parts: Sequence[Part], limits: ServeSettings, name: str) -> tuple[Item, CheckedImage | None]:
    """Texts and at most one image as one item; texts are joined by line breaks.

    Raises:
        InputError: nothing in it, or several images. ImageError: the image cannot be used.
    """
    texts = [words(part.text, name) or "" for part in parts if isinstance(part, TextPart) and part.text.strip()]
    addresses = [part.image_url for part in parts if isinstance(part, ImagePart)]
    if len(addresses) > 1:
        raise InputError(f"{name}: one picture an input, got {len(addresses)}; send an input for each")
    image = None
    for address in addresses:
        url = address.url if isinstance(address, ImageAddress) else address
        image = image_from_text(url, limits, f"{name}.image_url")
    return item_of("\n".join(texts), image, name), image


def item_of_input(given: str | TextOrImage, limits: ServeSettings, name: str, modality: str | None = None) -> Item:
    """An item of a string, by :func:`item_of_string`, or of an object with a text, an image, or both.

    Raises:
        ImageError: the image cannot be used. InputError: there is nothing in it, or a text is a picture.
    """
    if isinstance(given, str):
        return item_of_string(given, limits, name, modality)
    image = None if given.image is None else image_from_text(given.image, limits, f"{name}.image")
    return item_of(given.text, image, name)


def item_of_string(text: str, limits: ServeSettings, name: str, modality: str | None = None) -> Item:
    """An item of a field that may hold a text or a picture.

    Args:
        text: words; or a data URI, or a picture's bytes as base64.
        modality: ``text`` or ``image`` where the client said which; None to tell by the string itself.

    Raises:
        ImageError: it is a picture that cannot be used, or the address of one. InputError: it is said to be a text and
            is a picture.
    """
    reference = image_reference(text) if modality is None else None
    if reference == "address":
        raise ImageError(
            f"{name}: the address of a picture, and {NEVER_FETCHED}; send the picture itself as "
            'data:image/png;base64,..., or {"text": ...} if these words are meant'
        )
    if modality == "image" or reference in ("data URI", "base64"):
        return Item(image=image_from_text(text, limits, name).data)
    return item_of(text, None, name)


def words(text: str | None, name: str) -> str | None:
    """A text that is to be read as words.

    Raises:
        InputError: it is a picture as data URI or base64, which a model would read letter by letter.
    """
    found = None if text is None else image_reference(text)
    if found not in (None, "address"):
        raise InputError(f"{name}: a picture ({found}) where words are expected; send it in the field for pictures")
    return text


def item_of_tokens(model: ServedModel, tokens: Sequence[int], name: str) -> Item:
    """An item of the tokens of a text.

    Raises:
        InputError: they are not this model's, or the model has no tokens.
    """
    if model.text_tokens is None:
        raise InputError(f"{name}: tokens cannot be decoded, this model has no tokenizer; send the text itself")
    try:
        return item_of(model.text_tokens.decode(tokens), None, name)
    except InputError as error:
        raise InputError(f"{name}: {error}") from None


def item_of(text: str | None, image: CheckedImage | None, name: str) -> Item:
    """An item of a request's field.

    Raises:
        InputError: there is neither text nor image, or the text is a picture.
    """
    text = words(text, name)
    if image is None and (text is None or not text.strip()):
        raise InputError(f"{name}: is empty; give a text or a picture")
    return Item(text, None if image is None else image.data)


def warnings_of(cut: Sequence[int], names: Sequence[str]) -> dict[str, list[str]]:
    """What Cohere's ``meta`` says of inputs that were too long, the first of them; empty where none was.

    Args:
        cut: their places.
        names: of all inputs.
    """
    if not cut:
        return {}
    return {"warnings": [f"{names[place]}: too long, its end was not read" for place in cut[:MOST_WARNINGS]]}


def as_floats(vectors: np.ndarray) -> list[list[float]]:
    """Rows as short decimal numbers, each within 5e-9 of what it was."""
    rows: list[list[float]] = np.round(vectors.astype(np.float64), DECIMALS).tolist()
    return rows


def as_base64(vectors: np.ndarray) -> list[str]:
    """Rows as base64 of little-endian float32."""
    return [base64.b64encode(row.tobytes()).decode("ascii") for row in np.ascontiguousarray(vectors, dtype="<f4")]


def as_types(vectors: np.ndarray, kinds: Sequence[str]) -> dict[str, Any]:
    """Vectors [n, dim] in each of Cohere's types.

    ``int8``: each row scaled so that its largest number is 127 or -127, which leaves cosines as they are; ``uint8``:
    128 more. ``ubinary``: a bit a number, set where it is above zero, eight to a byte, the first highest; ``binary``:
    128 less.
    """
    made: dict[str, Any] = {}
    scaled = np.round(vectors / np.maximum(np.abs(vectors).max(axis=1, keepdims=True), 1e-12) * 127).astype(np.int64)
    bits = np.packbits(vectors > 0, axis=1).astype(np.int64)
    for kind in dict.fromkeys(kinds):
        if kind == "float":
            made[kind] = as_floats(vectors)
        elif kind == "base64":
            made[kind] = as_base64(vectors)
        else:
            numbers = {"int8": scaled, "uint8": scaled + 128, "binary": bits - 128, "ubinary": bits}[kind]
            made[kind] = numbers.tolist()
    return made
