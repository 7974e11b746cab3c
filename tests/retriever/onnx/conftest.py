"""A retriever of the tiny base, and its export, made once; and of each family."""

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


@pytest.fixture(scope="module")
def pair(family_base, tmp_path_factory):
    """By a family's name its retriever, and the folder of its export."""

    from puma.retriever.onnx.exporting import export_onnx

    def of(family):
        retriever = Retriever.from_base(family_base(family), layers=2, device="cpu", dtype="fp32")

        def build(out):
            made = export_onnx(retriever, out, source="somewhere/else")
            assert made.images
            assert min(made.text_cosine, made.image_cosine) > 0.99999

        return retriever, built_once(tmp_path_factory, f"onnx-{family}", build)

    return of
