"""A retriever of the tiny base, and its export, made once."""

import pytest

from puma.retriever.model import Retriever
from support.exports import exported
from support.shared import built_once


@pytest.fixture(scope="module")
def retriever(base):
    return Retriever.from_base(base, layers=2, prompt="short", device="cpu", dtype="fp32")


@pytest.fixture(scope="module")
def folder(base, tmp_path_factory):
    return built_once(tmp_path_factory, "onnx-fp32", lambda out: exported(base, out))
