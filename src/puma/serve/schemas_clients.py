"""Requests and answers in the shapes of other services, whose clients work unchanged: OpenAI, vLLM, Jina, Cohere.

Fields that such clients send and that are not listed are ignored.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Union

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, Tag
from pydantic_core import PydanticCustomError

from puma.serve.schemas import MAX_TEXT, WHOLE, Filter, Image, Instruction, Lenient, ModelName, Text, by_kind, one_of

MAX_INPUTS = 2_048
MAX_DIMENSIONS = 65_536
MAX_PARTS = 64
MAX_STORE_HITS = 50
MAX_QUERIES = 16

Dimensions = Annotated[
    Annotated[int, Field(ge=1, le=MAX_DIMENSIONS), WHOLE] | None,
    Field(description="The first so many numbers, brought to unit length again."),
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


class TextOrImage(Lenient):
    """Jina's input: a text, an image, or both together."""

    model_config = ConfigDict(json_schema_extra=one_of("text", "image"))

    text: Annotated[str | None, Field(max_length=MAX_TEXT)] = None
    image: Image | None = None


def _no_tokens(given: Any) -> Any:
    first = given[0] if isinstance(given, list) and given else None
    if isinstance(first, int) or (isinstance(first, list) and all(isinstance(token, int) for token in first)):
        raise PydanticCustomError(
            "tokens", "token arrays are of another model's vocabulary and are refused; send the text itself"
        )
    return given


OneInput = Annotated[
    Union[Annotated[Text, Tag("string")], Annotated[TextOrImage, Tag("object")]],
    by_kind("give a text, or an object with text and image"),
]
Inputs = Annotated[
    Union[
        Annotated[Text, Tag("string")],
        Annotated[list[OneInput], Field(min_length=1, max_length=MAX_INPUTS), Tag("list")],
        Annotated[TextOrImage, Tag("object")],
    ],
    by_kind("give a text, or a list of texts and of objects with text and image"),
]


class EmbeddingsRequest(Lenient):
    """Texts and images to embed: `input` (OpenAI, Jina) or `messages` (vLLM)."""

    model_config = ConfigDict(json_schema_extra=one_of("input", "messages", every="oneOf"))

    model: ModelName | None = None
    input: Annotated[Inputs | None, BeforeValidator(_no_tokens)] = Field(
        None, description="One or several texts; objects with `text` and `image` for pictures. No tokens."
    )
    messages: Annotated[list[Message], Field(min_length=1, max_length=MAX_PARTS)] | None = None
    dimensions: Dimensions = None
    encoding_format: Literal["float", "base64"] = Field(
        "float", description="`base64`: float32 numbers, little-endian, as OpenAI's clients ask for."
    )
    instruction: Instruction | None = Field(None, description="Goes before every input: what is looked for.")
    task: Literal["retrieval.query", "retrieval.passage", "text-matching", "classification", "separation"] | None = (
        Field(None, description="Jina's: `retrieval.query` embeds with the instruction that searches use.")
    )
    user: Annotated[str, Field(max_length=1_000)] | None = None


class Embedding(BaseModel):
    """One vector."""

    object: Literal["embedding"]
    index: int
    embedding: Union[list[float], str]


class Usage(BaseModel):
    """Tokens are not counted here: both are 0."""

    prompt_tokens: int
    total_tokens: int


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
    fingerprint: str


class ModelsAnswer(BaseModel):
    """The model's names."""

    object: Literal["list"]
    data: list[ModelEntry]


class MixedInput(Lenient):
    """Cohere's input of texts and an image that belong together."""

    content: Parts


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
    embedding_types: list[Literal["float", "int8", "uint8", "binary", "ubinary", "base64"]] = Field(
        ["float"], min_length=1, max_length=6
    )
    output_dimension: Dimensions = None
    truncate: Literal["END"] | None = Field(None, description="Texts that are too long lose their end.")


class CohereAnswer(BaseModel):
    """Vectors by type, in the order of the inputs."""

    id: str
    response_type: Literal["embeddings_by_type"]
    embeddings: dict[str, list[Union[list[float], list[int], str]]]
    texts: list[str] | None = None
    images: list[dict[str, Any]] | None = None
    meta: dict[str, Any]


class RankingOptions(Lenient):
    """OpenAI's; the ranker's name is let pass, since there is one."""

    ranker: Annotated[str, Field(max_length=255)] | None = None
    score_threshold: Annotated[float, Field(ge=-1, le=1, allow_inf_nan=False)] | None = None


Queries = Annotated[
    Union[
        Annotated[Text, Tag("string")], Annotated[list[Text], Field(min_length=1, max_length=MAX_QUERIES), Tag("list")]
    ],
    by_kind("give a text or a list of texts"),
]


class StoreSearchRequest(Lenient):
    """OpenAI's search of a vector store, which here is an index."""

    model_config = ConfigDict(json_schema_extra=one_of("query", "image"))

    query: Queries | None = Field(
        None, description="A text, or several, whose results are joined. May be left out if there is an `image`."
    )
    image: Image | None = Field(None, description="Ours: a picture to search with, by the clients' `extra_body`.")
    filters: Filter | None = Field(None, description="Conditions on attributes, and on `modality`.")
    max_num_results: Annotated[int, Field(ge=1, le=MAX_STORE_HITS), WHOLE] = 10
    ranking_options: RankingOptions | None = None
    rewrite_query: bool | None = None
    instruction: Instruction | None = None


class StoreContent(BaseModel):
    """A stored text."""

    type: Literal["text"]
    text: str


class StoreHit(BaseModel):
    """A hit in OpenAI's shape; `attributes` also say the modality and, for images, the thumbnail's address."""

    file_id: str
    filename: str
    score: float
    attributes: dict[str, Union[str, float, bool]]
    content: list[StoreContent]


class StoreSearchAnswer(BaseModel):
    """Hits, best first."""

    object: Literal["vector_store.search_results.page"]
    search_query: list[str]
    data: list[StoreHit]
    has_more: bool
    next_page: str | None


class StoreEntry(BaseModel):
    """An index in OpenAI's shape."""

    id: str
    object: Literal["vector_store"]
    created_at: int
    name: str
    status: Literal["completed"]
    usage_bytes: int
    file_counts: dict[str, int]
    last_active_at: int | None = None
    metadata: dict[str, str]


class StoresAnswer(BaseModel):
    """The indexes."""

    object: Literal["list"]
    data: list[StoreEntry]
    first_id: str | None
    last_id: str | None
    has_more: bool
