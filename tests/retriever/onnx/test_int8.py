"""Exports in int8: smaller, near the model's vectors, and what must stay in fp32 does."""

import numpy as np
import pytest

from puma.retriever.known import describe
from puma.retriever.model import Retriever
from puma.retriever.onnx.exporting import export_onnx
from puma.retriever.onnx.layout import TEXT_GRAPH, VISION_GRAPH
from support import tiny
from support.exports import exported, graphs_of, needs_onnx
from support.plain import image
from support.shared import built_once

needs_onnx()

LONG = "a fox and a heart and a cat. " * 200
MIXED = ["a red fox", "x", {"image": image(0)}, {"image": image(1, (200, 90)), "text": "at night"}, LONG]


@pytest.fixture(scope="module")
def small(base, folder, tmp_path_factory):
    def build(out):
        with graphs_of(folder):
            exported(base, out, int8=True)

    return built_once(tmp_path_factory, "onnx-int8", build)


def test_int8_is_small_near_and_never_mixed_with_fp32(retriever, folder, small):
    light = Retriever.from_pretrained(small)
    found, wanted = light.encode(MIXED), retriever.encode(MIXED)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    cosines = (found * wanted).sum(1)
    assert (cosines > 0.95).all()
    assert (cosines < 1 - 1e-6).any()
    assert light.fingerprint not in (retriever.fingerprint, "")
    assert describe(small).size < describe(folder).size


def test_int8_leaves_what_does_not_bear_it(small, folder):
    """The projections back from the MLP's width, and the vision graph."""
    import onnx

    def matrices(graph):
        read = onnx.load(str(graph)).graph
        return [tuple(w.dims) for w in read.initializer if w.data_type == onnx.TensorProto.FLOAT and len(w.dims) == 2]

    wide, narrow = tiny.TEXT["intermediate_size"], tiny.HIDDEN
    assert matrices(small / TEXT_GRAPH) == [(wide, narrow)] * 2
    assert len(matrices(folder / TEXT_GRAPH)) == 2 * 7 + 1  # of two layers, and the table of embeddings
    assert (small / VISION_GRAPH).read_bytes() == (folder / VISION_GRAPH).read_bytes()


@pytest.mark.slow
def test_int8_weights_of_a_large_model_lie_beside_the_graph(retriever, small, tmp_path, monkeypatch):
    monkeypatch.setattr("puma.retriever.onnx.quantising.MOST_IN_ONE_FILE", 0)
    export_onnx(retriever, tmp_path / "out", source="here", int8=True)
    assert (tmp_path / "out" / f"{TEXT_GRAPH}.data").is_file()
    assert sorted(file.name for file in (tmp_path / "out").iterdir() if file.name != f"{TEXT_GRAPH}.data") == sorted(
        file.name for file in small.iterdir()
    )
    texts = ["a red fox", LONG]
    again = Retriever.from_pretrained(tmp_path / "out").encode(texts)
    np.testing.assert_allclose(again, Retriever.from_pretrained(small).encode(texts), atol=1e-6)


@pytest.mark.slow
def test_int8_of_a_family_with_patches(family_base, tmp_path):
    retriever = Retriever.from_base(family_base("qwen2_vl"), layers=2, device="cpu", dtype="fp32")
    made = export_onnx(retriever, tmp_path / "out", source="here", int8=True)
    assert (made.precision, made.images) == ("int8", True)
    found = Retriever.from_pretrained(tmp_path / "out").encode(MIXED)
    cosines = (found * retriever.encode(MIXED)).sum(1)  # of random weights, which one scale suits badly
    assert cosines.min() > 0.5
    assert cosines.max() > 0.95
