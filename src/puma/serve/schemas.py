"""Schemas that all requests and answers share: bounded kinds of values, filters, the shape of errors.

Every bound is part of the schema, so that the OpenAPI document states all of them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Union

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    StrictBool,
    Tag,
    model_validator,
)
from pydantic_core import PydanticCustomError, core_schema

from puma.index.filters import MAX_KEY, MAX_VALUES
from puma.index.filters import MAX_TEXT as MAX_FILTER_TEXT
from puma.index.interface import MAX_ID_LENGTH

MAX_TEXT = 100_000
"""Characters of one text. A model reads a few thousand of them; the bound keeps tokenizing short."""
MAX_OFFSET = 9_000
MAX_K = 1_000
LARGEST = 1e308
"""Numbers beyond this are infinite as doubles."""


def kind_of(value: Any) -> str | None:
    """Which of JSON's kinds a value is; None for null."""
    if isinstance(value, (bool, str)):
        return "boolean" if isinstance(value, bool) else "string"
    if isinstance(value, (int, float)):
        return "number"
    if isinstance(value, list):
        return "list"
    return "object" if isinstance(value, (dict, BaseModel)) else None


def by_kind(message: str, kind: Callable[[Any], str | None] = kind_of) -> Discriminator:
    """For a union whose members are of different kinds: only the fitting member's faults are shown, or else this."""
    return Discriminator(kind, custom_error_type="kind", custom_error_message=message)


@dataclass(frozen=True)
class NullIs:
    """For a field's annotation: null stands for this value, the field's default. Clients send null for what they were
    not given."""

    default: Any

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        def filled(value: Any) -> Any:
            return copy.copy(self.default) if value is None else value

        return core_schema.no_info_before_validator_function(filled, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {"anyOf": [handler(schema), {"type": "null"}]}


Modality = Literal["text", "image", "image,text"]
Modalities = Annotated[list[Modality], Field(min_length=1, max_length=3)]


def _saying(text: str) -> str:
    if not text.strip():
        raise PydanticCustomError("blank", "is white space only; give a text")
    return text


Text = Annotated[
    str, Field(min_length=1, max_length=MAX_TEXT, json_schema_extra={"pattern": "\\S"}), AfterValidator(_saying)
]
"""A text that must say something: white space alone does not."""
Instruction = Annotated[str, Field(max_length=2_000)]
IndexName = Annotated[str, Field(min_length=1, max_length=255)]
ModelName = Annotated[str, Field(max_length=255)]
ItemId = Annotated[str, Field(min_length=1, max_length=MAX_ID_LENGTH, pattern="^[^\\x00-\\x1f\\x7f]+$")]
Image = Annotated[
    str,
    Field(
        min_length=1,
        description="A picture as data URI (`data:image/png;base64,...`) or bare base64. Addresses are never fetched.",
    ),
]
AnyModality = Annotated[
    Union[Annotated[Modality, Tag("string")], Annotated[Modalities, Tag("list")]],
    by_kind("give one of 'text', 'image' and 'image,text', or a list of them"),
]
MinScore = Annotated[float, Field(ge=-1, le=1, allow_inf_nan=False)]
"""Cosine similarity that a hit must have."""
Number = Annotated[float, Field(ge=-LARGEST, le=LARGEST, allow_inf_nan=False)]
Word = Annotated[str, Field(min_length=1, max_length=1_000)]


def _whole_float_as_int(value: Any) -> Any:
    """JSON has one kind of numbers: 5.0 is 5."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


WHOLE = BeforeValidator(_whole_float_as_int)
"""For integers; it stands after their bounds, or the document would not state them."""


def one_of(*names: str, every: str = "anyOf") -> dict[str, Any]:
    """For ``json_schema_extra``: some of these keys must be there, and not null (``every`` ``oneOf``: just one)."""
    return {every: [{"required": [name], "properties": {name: {"not": {"type": "null"}}}} for name in names]}


class Strict(BaseModel):
    """A request of ours: a key that is not known is an error, because it is most often a slip of the pen."""

    model_config = ConfigDict(strict=True, extra="forbid")


CONTENT_KEYS = frozenset(
    ("audio", "caption", "content", "document", "documents", "image", "image_base64", "image_url", "image_urls",
     "images", "img", "input", "inputs", "messages", "picture", "prompt", "query", "text", "texts", "url", "urls",
     "video", "videos")
)  # fmt: skip
"""Names under which clients send what is to be embedded."""


class Lenient(BaseModel):
    """A request in another service's shape: what its clients send besides is let pass, but for :attr:`meant`."""

    model_config = ConfigDict(strict=True, extra="ignore")
    meant: ClassVar[frozenset[str]] = CONTENT_KEYS
    """Keys that change what is embedded or found: where they are not fields they are refused, not dropped."""

    @model_validator(mode="before")
    @classmethod
    def _drop_nothing_meant(cls, given: Any) -> Any:
        if isinstance(given, dict):
            lost = sorted(key for key in cls.meant - set(cls.model_fields) if given.get(key) is not None)
            if lost:
                fields = sorted(set(cls.model_fields) & CONTENT_KEYS)
                message = (
                    f"{', '.join(lost)}: not read here, so what it holds would be lost; give {' or '.join(fields)}"
                )
                raise PydanticCustomError("unread", "{message}", {"message": message})
        return given


FilterKey = Annotated[str, Field(min_length=1, max_length=MAX_KEY)]
FilterText = Annotated[str, Field(max_length=MAX_FILTER_TEXT)]


Value = Annotated[
    Union[
        Annotated[FilterText, Tag("string")], Annotated[StrictBool, Tag("boolean")], Annotated[Number, Tag("number")]
    ],
    by_kind("give a string, a number or a boolean"),
]


class Equality(Strict):
    """A field of the metadata, or `modality`, has a value, or has it not."""

    type: Literal["eq", "ne"]
    key: FilterKey
    value: Value


class Order(Strict):
    """A field of the metadata is greater or smaller than a value."""

    type: Literal["gt", "gte", "lt", "lte"]
    key: FilterKey
    value: Annotated[
        Union[Annotated[FilterText, Tag("string")], Annotated[Number, Tag("number")]],
        by_kind("give a string or a number"),
    ]


class Membership(Strict):
    """A field of the metadata, or `modality`, has one of some values, or none of them."""

    type: Literal["in", "nin"]
    key: FilterKey
    value: Annotated[list[Value], Field(max_length=MAX_VALUES)]


class Compound(Strict):
    """Several conditions, all or any of which must hold."""

    type: Literal["and", "or"]
    filters: Annotated[list[Filter], Field(min_length=1, max_length=50)]


Filter = Annotated[Union[Equality, Order, Membership, Compound], Field(discriminator="type")]
Compound.model_rebuild()


class ErrorBody(BaseModel):
    """What went wrong, in words and by name."""

    message: str
    type: str
    param: str | None = None
    code: str | int | None = None


class ErrorAnswer(BaseModel):
    """Every error has this shape; OpenAI's clients read `error`, Cohere's read `message`."""

    error: ErrorBody
    message: str


_REASONS = {
    400: "the request cannot be understood or used; the message says what to change",
    401: "a token is needed, or it is the wrong one",
    403: "not allowed: another site's page, an unknown host name, or a service that is read-only",
    404: "there is no such index, item, picture or model",
    413: "the request is too large",
    415: "the body is of an unexpected content type",
    422: "the request does not follow the schema; the message names the field",
    429: "too many requests wait already; try again after `Retry-After` seconds",
    503: "the answer took too long, or the service is shutting down",
}
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorAnswer, "description": reason[0].upper() + reason[1:]} for status, reason in _REASONS.items()
}
"""For every router's ``responses``."""
