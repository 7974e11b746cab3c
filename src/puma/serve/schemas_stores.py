"""``/v1/vector_stores`` in OpenAI's shape: requests and answers."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Union

from pydantic import BaseModel, ConfigDict, Field, Tag

from puma.serve.schemas import (
    CONTENT_KEYS,
    WHOLE,
    Filter,
    Image,
    Instruction,
    Lenient,
    MinScore,
    NullIs,
    Text,
    by_kind,
    one_of,
)

MAX_STORE_HITS = 50
MAX_QUERIES = 16


class RankingOptions(Lenient):
    """OpenAI's; the ranker's name is let pass, since there is one."""

    ranker: Annotated[str, Field(max_length=255)] | None = None
    score_threshold: MinScore | None = Field(None, description="Hits of a smaller score are left out.")


Queries = Annotated[
    Union[
        Annotated[Text, Tag("string")], Annotated[list[Text], Field(min_length=1, max_length=MAX_QUERIES), Tag("list")]
    ],
    by_kind("give a text or a list of texts"),
]


class StoreSearchRequest(Lenient):
    """OpenAI's search of a vector store, which here is an index."""

    model_config = ConfigDict(json_schema_extra=one_of("query", "image"))
    meant: ClassVar[frozenset[str]] = CONTENT_KEYS | {
        "filter", "where", "modality", "k", "limit", "top_k", "minus", "item", "min_score", "score_threshold"
    }  # fmt: skip

    query: Queries | None = Field(
        None, description="A text, or several, whose results are joined. May be left out if there is an `image`."
    )
    image: Image | None = Field(None, description="Ours: a picture to search with, by the clients' `extra_body`.")
    filters: Filter | None = Field(None, description="Conditions on attributes, and on `modality`.")
    max_num_results: Annotated[int, Field(ge=1, le=MAX_STORE_HITS), WHOLE, NullIs(10)] = 10
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
