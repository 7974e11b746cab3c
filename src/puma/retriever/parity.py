"""Whether other programs give a retriever's vectors: sentence-transformers on its folder, and a running server.

A small set of texts and drawn images, with and without an instruction, is embedded by all; the cosines of the vectors
tell. From a server it needs ``POST /v1/embeddings`` with chat ``messages``, as vLLM and ``puma serve`` answer it.
"""

from __future__ import annotations

import base64
import io
import json
import os
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from puma.errors import InputError, ModelError, require
from puma.items.item import Item
from puma.pruning.hub import model_folder
from puma.retriever.model import Retriever
from puma.retriever.photographs.classifier import without_classifier

LEAST = 0.999
"""The cosine below which two programs do not give the same vectors."""
INSTRUCTION = "Find an image that matches this."
TIMEOUT_S = 120.0
"""For one answer: a server may still be loading what the first request needs."""


@dataclass(frozen=True)
class Case:
    """An item of the built-in set.

    Args:
        name: for messages.
        item: its image in memory.
        instruction: before it; None for none.
    """

    name: str
    item: Item
    instruction: str | None = None


@dataclass(frozen=True)
class Parity:
    """How near another program comes.

    Args:
        program: ``sentence-transformers``, or the server's address.
        modality: of the items compared.
        worst: the smallest cosine between its vector of an item and ours.
        case: the name of that item.
    """

    program: str
    modality: str
    worst: float
    case: str

    @property
    def passed(self) -> bool:
        """Whether the vectors count as the same."""
        return self.worst >= LEAST


def built_in() -> list[Case]:
    """Texts, images of several shapes, and both together."""
    texts = {
        "a short text": "a red fox in the snow",
        "one letter": "x",
        "accents, another script, a sign": "F\u00fcchse im Schnee, \u96ea\u306e\u72d0 \U0001f98a",
        "lines and signs": 'first line\n  second: "quoted" <b> 50 % & more',
        "a paragraph": "The fox crossed the field before dawn, looked back once, and was gone among the birches. " * 2,
    }
    images = {
        "a square image": _drawn(96, 96, 0),
        "a wide image": _drawn(320, 120, 1),
        "a tall image": _drawn(60, 200, 2),
    }
    items = [(name, Item(text=text)) for name, text in texts.items()]
    items += [(name, Item(image=image)) for name, image in images.items()]
    items += [(f"{name} with a text", Item(text="but at night", image=image)) for name, image in images.items()]
    plain = [Case(name, item) for name, item in items]
    return plain + [Case(f"{name}, with an instruction", item, INSTRUCTION) for name, item in items]


def compare(retriever: Retriever, model: str | os.PathLike[str], server: str | None = None) -> list[Parity]:
    """Embed the built-in set by all programs, and compare: without tags of photographs, which are PUMA's own.

    Args:
        retriever: of ``model``, in the number type that is to be compared.
        model: its folder or hub name, for sentence-transformers.
        server: address of a running server; None for none.

    Returns:
        The worst cosine of each program and modality.

    Raises:
        DependencyError: sentence-transformers is not installed.
        ModelError: the server gives no vectors, or vectors of another length.
        InputError: ``server`` is no address.
    """
    require("puma doctor --parity", "train", "sentence_transformers")
    cases = built_in()
    with without_classifier(retriever):
        ours = retriever.encode([case.item for case in cases], instruction=[case.instruction for case in cases])
    answers = {}
    if server is not None:  # first: what is wrong with it is known at once
        answers[server] = _from_server(server, cases, retriever.dim)
    answers["sentence-transformers"] = _from_sentence_transformers(retriever, model, cases)
    found = []
    for program, theirs in answers.items():
        cosines = (ours * theirs).sum(1) / np.maximum(np.linalg.norm(theirs, axis=1), 1e-12)
        for modality in dict.fromkeys(case.item.modality for case in cases):
            places = [place for place, case in enumerate(cases) if case.item.modality == modality]
            worst = min(places, key=lambda place: float(cosines[place]))
            found.append(Parity(program, modality, float(cosines[worst]), cases[worst].name))
    return found


def _from_sentence_transformers(
    retriever: Retriever, model: str | os.PathLike[str], cases: Sequence[Case]
) -> np.ndarray:
    from sentence_transformers import SentenceTransformer

    weights = next(retriever.model.parameters())
    other = SentenceTransformer(
        os.fspath(model_folder(model)), device=str(weights.device), model_kwargs={"dtype": weights.dtype}
    )
    rows = []
    for case in cases:
        parts = {"image": case.item.image, "text": case.item.text}
        given: Any = {key: value for key, value in parts.items() if value is not None}
        rows.append(
            other.encode(case.item.text if len(given) == 1 and "text" in given else given, prompt=case.instruction)
        )
    return np.stack(rows).astype(np.float64)


def _from_server(server: str, cases: Sequence[Case], dim: int) -> np.ndarray:
    if not server.startswith(("http://", "https://")):
        raise InputError(f"server {server!r}: give its address, as http://localhost:8000")
    base = server.rstrip("/").removesuffix("/v1")
    models = _asked(server, f"{base}/v1/models").get("data")
    if not isinstance(models, list) or not models or not isinstance(models[0], dict) or "id" not in models[0]:
        raise ModelError(f"server {server}: /v1/models names no model; is this an embedding server?")
    rows = []
    for case in cases:
        body = {"model": models[0]["id"], "messages": _messages(case), "encoding_format": "float"}
        answer = _asked(server, f"{base}/v1/embeddings", body)
        try:
            row = np.array(answer["data"][0]["embedding"], dtype=np.float64)
        except (KeyError, IndexError, TypeError, ValueError):
            raise ModelError(f"server {server}: its answer holds no embedding: {json.dumps(answer)[:200]}") from None
        if row.shape != (dim,):
            raise ModelError(
                f"server {server}: its model {models[0]['id']!r} gives {row.size} numbers, this one {dim}; start it "
                "with this model"
            )
        if not np.isfinite(row).all():
            raise ModelError(f"server {server}: numbers that are not finite, for {case.name}")
        rows.append(row)
    return np.stack(rows)


def _messages(case: Case) -> list[dict[str, Any]]:
    content: list[dict[str, Any]] = []
    if isinstance(case.item.image, Image.Image):
        stream = io.BytesIO()
        case.item.image.save(stream, "PNG")
        uri = "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode("ascii")
        content.append({"type": "image_url", "image_url": {"url": uri}})
    if case.item.text:
        content.append({"type": "text", "text": case.item.text})
    system = [{"role": "system", "content": case.instruction}] if case.instruction else []
    return [*system, {"role": "user", "content": content}]


def _asked(server: str, url: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """The JSON object that a server answers with."""
    headers = {"Content-Type": "application/json"}
    if token := os.environ.get("PUMA_TOKEN"):
        headers["Authorization"] = f"Bearer {token}"
    data = None if body is None else json.dumps(body).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data, headers), timeout=TIMEOUT_S) as answer:
            found = json.loads(answer.read())
    except urllib.error.HTTPError as error:
        with error:
            said = error.read(2000).decode("utf-8", "replace").strip()
        remedy = "; set PUMA_TOKEN to its token" if error.code in (401, 403) else ""
        raise ModelError(f"server {server}: refuses {url} with {error.code}: {said[:300]}{remedy}") from None
    except (OSError, ValueError) as error:  # URLError and timeouts are OSErrors; no JSON is a ValueError
        reason = getattr(error, "reason", None) or error
        raise ModelError(f"server {server}: no usable answer from {url} ({reason}); is it running?") from None
    if not isinstance(found, dict):
        raise ModelError(f"server {server}: {url} answers with no JSON object")
    return found


def _drawn(width: int, height: int, seed: int) -> Image.Image:
    """An image of gradients and shapes, always the same one."""
    across, down = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    image = Image.fromarray(np.stack([across, down, 255 - across], -1).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    shade = [(200, 30, 30), (30, 160, 60), (20, 40, 200)]
    draw.ellipse((width // 5, height // 5, 3 * width // 5, 4 * height // 5), fill=shade[seed % 3])
    draw.rectangle((width // 2, height // 2, width - 4, height - 4), fill=shade[(seed + 1) % 3])
    return image
