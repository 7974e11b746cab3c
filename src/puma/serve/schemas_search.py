"""Requests and answers of PUMA's own routes: search, items, indexes."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue
from pydantic_core import PydanticCustomError

from puma.serve.schemas import (
    LARGEST,
    MAX_K,
    MAX_OFFSET,
    MAX_TEXT,
    WHOLE,
    AnyModality,
    Filter,
    Image,
    IndexName,
    Instruction,
    ItemId,
    MinScore,
    Modality,
    NullIs,
    Strict,
    Word,
)

MAX_DEPTH = 8
"""How deep lists and objects in metadata may be nested."""
TAKEN = ("text", "image", "modality")
"""Keys that metadata cannot have."""


class SearchRequest(Strict):
    """A search by text, image, both, or by an item of the index."""

    model_config = ConfigDict(
        json_schema_extra={
            "anyOf": [
                {"required": ["text"], "properties": {"text": {"type": "string", "pattern": "\\S"}}},
                {"required": ["image"], "properties": {"image": {"type": "string"}}},
                {"required": ["item"], "properties": {"item": {"type": "string"}}},
            ]
        }
    )

    index: IndexName | None = Field(None, description="Name of an index; the first one if left out.")
    text: Annotated[str, Field(max_length=MAX_TEXT)] | None = None
    image: Image | None = None
    item: ItemId | None = Field(None, description='Id of a stored item: "search with this result".')
    minus: Annotated[list[Word], Field(max_length=16), NullIs([])] = Field([], description="Words to lead away from.")
    modality: AnyModality | None = Field(None, description="What to get: one kind, or several.")
    where: Filter | None = Field(None, description="Conditions on metadata; applied before ranking.")
    k: Annotated[int, Field(ge=1, le=MAX_K), WHOLE, NullIs(10)] = Field(10, description="Hits wanted.")
    offset: Annotated[int, Field(ge=0, le=MAX_OFFSET), WHOLE, NullIs(0)] = Field(
        0, description="Hits to pass over: the next page."
    )
    group: Annotated[bool, NullIs(False)] = Field(False, description="Whether near-duplicates are one hit.")
    drop_weak: Annotated[bool, NullIs(False)] = Field(False, description="Whether hits are left out that are `weak`.")
    min_score: MinScore | None = Field(None, description="Hits of a smaller score are left out.")
    instruction: Instruction | None = Field(
        None, description="What is looked for, in words; an empty string for none. By default one that fits."
    )


class OtherPlace(BaseModel):
    """Where an item was found too, and what was said of it there."""

    file: str | None
    path: str | None
    metadata: dict[str, Any]


class Stored(BaseModel):
    """An item of an index."""

    id: str
    modality: Modality
    text: str | None
    file: str | None = Field(description="Base name of the file it came from.")
    path: str | None = Field(description="The file's whole path; null unless the service gives out originals.")
    metadata: dict[str, Any]
    thumbnail: str | None = Field(description="Address of a small picture, on this service.")
    original: str | None = Field(description="Address of the file itself; null as `path`.")
    other_places: list[OtherPlace] = Field(description="The same content stored in other files or with other metadata.")


class Duplicate(BaseModel):
    """A hit that is nearly the same as a better one."""

    id: str
    score: float
    file: str | None
    path: str | None


class Found(Stored):
    """A hit."""

    score: float = Field(description="Cosine similarity.")
    weak: bool | None = Field(
        None,
        description="Whether this model gives such scores also where nothing fits; null where that was not measured.",
    )
    duplicates: list[Duplicate] | None = Field(None, description="Where hits are grouped: its near-duplicates.")


class Asked(BaseModel):
    """How the query was understood."""

    modality: Modality
    instruction: str | None = Field(
        description="What went before it; null for nothing, and where each kind of item was asked for with its own."
    )
    truncated: bool = Field(description="Whether the words were too many to be read to their end.")


class SearchAnswer(BaseModel):
    """Hits, best first. Those of several kinds of item are ordered by how far each stands out among its kind, so their
    scores need not fall."""

    index: str
    query: Asked
    hits: list[Found]
    offset: int
    more: bool = Field(description="Whether there are hits after these.")
    took_ms: float


class IndexEntry(BaseModel):
    """One index."""

    name: str
    rows: int
    modalities: dict[str, int]
    dim: int | None
    fingerprint: str | None


class IndexesAnswer(BaseModel):
    """The indexes that are served."""

    indexes: list[IndexEntry]
    model: str
    writable: bool


class ItemsAnswer(BaseModel):
    """Items by id."""

    index: str
    items: list[Stored]
    more: bool
    after: str | None = Field(description="Give this as `after` to get the next ones.")


def _fault(message: str) -> PydanticCustomError:
    return PydanticCustomError("metadata", "{message}", {"message": message})


def _storable(metadata: dict[str, JsonValue]) -> dict[str, JsonValue]:
    """Refuses numbers that no double can hold, endless nesting, and keys that have a meaning of their own."""
    taken = sorted(set(TAKEN) & set(metadata))
    if taken:
        raise _fault(f"metadata cannot have the keys {taken}: they name the item itself")
    level: list[JsonValue] = list(metadata.values())
    for _ in range(MAX_DEPTH):
        for value in level:
            if isinstance(value, (int, float)) and not -LARGEST <= value <= LARGEST:  # NaN is not either
                raise _fault("numbers in metadata must be finite, also as doubles")
        level = [
            inner
            for value in level
            for inner in (value.values() if isinstance(value, dict) else value if isinstance(value, list) else ())
        ]
    if level:
        raise _fault(f"metadata may be nested at most {MAX_DEPTH} deep")
    return metadata


Metadata = Annotated[
    dict[Annotated[str, Field(min_length=1, max_length=255)], JsonValue],
    Field(
        max_length=100,
        json_schema_extra={"propertyNames": {"minLength": 1, "maxLength": 255, "not": {"enum": list(TAKEN)}}},
    ),
    AfterValidator(_storable),
]


class NewItem(Strict):
    """A text, an image, or both."""

    id: ItemId | None = Field(None, description="By default a digest of the content.")
    text: Annotated[str, Field(max_length=MAX_TEXT)] | None = None
    image: Image | None = None
    metadata: Annotated[Metadata, NullIs({})] = Field(
        {}, description="Kept beside the item and returned with it; strings, numbers and booleans can be filtered by."
    )


class AddRequest(Strict):
    """Items to store."""

    index: IndexName | None = None
    items: Annotated[list[NewItem], Field(min_length=1, max_length=2_048)]


class Skipped(BaseModel):
    """An item that was left out."""

    where: str
    reason: str


class AddAnswer(BaseModel):
    """What became of the items."""

    index: str
    ids: list[str | None] = Field(description="One an item sent; null where it was skipped.")
    embedded: int
    present: int = Field(description="Stored already with the same content.")
    updated: int = Field(description="Of those present, whose metadata changed.")
    repeated: int
    truncated: list[int] = Field(description="Places of the items whose text was too long to be read whole.")
    skipped: list[Skipped]


class DeleteAnswer(BaseModel):
    """What was removed."""

    index: str
    id: str
    deleted: bool
