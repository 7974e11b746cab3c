"""The OpenAPI document tells the truth, its examples work, and the page that shows it needs no other address."""

import re

import pytest
from fastapi.testclient import TestClient

from puma.serve import ServeSettings, create_app
from puma.serve.routes import docs
from support.served import served, toy_searcher

OURS = ("/search", "/items", "/item", "/indexes", "/thumbnail", "/original", "/v1/", "/v2/")


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    app = create_app(toy_searcher(tmp_path_factory.mktemp("index")))
    with TestClient(app, base_url="http://localhost") as client:
        yield client


@pytest.fixture(scope="module")
def document(client):
    return client.get("/openapi.json").json()


def operations(document):
    for path, methods in document["paths"].items():
        if path.startswith(OURS):
            for method, operation in methods.items():
                yield method, path, operation


def test_every_route_documents_its_errors_in_their_real_shape(document):
    found = list(operations(document))
    assert len(found) == 18
    for method, path, operation in found:
        for status in ("400", "401", "403", "404", "413", "415", "422", "429", "503"):
            schema = operation["responses"][status]["content"]["application/json"]["schema"]
            assert schema == {"$ref": "#/components/schemas/ErrorAnswer"}, (method, path, status)
        assert operation["summary"]
    assert "HTTPValidationError" not in document["components"]["schemas"]


def test_every_example_in_the_document_works(client, document):
    tried = 0
    for method, path, operation in operations(document):
        body = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
        for name, example in body.get("examples", {}).items():
            answer = client.request(method, path.replace("{store}", "my"), json=example["value"])
            assert answer.status_code == 200, (path, name, answer.text)
            tried += 1
        assert "requestBody" not in operation or body.get("examples") or path == "/search/upload"
    assert tried >= 8


def test_every_number_has_bounds_and_every_list_an_end(document):
    def walk(schema, place):
        if schema.get("type") == "integer" and "enum" not in schema:
            assert {"minimum", "maximum"} <= set(schema), place
        if schema.get("type") == "array":
            assert "maxItems" in schema, place
        for key, value in schema.items():
            if key in ("examples", "default"):
                continue
            for n, inner in enumerate(value if isinstance(value, list) else [value]):
                if isinstance(inner, dict):
                    walk(inner, f"{place}.{key}[{n}]")

    schemas = document["components"]["schemas"]
    for name in ("SearchRequest", "AddRequest", "NewItem", "EmbeddingsRequest", "CohereRequest", "StoreSearchRequest"):
        walk(schemas[name], name)
    for _, path, operation in operations(document):
        for parameter in operation.get("parameters", ()):
            walk(parameter["schema"], f"{path} {parameter['name']}")


def test_the_page_has_no_script_inside_and_no_other_address(client):
    answer = client.get("/docs")
    assert answer.headers["content-type"].startswith("text/html")
    policy = answer.headers["content-security-policy"]
    assert "script-src 'self';" in policy
    assert "default-src 'none'" in policy
    assert "//" not in re.sub(r"<!.*?>", "", answer.text)
    assert not re.search(r"<script(?![^>]*src=)|\son\w+=", answer.text)
    for address in re.findall(r'(?:src|href)="(docs/[^"]+)"', answer.text):
        found = client.get(f"/{address}")
        assert found.status_code == 200
        assert len(found.content) > 50
        tag = found.headers["etag"]
        assert client.get(f"/{address}", headers={"If-None-Match": tag}).status_code == 304


@pytest.mark.parametrize("name", ["start.map", "..%2f..%2fpages.py", "redoc.standalone.js", "%2e%2e"])
def test_no_other_file_can_be_had(client, name):
    assert client.get(f"/docs/{name}").status_code == 404


def test_a_missing_package_is_named(client, monkeypatch):
    docs._file.cache_clear()
    monkeypatch.setattr(docs, "find_spec", lambda name: None)
    assert client.get("/docs/swagger-ui.css").status_code == 503


def test_the_page_works_in_a_real_browser_under_its_policy(tmp_path):
    pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    from support.browsing import Visitor, launched

    with served({"my": toy_searcher(tmp_path)}) as address, launched() as browser, Visitor(browser, address) as visitor:
        page = visitor.page
        page.goto(f"{address}/docs")
        page.wait_for_selector(".opblock")
        block = page.locator("#operations-search-search_search_post")
        for button in (".opblock-summary-control", "button.try-out__btn", "button.execute"):
            block.locator(button).click()
        block.locator(".live-responses-table .response .response-col_status", has_text="200").wait_for()


@pytest.mark.parametrize("token", [None, "open-sesame-and-more"])
def test_the_document_tells_of_the_token_where_there_is_one(token, tmp_path):
    app = create_app(toy_searcher(tmp_path / "toys.index"), settings=ServeSettings(token=token))
    document = app.openapi()
    assert ("securitySchemes" in document["components"]) == (token is not None)
    assert ("security" in document["paths"]["/search"]["post"]) == (token is not None)
