"""Requests and answers in the shapes of other services, whose clients work unchanged: OpenAI, vLLM, Jina, Cohere.

Fields that such clients send and that are not listed are ignored, but for those that hold content: what was meant to
be embedded is never dropped.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Union

from pydantic import BaseModel, ConfigDict, Field, Tag

from puma.serve.schemas import (
    MAX_TEXT,
    WHOLE,
    Image,
    Instruction,
    Lenient,
    ModelName,
    NullIs,
    Strict,
    Text,
    by_kind,
    kind_of,
    one_of,
)

MAX_INPUTS = 2_048
MAX_DIMENSIONS = 65_536
MAX_PARTS = 64
MAX_TOKENS = 16_384

Dimensions = Annotated[
    Annotated[int, Field(ge=1, le=MAX_DIMENSIONS), WHOLE] | None,
    Field(description="The first so many numbers, brought to unit length again; a length the model was trained for."),
]


class ImageAddress(Lenient):
    """Where OpenAI's clients put an image."""

    url: Image


class TextPart(Lenient):
    """A part of a message or input that is text."""

    type: Literal["text", "input_text"]
    text: Annotated[str, Field(max_length=MAX_TEXT)]


class ImagePart(Lenient):
    """A part of a message or input that is an image."""

    type: Literal["image_url", "input_image"]
    image_url: Annotated[
        Union[Annotated[Image, Tag("string")], Annotated[ImageAddress, Tag("object")]],
        by_kind("give an object with the key url, which holds a data URI"),
    ]


Part = Annotated[Union[TextPart, ImagePart], Field(discriminator="type")]
Parts = Annotated[list[Part], Field(min_length=1, max_length=MAX_PARTS)]


class Message(Lenient):
    """A chat message; all messages of a request together are one thing to embed."""

    role: Literal["system", "developer", "user"] = Field(
        description="What `system` says is the instruction; what `user` says and shows is embedded."
    )
    content: Annotated[
        Union[Annotated[Text, Tag("string")], Annotated[Parts, Tag("list")]],
        by_kind("give a text, or a list of parts of type text and image_url"),
    ]


class TextOrImage(Strict):
    """Jina's input: a text, an image, or both together. A key that is not known may hold what is meant, and is
    refused."""

    model_config = ConfigDict(json_schema_extra=one_of("text", "image"))

    text: Annotated[str | None, Field(max_length=MAX_TEXT)] = None
    image: Image | None = None


Token = Annotated[int, Field(ge=0, le=2**31 - 1)]
Tokens = Annotated[list[Token], Field(min_length=1, max_length=MAX_TOKENS)]


def _kind_of_input(value: Any) -> str | None:
    """As :func:`puma.serve.schemas.kind_of`, with ``tokens`` for a list of numbers."""
    kind = kind_of(value)
    return "tokens" if kind == "list" and value and kind_of(value[0]) == "number" else kind


OneInput = Annotated[
    Union[Annotated[Text, Tag("string")], Annotated[TextOrImage, Tag("object")], Annotated[Tokens, Tag("tokens")]],
    by_kind("give a text, or an object with text and image", _kind_of_input),
]
Inputs = Annotated[
    Union[
        Annotated[Text, Tag("string")],
        Annotated[list[OneInput], Field(min_length=1, max_length=MAX_INPUTS), Tag("list")],
        Annotated[Tokens, Tag("tokens")],
        Annotated[TextOrImage, Tag("object")],
    ],
    by_kind("give a text, or a list of texts and of objects with text and image", _kind_of_input),
]


class EmbeddingsRequest(Lenient):
    """Texts and images to embed: `input` (OpenAI, Jina) or `messages` (vLLM)."""

    model_config = ConfigDict(json_schema_extra=one_of("input", "messages", every="oneOf"))

    model: ModelName | None = None
    input: Inputs | None = Field(
        None,
        description="One or several texts; data URIs, or objects with `text` and `image`, for pictures. Lists of "
        "numbers are tokens of this model's own tokenizer.",
    )
    modality: Literal["text", "image"] | None = Field(
        None, description="What the strings of `input` are; by default a data URI is a picture, all else a text."
    )
    messages: Annotated[list[Message], Field(min_length=1, max_length=MAX_PARTS)] | None = None
    dimensions: Dimensions = None
    output_dimension: Dimensions = Field(None, description="Voyage's name of `dimensions`.")
    encoding_format: Annotated[Literal["float", "base64"], NullIs("float")] = Field(
        "float", description="`base64`: float32 numbers, little-endian, as OpenAI's clients ask for."
    )
    embedding_type: Literal["float", "base64"] | None = Field(None, description="Jina's name of `encoding_format`.")
    output_dtype: Literal["float"] | None = None
    normalized: Literal[True] | None = Field(None, description="Vectors are always of unit length.")
    normalize: Literal[True] | None = None
    late_chunking: Literal[False] | None = None
    instruction: Instruction | None = Field(None, description="Goes before every input: what is looked for.")
    task: Literal["retrieval.query", "retrieval.passage", "text-matching", "classification", "separation"] | None = (
        Field(None, description="Jina's: `retrieval.query` embeds with the instruction that searches use.")
    )
    input_type: Literal["query", "search_query", "document", "search_document", "passage"] | None = Field(
        None, description="Voyage's and others': `query` embeds with the instruction that searches use."
    )
    prompt_name: Literal["query", "document", "passage"] | None = None
    truncate: bool | None = Field(None, description="false: refuse texts that are too long. By default they are cut.")
    truncation: bool | None = Field(None, description="Voyage's name of `truncate`.")
    truncate_prompt_tokens: Annotated[int, Field(ge=-1, le=-1)] | None = Field(
        None, description="vLLM's: -1 cuts at the model's limit."
    )
    user: Annotated[str, Field(max_length=1_000)] | None = None


class Embedding(BaseModel):
    """One vector."""

    object: Literal["embedding"]
    index: int
    embedding: Union[list[float], str]


class Usage(BaseModel):
    """Tokens that the model read, prompt, instruction and picture included; 0 where it does not tell."""

    prompt_tokens: int
    total_tokens: int
    truncated_inputs: list[int] = Field(description="Places of the inputs that were too long to be read whole.")


class EmbeddingsAnswer(BaseModel):
    """Vectors of unit length, in the order of the inputs."""

    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: Usage


class ModelEntry(BaseModel):
    """The model, under one of its names."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    dimensions: int
    matryoshka_dimensions: list[int] = Field(description="Lengths that vectors may have: those it was trained for.")
    fingerprint: str


class ModelsAnswer(BaseModel):
    """The model's names."""

    object: Literal["list"]
    data: list[ModelEntry]


class MixedInput(Lenient):
    """Cohere's input of texts and an image that belong together."""

    content: Parts


VectorType = Literal["float", "int8", "uint8", "binary", "ubinary", "base64"]


class CohereRequest(Lenient):
    """Cohere's `/v2/embed`: one of `texts`, `images` and `inputs`."""

    model_config = ConfigDict(json_schema_extra=one_of("texts", "images", "inputs", every="oneOf"))

    model: ModelName | None = None
    texts: Annotated[list[Text], Field(min_length=1, max_length=MAX_INPUTS)] | None = None
    images: Annotated[list[Image], Field(min_length=1, max_length=MAX_INPUTS)] | None = None
    inputs: Annotated[list[MixedInput], Field(min_length=1, max_length=MAX_INPUTS)] | None = None
    input_type: Literal["search_document", "search_query", "classification", "clustering", "image"] | None = Field(
        None, description="`search_query` embeds with the instruction that searches use."
    )
    embedding_types: Annotated[list[VectorType], Field(min_length=1, max_length=6), NullIs(["float"])] = Field(
        default=["float"]
    )
    output_dimension: Dimensions = None
    truncate: Literal["END", "NONE"] | None = Field(
        None, description="`END`, the default: texts that are too long lose their end. `NONE`: they are refused."
    )


class CohereAnswer(BaseModel):
    """Vectors by type, in the order of the inputs."""

    id: str
    response_type: Literal["embeddings_by_type"]
    embeddings: dict[str, list[Union[list[float], list[int], str]]]
    texts: list[str] | None = None
    images: list[dict[str, Any]] | None = None
    meta: dict[str, Any]
