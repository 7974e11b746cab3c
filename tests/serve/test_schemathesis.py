"""The OpenAPI document against the service, by schemathesis: whatever is sent, fitting the document or not, the answer
is no fault of the service's own, and of the shape that is promised for its status.

In the process, with the toy encoder. Every operation the document names is called, new ones too.
Half of the cases have names, ids and images put in that are really there: of themselves they would hardly occur.
"""

import base64
import io
from collections.abc import Iterator
from typing import Any

import hypothesis
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase
from hypothesis import strategies as st
from PIL import Image
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import Failure, FailureGroup
from schemathesis.generation import GenerationMode
from schemathesis.python import asgi
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from puma.search import Searcher
from puma.serve import ServeSettings, create_app
from support.encoders import ToyEncoder

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
FEW, MANY = 10, 150


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    encoder = ToyEncoder()
    folder = tmp_path_factory.mktemp("indexes")
    first, second = (Searcher(encoder, folder / f"{name}.index") for name in ("first", "second"))
    for searcher in (first, second):
        searcher.add(
            [{"text": "a red square"}, {"text": "green words", "image": image("green")}, {"image": image("red")}],
            ids=["0", "a", "b"],
            payloads=[{"brand": "b3", "price": 3.5, "new": True}, None, {"brand": "b4"}],
        )
    return create_app({"first": first, "second": second}, settings=ServeSettings(hosts=(asgi.HOST,), max_wait_ms=0))


def image(colour: str) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(stream, "PNG")
    return stream.getvalue()


URI = "data:image/png;base64," + base64.b64encode(image("blue")).decode()
THERE: dict[str, Any] = {
    "index": "second",
    "store": "first",
    "model": "puma-mini",
    "item": "a",
    "id": "b",
    "after": "0",
    "image": URI,
    "images": [URI],
    "url": URI,
}


def there(value: Any, names: dict[str, Any]) -> Any:
    """The same with what is really there under the names it is requested by."""
    if isinstance(value, dict):
        return {
            name: names[name] if name in names and not isinstance(part, dict) else there(part, names)
            for name, part in value.items()
        }
    return [there(part, names) for part in value] if isinstance(value, list) else value


@pytest.fixture(scope="module")
def client(app) -> Iterator[asgi.ASGIClient]:
    async def unended(scope, receive, send):
        # Between tests schemathesis ends what it started, and a service that was ended does not begin again.
        if scope["type"] == "lifespan":
            raise RuntimeError("no lifespan here")
        await app(scope, receive, send)

    with asgi.get_client(unended) as found:
        yield found
    app.state.service.close()


def shorter(part: Any) -> Any:
    """The document with smaller limits on lengths: what is too long has to be made, and Hypothesis makes no more."""
    if isinstance(part, dict):
        return {
            name: min(value, 1000) if name in ("maxLength", "maxItems") and isinstance(value, int) else shorter(value)
            for name, value in part.items()
        }
    return [shorter(value) for value in part] if isinstance(part, list) else part


@pytest.fixture(scope="module")
def operations(client) -> list[schemathesis.APIOperation]:
    schema = schemathesis.openapi.from_dict(shorter(client.get("/openapi.json").json()))
    return [found.ok() for found in schema.get_all_operations()]


def faults_of(
    operation, client, mode: GenerationMode, examples: int, seed: int = 0, good: set[str] | None = None
) -> list[str]:
    """What went wrong in so many cases of one operation, each kind once, with the request that shows it. Operations
    that were answered well at least once go into ``good``."""
    found: dict[str, str] = {}

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=[Phase.explicit, Phase.generate],  # all kinds of fault in one go, rather than the smallest of one
        suppress_health_check=list(HealthCheck),
    )
    @hypothesis.given(case=operation.as_strategy(generation_mode=mode), help_it=st.booleans())
    def ask(case, help_it):
        if help_it:
            names = dict(THERE)
            if case.method == "DELETE":
                names["id"] = "0"  # the others are still needed
            if case.media_type == "multipart/form-data":
                names["image"] = image("blue")
            case.path_parameters, case.query = there(case.path_parameters, names), there(case.query, names)
            case.body = there(case.body, names)
        response = case.call(base_url=f"http://{asgi.HOST}", session=client)
        if good is not None and response.status_code < 300:
            good.add(operation.label)
        try:
            case.validate_response(response, checks=CHECKS)
        except (Failure, FailureGroup) as failure:
            for one in getattr(failure, "exceptions", [failure]):
                line = f"{operation.label} {response.status_code} {type(one).__name__}: {getattr(one, 'message', one)}"
                found.setdefault(line, f"{line}\n    {case.as_curl_command()[:600]}\n    {response.text[:300]}")

    try:
        ask()
    except hypothesis.errors.Unsatisfiable:  # nothing can be sent wrongly where nothing is sent
        assert mode is GenerationMode.NEGATIVE, operation.label
    return list(found.values())


def all_faults(operations, client, examples: int, seed: int = 0) -> tuple[str, set[str]]:
    """The faults of all operations, and the operations that never answered well."""
    good: set[str] = set()
    faults = [
        fault
        for operation in operations
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
        for fault in faults_of(operation, client, mode, examples, seed, good)
    ]
    return "\n".join(faults), {operation.label for operation in operations} - good


def test_the_document_names_what_is_served(operations):
    labels = {operation.label for operation in operations}
    assert {
        "POST /search",
        "POST /v1/embeddings",
        "POST /v2/embed",
        "GET /items",
        "POST /items",
        "GET /healthz",
    } <= labels


def test_no_answer_is_a_fault_or_of_another_shape(operations, client):
    assert all_faults(operations, client, FEW)[0] == ""


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 4))
def test_many_cases_each(operations, client, seed):
    faults, never_well = all_faults(operations, client, MANY, seed)
    assert faults == ""
    # The one item to be deleted may be gone since an earlier seed; everything else must have been reached.
    assert never_well <= {"DELETE /item"}


def test_a_fault_would_be_seen(operations):
    """The checks themselves: a service that answers 500, and one whose answer has another shape."""

    def answering(status: int, body: bytes):
        async def app(scope, receive, send):
            if scope["type"] == "lifespan":
                raise RuntimeError("no lifespan here")
            headers = [(b"content-type", b"application/json")]
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": body})

        return app

    operation = next(found for found in operations if found.label == "GET /indexes")
    for status, body, kind in ((500, b"{}", "ServerError"), (200, b"[]", "JsonSchemaError"), (418, b"{}", "Undefined")):
        with asgi.get_client(answering(status, body)) as client:
            faults = faults_of(operation, client, GenerationMode.POSITIVE, 2)
        assert kind in "".join(faults)
