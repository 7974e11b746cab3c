"""``/v1/embeddings``: OpenAI's shape, with vLLM's ``messages`` and Jina's images."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Body, Request
from starlette.responses import Response

from puma.errors import InputError
from puma.items.dimensions import checked_dimensions, shortened
from puma.items.item import Item
from puma.serve.formats import (
    as_base64,
    as_floats,
    item_of_input,
    item_of_parts,
    item_of_tokens,
    model_name,
    query_instruction,
)
from puma.serve.responses import json_answer
from puma.serve.schemas import ERRORS
from puma.serve.schemas_clients import EmbeddingsAnswer, EmbeddingsRequest, Inputs, Message, Part, TextOrImage, TextPart
from puma.serve.served_model import ServedModel
from puma.serve.service import Service, service
from puma.serve.settings import ServeSettings

router = APIRouter(tags=["embeddings"], responses=ERRORS)

_RED_SQUARE = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAQAAAAECAIAAAAmkwkpAAAAFElEQVR42mO8IyfHAANMDEgANwcAOHIBID2Vy4IA"
    "AAAASUVORK5CYII="
)
_EXAMPLES: dict[str, Any] = {
    "texts": {"summary": "Texts (OpenAI)", "value": {"input": ["a red fox in snow", "a quiet lake"]}},
    "messages": {
        "summary": "A picture with a text (vLLM)",
        "value": {
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "image_url", "image_url": {"url": _RED_SQUARE}},
                        {"type": "text", "text": "but blue"},
                    ],
                }
            ]
        },
    },
    "pictures": {
        "summary": "A text and a picture, apart (Jina)",
        "value": {"input": [{"text": "a red square"}, {"image": _RED_SQUARE}], "encoding_format": "base64"},
    },
}


@router.post("/embeddings", include_in_schema=False)
@router.post("/v1/embeddings", response_model=EmbeddingsAnswer, summary="Embed texts and pictures")
async def embeddings(
    request: Request, body: Annotated[EmbeddingsRequest, Body(openapi_examples=_EXAMPLES)]
) -> Response:
    own = service(request)
    name, model = model_name(own, body.model), own.main
    instruction = body.instruction
    if body.messages is not None:
        if body.input is not None:
            raise InputError("input and messages: give one of them")
        item, system_text = await own.blocking(_conversation, body.messages, own.settings)
        items = [item]
        instruction = system_text if instruction is None else instruction
    else:
        items = await _items(body, own, model)
    as_query = {body.task, body.input_type, body.prompt_name} & {"retrieval.query", "search_query", "query"}
    if instruction is not None:
        instructions: list[str | None] = [instruction or None] * len(items)
    elif as_query:
        instructions = [query_instruction(model, item) for item in items]
    else:
        instructions = [None] * len(items)
    field = "dimensions" if body.dimensions else "output_dimension"
    dimensions = checked_dimensions(model.encoder, body.dimensions or body.output_dimension or model.encoder.dim, field)
    names = ["messages"] if body.messages is not None else _names(body.input, len(items))
    truncate = body.truncate is not False and body.truncation is not False
    embedded = await model.embed_counted(items, instructions, names=names, truncate=truncate)
    vectors = shortened(embedded.vectors, dimensions)
    as_text = "base64" in (body.encoding_format, body.embedding_type)
    rows: list[Any] = as_base64(vectors) if as_text else as_floats(vectors)
    read = int(embedded.tokens.sum())
    return json_answer(
        {
            "object": "list",
            "data": [{"object": "embedding", "index": place, "embedding": row} for place, row in enumerate(rows)],
            "model": name,
            "usage": {"prompt_tokens": read, "total_tokens": read, "truncated_inputs": embedded.cut},
        },
        embedded.cut,
    )


async def _items(body: EmbeddingsRequest, own: Service, model: ServedModel) -> list[Item]:
    given = body.input
    if given is None:
        raise InputError("input: give a text or a list of texts (or messages, in vLLM's shape)")
    inputs = _listed(given)
    if len(inputs) > own.settings.max_inputs:
        raise InputError(f"input: at most {own.settings.max_inputs} a request, got {len(inputs)}")
    return await own.blocking(_read_inputs, model, inputs, _names(given, len(inputs)), body.modality)


def _listed(given: Inputs) -> list[str | TextOrImage | list[int]]:
    """The inputs one by one; a list of numbers is one."""
    if isinstance(given, list) and not isinstance(given[0], int):
        return given
    return [given]


def _names(given: Inputs | None, count: int) -> list[str]:
    """What messages call the inputs, as the client wrote them."""
    many = isinstance(given, list) and not isinstance(given[0], int)
    return [f"input[{place}]" for place in range(count)] if many else ["input"]


def _read_inputs(
    model: ServedModel, inputs: list[str | TextOrImage | list[int]], names: list[str], modality: str | None
) -> list[Item]:
    items = []
    for one, name in zip(inputs, names, strict=True):
        if isinstance(one, list):
            items.append(item_of_tokens(model, one, name))
        else:
            items.append(item_of_input(one, model.settings, name, modality))
        if modality is not None and items[-1].modality != modality:
            raise InputError(f"{name}: is of modality {items[-1].modality!r}, and modality says {modality!r}")
    return items


def _conversation(messages: list[Message], limits: ServeSettings) -> tuple[Item, str | None]:
    """What the user says and shows as one item, and what the system says as its instruction."""
    said: list[str] = []
    parts: list[Part] = []
    for place, message in enumerate(messages):
        content = message.content
        own = [TextPart(type="text", text=content)] if isinstance(content, str) else content
        if message.role == "user":
            parts += own
            continue
        if not all(isinstance(part, TextPart) for part in own):
            raise InputError(f"messages[{place}]: a {message.role} message is an instruction and takes text only")
        said += [part.text for part in own if isinstance(part, TextPart)]
    if not parts:
        raise InputError("messages: a user message is needed: its text and picture are what is embedded")
    item, _ = item_of_parts(parts, limits, "messages")
    return item, "\n".join(said) or None
