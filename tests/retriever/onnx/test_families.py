"""Exports of every family: the model's own vectors for texts and for images of any shape, alone and in any company."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from puma.errors import ImageError, ModelError
from puma.retriever.known import describe
from puma.retriever.model import Retriever
from puma.retriever.onnx.exporting import export_onnx
from puma.retriever.onnx.layout import EXPORT_FILE, FORMAT, VISION_GRAPH
from puma.retriever.onnx.vision_graphs import SIDES
from support import tiny
from support.exports import lightly, needs_onnx
from support.plain import image

needs_onnx()

LONG = "a fox and a heart and a cat. " * 200
ASKED = "Find a picture that matches this, summarize the above image in one word. " * 3
MIXED = [
    "a red fox",
    "x",
    {"image": image(0)},
    {"image": image(1, (200, 90)), "text": "at night"},
    "[RET] <image> <|image_pad|> <|endoftext|> Füchse, 狐 and 🦊",
    LONG,
    {"text": "blue", "image": image(2, (3, 900))},
    {"image": image(3, (60, 64)), "text": "a cat " * 20},
    {"image": image(4, (17, 31))},
    {"image": image(5, (50, 32))},
    {"image": image(6, (200, 90))},
]


def some(names, first):
    """Families, those that are not among the first ones only in slow runs."""
    return [pytest.param(name, marks=[] if name in first else [pytest.mark.slow]) for name in names]


SEEING = some([name for name in SIDES if name != "fast_vlm"], ("qwen2_vl",))


@pytest.mark.parametrize("family", SEEING)
def test_the_vectors_are_the_models(family, pair):
    retriever, folder = pair(family)
    light = Retriever.from_pretrained(folder)
    for instruction in (None, "Find a picture.", ASKED, ASKED, [None, "Find <image>.", LONG, *[None, ASKED] * 4]):
        counts, wanted_counts = np.zeros(len(MIXED), int), np.zeros(len(MIXED), int)
        wanted = retriever.encode(MIXED, instruction, tokens=wanted_counts)
        for size in (1, 3, 64):
            found = light.encode(MIXED, instruction, size, tokens=counts)
            assert (found * wanted).sum(1).min() > 0.99999
            assert np.abs(found - wanted).max() < 1e-5
            np.testing.assert_array_equal(counts, wanted_counts)
    alone = Retriever.from_pretrained(folder)
    for item, row in zip(MIXED, retriever.encode(MIXED, ASKED), strict=True):
        assert np.abs(alone.encode(item, ASKED)[0] - row).max() < 1e-5


SIDES_OF = st.tuples(st.integers(1, 120), st.integers(1, 120)) | st.tuples(st.integers(200, 700), st.integers(1, 4))
ITEMS = st.tuples(st.sampled_from([None, "a red fox", "x", "a cat " * 30]), st.none() | SIDES_OF, st.booleans())


@pytest.mark.parametrize("family", some(["qwen2_vl", "qwen2_5_vl", "smolvlm", "qwen3_vl"], ("qwen2_vl",)))
@given(drawn=st.lists(ITEMS, min_size=1, max_size=6), size=st.integers(1, 6))
@settings(max_examples=12, deadline=None)
def test_any_shapes_in_any_batch(family, pair, drawn, size):
    retriever, folder = pair(family)
    light = _loaded(folder)
    items = []
    for place, (text, sides, upright) in enumerate(drawn):
        sides = sides[::-1] if sides and upright else sides
        whole = {"text": text, "image": image(place, sides)} if sides else {"text": text or "blue"}
        items.append({name: value for name, value in whole.items() if value is not None})
    assert np.abs(light.encode(items, batch_size=size) - retriever.encode(items)).max() < 1e-5


_LOADED = {}


def _loaded(folder):
    if folder not in _LOADED:
        _LOADED[folder] = Retriever.from_pretrained(folder)
    return _LOADED[folder]


@pytest.mark.parametrize("family", some(["qwen2_vl", "smolvlm"], ("qwen2_vl",)))
def test_images_are_embedded_where_torch_cannot_be_imported(family, pair, tmp_path):
    retriever, folder = pair(family)
    (tmp_path / "texts.txt").write_text("a red fox\nx\n", encoding="utf-8")
    for name, size in (("red.png", (50, 32)), ("wide.png", (333, 41))):
        image(size[0], size).save(tmp_path / name)
    done = lightly("embed", "texts.txt", "red.png", "wide.png", "--out", "v.npz", "--model", folder, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    wanted = retriever.encode(["a red fox", "x", *({"image": tmp_path / name} for name in ("red.png", "wide.png"))])
    with np.load(tmp_path / "v.npz") as stored:
        assert str(stored["model"]) == retriever.fingerprint
        np.testing.assert_allclose(stored["vectors"], wanted, atol=1e-5)


def test_a_folder_with_patches_has_a_format_of_its_own(pair):
    _, folder = pair("qwen2_vl")
    assert describe(folder).layers == 2
    assert json.loads((folder / EXPORT_FILE).read_text())["format"] == FORMAT == 2


def test_an_image_that_cannot_be_opened_is_named(pair, tmp_path):
    light = Retriever.from_pretrained(pair("qwen2_vl")[1])
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(ImageError, match=r"broken\.png"):
        light.encode(["a fox", {"image": tmp_path / "broken.png"}])
    with pytest.raises(ImageError, match=r"absent\.png"):
        light.encode([{"image": tmp_path / "absent.png"}])


@pytest.mark.slow
def test_another_backends_images_are_kept(family_base, tmp_path):
    """A retriever whose images go through Pillow has an export whose images do."""
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    retriever = Retriever.from_base(family_base("qwen2_vl"), layers=2, device="cpu", dtype="fp32")
    own = retriever.processor.image_processor
    assert type(own).__name__ == "Qwen2VLImageProcessor"
    retriever.processor.image_processor = Qwen2VLImageProcessorPil(
        patch_size=4, merge_size=2, size={"shortest_edge": 4 * 64, "longest_edge": 64 * 64}
    )
    export_onnx(retriever, tmp_path / "out", source="here")
    drawn = np.random.default_rng(0).integers(0, 256, (150, 170, 3), dtype=np.uint8)  # where the backends differ most
    found = Retriever.from_pretrained(tmp_path / "out").encode([Image.fromarray(drawn)])
    assert np.abs(found - retriever.encode([Image.fromarray(drawn)])).max() < 1e-5
    retriever.processor.image_processor = own
    assert np.abs(found - retriever.encode([Image.fromarray(drawn)])).max() > 1e-5


def test_a_family_without_a_vision_graph_is_refused_by_name(family_base, tmp_path):
    assert set(tiny.FAMILIES) - set(SIDES) == {"gemma3"}
    retriever = Retriever.from_base(family_base("gemma3"), layers=2, device="cpu", dtype="fp32")
    with pytest.raises(ModelError, match=r"^base gemma3: its vision side cannot be exported.*qwen2_vl.*--text-only"):
        export_onnx(retriever, tmp_path / "out", source="here")
    assert list(tmp_path.iterdir()) == []


def test_an_image_processor_of_another_kind_is_refused_and_leaves_nothing(family_base, tmp_path):
    retriever = Retriever.from_base(family_base("qwen2_vl"), layers=2, device="cpu", dtype="fp32")
    retriever.processor.image_processor.do_normalize = False
    with pytest.raises(ModelError, match=r"^image processor Qwen2VLImageProcessor: .*--text-only"):
        export_onnx(retriever, tmp_path / "out", source="here")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("family", some(tiny.FAMILIES, ()))
def test_the_text_side_of_every_family(family, family_base, tmp_path):
    retriever = Retriever.from_base(family_base(family), layers=2, device="cpu", dtype="fp32")
    made = export_onnx(retriever, tmp_path / "out", source="somewhere/else", text_only=True)
    assert (made.images, made.image_cosine) == (False, None)
    assert not (tmp_path / "out" / VISION_GRAPH).exists()
    assert json.loads((tmp_path / "out" / EXPORT_FILE).read_text())["format"] == 1
    light = Retriever.from_pretrained(tmp_path / "out")
    texts = ["a red fox", "x", LONG, "[RET] <image> 狐", "one, two, three " * 12]
    for instruction in ("Find.", ASKED, ASKED):
        found, wanted = light.encode(texts, instruction), retriever.encode(texts, instruction)
        assert (found * wanted).sum(1).min() > 0.9999
        assert np.abs(found - wanted).max() < 1e-4
    with pytest.raises(ImageError, match=rf"only the text side of this {family} model .*somewhere/else"):
        light.encode([image(0)])
