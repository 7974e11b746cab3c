"""Reranking in Cohere's and Jina's shape: requests and answers."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Union

from pydantic import BaseModel, Field, Tag

from puma.serve.schemas import WHOLE, Instruction, Lenient, ModelName, Text, by_kind
from puma.serve.schemas_clients import MAX_INPUTS, TextOrImage

TextOrObject = Annotated[
    Union[Annotated[Text, Tag("string")], Annotated[TextOrImage, Tag("object")]],
    by_kind("give a text, or an object with text and image"),
]
Most = Annotated[int, Field(ge=1, le=MAX_INPUTS), WHOLE]


class RerankRequest(Lenient):
    """Documents to be ordered by how well they fit a query; texts, pictures, or both."""

    model: ModelName | None = None
    query: TextOrObject
    documents: Annotated[list[TextOrObject], Field(min_length=1, max_length=MAX_INPUTS)]
    top_n: Most | None = Field(None, description="Results wanted; all of them if left out.")
    top_k: Most | None = Field(None, description="Voyage's name of `top_n`.")
    return_documents: bool | None = Field(None, description="Whether the texts come back with the results.")
    instruction: Instruction | None = Field(
        None, description="What is looked for, in words; an empty string for none. By default one that fits."
    )
    truncate: bool | None = Field(None, description="false: refuse texts that are too long. By default they are cut.")
    truncation: bool | None = Field(None, description="Voyage's name of `truncate`.")
    truncate_prompt_tokens: Annotated[int, Field(ge=-1, le=-1)] | None = None


class Ranked(BaseModel):
    """One document, by its place in the request."""

    index: int
    relevance_score: float = Field(description="Cosine similarity with the query.")
    document: dict[str, str] | None = None


class RerankUsage(BaseModel):
    """Tokens that the model read; 0 where it does not tell."""

    prompt_tokens: int
    total_tokens: int
    truncated_inputs: list[int] = Field(description="Places of the documents that were too long to be read whole.")


class RerankAnswer(BaseModel):
    """Documents, best first."""

    id: str
    object: Literal["list"]
    model: str
    results: list[Ranked]
    usage: RerankUsage
    meta: dict[str, Any]
