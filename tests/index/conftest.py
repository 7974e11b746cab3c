"""One suite for all engines: a test that takes ``where`` runs on each of them."""

from __future__ import annotations

import pytest

from support.engines import ENGINES, placed, running_milvus


@pytest.fixture(scope="session")
def milvus_server(tmp_path_factory):
    with running_milvus(tmp_path_factory.mktemp("milvus")) as server:
        yield server


@pytest.fixture(params=ENGINES)
def where(request, tmp_path):
    """Makes addresses of an engine."""
    return placed(request, request.param, tmp_path)
