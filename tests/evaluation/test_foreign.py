"""Somebody else's sentence-transformers models, real ones with random weights: texts only, and texts with images."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from puma.cli import app as cli
from puma.errors import DownloadError, ImageError, InputError, ModelError
from puma.evaluation.foreign import ForeignEncoder, load_foreign
from puma.evaluation.results import read_results
from puma.items import Item
from puma.retriever.model import Retriever
from support import benchmarks

WORDS = "find a picture that matches this red green blue thing fox query document what . , : 0 1 2 3 4 5"
SENTENCES = ["red thing", "a green fox , 3 of them", "blue", "what matches this red fox ?"]


@pytest.fixture(scope="module")
def text_model(tmp_path_factory):
    """A BERT of two layers with mean pooling and no normalisation, as published text models are."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling
    from transformers import BertConfig, BertModel, BertTokenizerFast

    bert = tmp_path_factory.mktemp("bert") / "bert"
    bert.mkdir()
    (bert / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS.split()]))
    BertTokenizerFast(vocab=str(bert / "vocab.txt"), model_max_length=64).save_pretrained(bert)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=5 + len(WORDS.split()),
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=48,
        max_position_embeddings=64,
    )
    BertModel(config).save_pretrained(bert)
    prompts = {"query": "query : ", "document": "document : ", "other": "find "}
    model = SentenceTransformer(modules=[Transformer(str(bert)), Pooling(24)], prompts=prompts, device="cpu")
    folder = bert.with_name("text-model")
    model.save_pretrained(str(folder), create_model_card=False)
    return folder


@pytest.fixture(scope="module")
def puma_folder(base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("puma") / "model"
    retriever = Retriever.from_base(base, layers=2, prompt="short", device="cpu")
    retriever.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return benchmarks.published(tmp_path_factory.mktemp("foreign") / "M-BEIR")


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_a_text_model_gives_its_own_vectors_of_unit_length(text_model):
    from sentence_transformers import SentenceTransformer

    plain = SentenceTransformer(str(text_model), device="cpu")
    encoder = load_foreign(str(text_model), device="cpu")
    assert (encoder.dim, encoder.modalities, encoder.name) == (24, ("text",), "text-model")
    items = [Item(text=text) for text in SENTENCES]
    for found, expected in (
        (encoder.encode(items), plain.encode_document(SENTENCES)),
        (encoder.encode(items, instruction="find a picture "), plain.encode(SENTENCES, prompt="find a picture ")),
    ):
        assert found.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
        np.testing.assert_allclose(found, unit(expected), atol=1e-5)
    assert np.abs(np.linalg.norm(plain.encode(SENTENCES), axis=1) - 1).max() > 0.1
    assert encoder.encode([]).shape == (0, 24)
    with pytest.raises(InputError, match="does not embed image items, only text"):
        encoder.encode([Item(image=Image.new("RGB", (8, 8)))])


def test_a_query_may_take_the_models_own_prompt(text_model):
    plain = load_foreign(str(text_model), device="cpu")
    own = load_foreign(str(text_model), query_prompt="other", device="cpu")
    items = [Item(text=text) for text in SENTENCES]
    expected = own.model.encode(SENTENCES, prompt="find ")
    np.testing.assert_allclose(own.encode(items, instruction="whatever"), unit(expected), atol=1e-5)
    np.testing.assert_allclose(own.encode(items), plain.encode(items), atol=1e-6)  # candidates keep the document's
    assert own.fingerprint != plain.fingerprint
    with pytest.raises(InputError, match="no such prompt; it has document, other, query"):
        load_foreign(str(text_model), query_prompt="passage", device="cpu")


def test_the_fingerprint_follows_weights_and_modules(text_model, tmp_path):
    first = load_foreign(str(text_model), device="cpu")
    assert load_foreign(str(text_model), device="cpu").fingerprint == first.fingerprint
    with torch.no_grad():
        next(first.model.parameters())[0] += 1
    assert ForeignEncoder(first.model, "x").fingerprint != first.fingerprint
    other = shutil.copytree(text_model, tmp_path / "other")
    config = other / "1_Pooling" / "config.json"
    config.write_text(config.read_text().replace('"mean"', '"cls"'))
    assert load_foreign(str(other), device="cpu").fingerprint != load_foreign(str(text_model), device="cpu").fingerprint


def test_a_folder_of_ours_scores_the_same_both_ways(puma_folder, root, tmp_path, monkeypatch, capsys):
    items = [
        Item(text="red fox"),
        Item(image=tiny_image(0)),
        Item(text="at night", image=tiny_image(1)),
        Item(text="https://example.org/fox.png"),  # a text, and nothing is fetched
        Item(image=tiny_image(2)),
    ]
    ours = Retriever.from_pretrained(puma_folder, device="cpu")
    theirs = load_foreign(str(puma_folder), device="cpu")
    assert theirs.modalities == ("text", "image", "image,text")
    for instruction in (None, "Find a picture."):
        difference = ours.encode(items, instruction=instruction) - theirs.encode(items, instruction=instruction)
        assert np.abs(difference).max() < 1e-5
    monkeypatch.setenv("PUMA_HOME", str(tmp_path / "home"))
    for flag, out in (("--model", "a.json"), ("--st", "b.json")):
        arguments = ["evaluate", "--root", root, "--tasks", "nights,cirr,webqa", "--json-out", tmp_path / out]
        assert cli.main([str(part) for part in [*arguments, flag, puma_folder]]) == 0, capsys.readouterr().err
    a, b = read_results(tmp_path / "a.json"), read_results(tmp_path / "b.json")
    assert a["tables"] == b["tables"]
    assert a["per_query"] == b["per_query"]
    assert (a["model"], b["model"]) == ("model", "model")
    assert b["fingerprint"].startswith("st-")


def tiny_image(seed):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (40, 56, 3), dtype=np.uint8))


def test_images_are_opened_by_puma_and_a_refused_one_is_named(puma_folder, tmp_path, monkeypatch):
    encoder = load_foreign(str(puma_folder), device="cpu")
    good, bad = tmp_path / "good.png", tmp_path / "bad.png"
    tiny_image(0).save(good)
    bad.write_bytes(b"no image")
    with pytest.raises(ImageError, match=r"bad\.png"):
        encoder.encode([Item(image=good), Item(image=bad)])
    tiny_image(1).resize((33, 77)).save(bad)
    kind = type(encoder.model[0].processor.image_processor)
    plain = kind.preprocess

    def refusing(self, images, *args, **kwargs):
        flat = images if isinstance(images, list) else [images]
        if any(
            getattr(image, "size", None) == (33, 77)
            for one in flat
            for image in (one if isinstance(one, list) else [one])
        ):
            raise ValueError("absolute aspect ratio must be smaller than 2")
        return plain(self, images, *args, **kwargs)

    monkeypatch.setattr(kind, "preprocess", refusing)
    with pytest.raises(ImageError, match=r"bad\.png: model refuses it .*aspect ratio"):
        encoder.encode([Item(image=good), Item(image=bad)])


def test_what_a_text_model_cannot_embed_is_told_before_it_embeds_anything(
    text_model, root, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("PUMA_HOME", str(tmp_path / "home"))
    arguments = ["evaluate", "--root", str(root), "--st", str(text_model)]
    assert cli.main(arguments) == 2
    message = capsys.readouterr().err
    assert (
        "task visualnews_task0 (visualnews_task0) needs candidates of image, and this model embeds only text" in message
    )
    assert "give --tasks webqa_task1" in message
    assert cli.main([*arguments, "--tasks", "webqa_task1"]) == 2
    assert "give --pools local" in capsys.readouterr().err
    assert cli.main([*arguments, "--tasks", "webqa_task1", "--pools", "local"]) == 0
    assert "text-model" in capsys.readouterr().out
    assert cli.main([*arguments, "--tasks", "webqa_task1", "--pools", "local", "--st-prompt", "query", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["model"]["webqa_task1"]["queries"] == 3


def test_embed_and_mine_take_them_too(text_model, root, tmp_path, capsys):
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(SENTENCES))
    out = tmp_path / "v.npz"
    assert cli.main(["embed", str(texts), "--st", str(text_model), "--out", str(out)]) == 0, capsys.readouterr().err
    with np.load(out) as stored:
        assert stored["vectors"].shape == (4, 24)
    arguments = ["mine", "--root", root, "--st", text_model, "--split", "val", "--task", "webqa_task1", "-n", "2"]
    assert cli.main([*map(str, arguments), "--out", str(tmp_path / "mined"), "--margin", "2"]) == 0


@pytest.mark.parametrize("name", ["./modle", "/gone/model", "runs/gone/model", "modle", "here/modle", "a b/c", ""])
def test_a_mistyped_path_is_no_hub_name(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    with pytest.raises(InputError, match="no such folder; a model of the hub is named org/name"):
        load_foreign(name)


def test_a_folder_without_a_model_and_a_damaged_one_are_told(text_model, tmp_path):
    with pytest.raises(InputError, match="no model folder"):
        load_foreign(str(tmp_path))
    broken = shutil.copytree(text_model, tmp_path / "broken")
    weights = next(broken.rglob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_foreign(str(broken))
    shutil.copytree(text_model, tmp_path / "unread")
    (tmp_path / "unread" / "modules.json").write_text("[")
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_foreign(str(tmp_path / "unread"))


def test_a_hub_name_is_taken_from_the_hubs_cache_or_told(text_model, root, tmp_path, monkeypatch, capsys):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(DownloadError, match="--st someone/text-model: neither a folder here nor to be had"):
        load_foreign("someone/text-model", device="cpu")
    assert cli.main(["evaluate", "--root", str(root), "--st", "someone/text-model", "--tasks", "webqa_task1"]) == 1
    assert "defect" not in capsys.readouterr().err
    commit = "0123456789abcdef0123456789abcdef01234567"
    cached = tmp_path / "models--someone--text-model"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text(commit)
    shutil.copytree(text_model, cached / "snapshots" / commit)
    encoder = load_foreign("someone/text-model", device="cpu")
    assert encoder.encode([Item(text="red")]).shape == (1, 24)
    assert encoder.fingerprint == load_foreign(str(text_model), device="cpu").fingerprint


def test_the_weights_type_and_the_attention_are_chosen(text_model):
    encoder = load_foreign(str(text_model), device="cpu", dtype=torch.bfloat16, attn="eager")
    assert {weight.dtype for weight in encoder.model.parameters()} == {torch.bfloat16}
    assert encoder.model[0].auto_model.config._attn_implementation == "eager"
    full = load_foreign(str(text_model), device="cpu")
    items = [Item(text=text) for text in SENTENCES]
    assert encoder.encode(items).dtype == np.float32
    np.testing.assert_allclose(encoder.encode(items), full.encode(items), atol=0.05)
    assert encoder.fingerprint != full.fingerprint
