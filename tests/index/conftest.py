"""One suite for all engines: a test that takes ``where`` runs on each of them."""

from __future__ import annotations

import pytest

from support.engines import ENGINES, S3_ENVIRONMENT, placed, running_milvus, running_s3


@pytest.fixture(scope="session")
def milvus_server(tmp_path_factory):
    with running_milvus(tmp_path_factory.mktemp("milvus")) as server:
        yield server


@pytest.fixture(scope="session")
def s3_server():
    with running_s3() as endpoint, pytest.MonkeyPatch.context() as patch:
        for name, value in (S3_ENVIRONMENT | {"AWS_ENDPOINT_URL": endpoint}).items():
            patch.setenv(name, value)
        yield endpoint


@pytest.fixture(params=ENGINES)
def where(request, tmp_path):
    """Makes addresses of an engine."""
    return placed(request, request.param, tmp_path)
