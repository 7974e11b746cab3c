"""Loading bases: only the kept layers are read, nothing is filled at random, and a damaged folder is named."""

import builtins
import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from puma.cli import main
from puma.errors import InputError, ModelError
from puma.pruning import cut, decoder_of, load_model, load_processor, model_folder, prune
from puma.pruning.loading import saved_type, weight_type
from puma.retriever.model import Retriever
from support import families


def copied(base, tmp_path):
    return shutil.copytree(base, tmp_path / "copy")


def state(model):
    return model.state_dict()


@pytest.mark.parametrize("family", families.FAMILIES)
@pytest.mark.parametrize("keep_last", [False, True], ids=["first", "keep-last"])
def test_loading_the_kept_layers_equals_cutting_the_whole_base(family_base, family, keep_last):
    base = family_base(family)
    cut_after = cut(load_model(base, head=False), 2, keep_last=keep_last)
    read_so = load_model(base, layers=2, keep_last=keep_last, head=False)
    ours, theirs = state(read_so), state(cut_after)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert read_so.config.to_dict() == cut_after.config.to_dict()


def test_the_dropped_layers_are_not_read(family_base, tmp_path):
    """Their tensors may be absent, as they are never asked for."""
    base = copied(family_base("qwen2_vl"), tmp_path)
    tensors = load_file(base / "model.safetensors")
    save_file(
        {name: tensor for name, tensor in tensors.items() if "layers.3." not in name},
        base / "model.safetensors",
        {"format": "pt"},
    )
    assert len(decoder_of(load_model(base, layers=2)).layers) == 2
    with pytest.raises(ModelError, match=r"layers\.3\.input_layernorm"):
        load_model(base)


@pytest.mark.parametrize("family", families.FAMILIES)
def test_missing_weights_are_named_not_made_up(family_base, tmp_path, family, capsys):
    base = copied(family_base(family), tmp_path)
    tensors = load_file(base / "model.safetensors")
    renamed = {
        name.replace("layers.1.self_attn.q_proj", "layers.1.self_attn.other")
        if "vis" not in name and "tower" not in name
        else name: tensor
        for name, tensor in tensors.items()
    }
    assert renamed.keys() != tensors.keys()
    save_file(renamed, base / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"weights are missing \(.*layers\.1\.self_attn\.q_proj"):
        Retriever.from_base(base)
    assert main(["prune", str(base), str(tmp_path / "out"), "--layers", "2"]) == 2
    assert "missing" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda base: _cut_file(base / "model.safetensors"), "cannot be loaded"),
        (lambda base: (base / "config.json").write_text("{"), "cannot be loaded"),
        (lambda base: (base / "config.json").write_text('{"model_type": "nothing"}'), "cannot be loaded"),
        (lambda base: (base / "model.safetensors").unlink(), "cannot be loaded"),
        (lambda base: (base / "tokenizer.json").write_text("{"), "processor .*cannot be loaded"),
        (lambda base: (base / "config.json").unlink(), "no config.json"),
    ],
    ids=["cut weights", "cut configuration", "unknown family", "no weights", "cut tokenizer", "no configuration"],
)
def test_a_damaged_folder_is_the_users_to_mend(family_base, tmp_path, capsys, damage, words):
    base = copied(family_base("idefics3"), tmp_path)
    damage(base)
    with pytest.raises((ModelError, InputError), match=words):
        Retriever.from_base(base)
    assert main(["prune", str(base), str(tmp_path / "out"), "--layers", "2"]) == 2
    said = capsys.readouterr().err
    assert "defect" not in said
    assert str(base) in said


def _cut_file(path):
    path.write_bytes(path.read_bytes()[:-1000])


def test_weights_take_the_type_that_is_named(family_base):
    base = family_base("llava")
    assert saved_type(base) == torch.float32
    for name, kind in (("auto", torch.float32), ("bf16", torch.bfloat16), (torch.float16, torch.float16)):
        assert Retriever.from_base(base, layers=1, dtype=name, device="cpu").model.dtype == kind
    assert weight_type(None) == "auto"
    with pytest.raises(InputError, match="dtype='int8': give auto, fp32, bf16 or fp16"):
        load_model(base, dtype="int8")


@pytest.mark.parametrize("family", families.FAMILIES)
@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_half_precision_weights_read_images(family_base, family, dtype, tmp_path):
    from PIL import Image
    from sentence_transformers import SentenceTransformer

    items = ["a red fox", {"image": Image.new("RGB", (40, 60), (200, 30, 30))}]
    base = family_base(family)
    whole = Retriever.from_base(base, layers=2, dtype="fp32", device="cpu").encode(items)
    made = Retriever.from_base(base, layers=2, dtype=dtype, device="cpu")
    half = made.encode(items)
    assert (whole * half).sum(1).min() > 0.99
    theirs = SentenceTransformer(str(made.save_pretrained(tmp_path / "model")), device="cpu").encode(items)
    assert (half * theirs).sum(1).min() > 0.99


def test_attention_is_chosen_by_name(family_base):
    base = family_base("qwen3_vl")
    text = ["a red fox and a cat"]
    eager, sdpa = (Retriever.from_base(base, attn=name, device="cpu") for name in ("eager", "sdpa"))
    assert eager.model.get_decoder().config._attn_implementation == "eager"
    assert abs(eager.encode(text) - sdpa.encode(text)).max() < 1e-5
    with pytest.raises(InputError, match="attn='flesh': give one of sdpa"):
        load_model(base, attn="flesh")


@pytest.mark.skipif(torch.cuda.is_available(), reason="only where it cannot be used")
def test_what_needs_a_gpu_says_so(family_base):
    with pytest.raises(InputError, match="attn='flash_attention_2' cannot be used here"):
        load_model(family_base("qwen2_vl"), attn="flash_attention_2")
    with pytest.raises(InputError, match="needs a CUDA device"):
        load_model(family_base("qwen2_vl"), quantise="4bit")
    with pytest.raises(InputError, match="give one of 4bit"):
        load_model(family_base("qwen2_vl"), quantise="3bit")


def test_a_missing_package_is_named_with_the_command(family_base, monkeypatch):
    from transformers.models.smolvlm import processing_smolvlm

    base = family_base("smolvlm")
    monkeypatch.setattr(processing_smolvlm, "num2words", None)  # as it is where the package is not installed
    with pytest.raises(ModelError, match=r"pip install 'puma-retrieval\[smolvlm\]'"):
        load_processor(base)


def test_no_video_processor_backend_is_needed_for_images(family_base):
    """The fault that kept four families from loading: 'pil' was handed on to the video processor."""
    for family in families.FAMILIES:
        processor = load_processor(family_base(family))
        backend = "torchvision" if hasattr(processor, "video_processor") else "pil"
        assert type(processor.image_processor).__name__.endswith("Pil") == (backend == "pil")


# ---- names on the hub, from a stand-in for its cache


def test_a_hub_name_is_read_from_the_hubs_cache(family_base, tmp_path, monkeypatch):
    from huggingface_hub import constants

    commit = "0" * 40
    repository = tmp_path / "hub" / "models--org--tiny-base"
    shutil.copytree(family_base("qwen2_vl"), repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    for name in ("main", "v1"):
        (repository / "refs" / name).write_text(commit)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    assert model_folder("org/tiny-base").name == commit
    assert len(decoder_of(prune("org/tiny-base", 2)).layers) == 2
    made = Retriever.from_base("org/tiny-base", layers=2, device="cpu", revision="v1")
    assert made.encode(["a"]).shape == (1, 32)
    with pytest.raises(ModelError, match="org/other"):
        model_folder("org/other")


@pytest.mark.parametrize("name", ["./nowhere", "nowhere", "/a/b/c", "a/b/c", "../x"])
def test_what_is_neither_a_path_nor_a_hub_name_never_asks_the_hub(name, monkeypatch):
    real = builtins.__import__

    def guarded(module, *rest, **options):
        assert not module.startswith("huggingface_hub"), "the hub was asked"
        return real(module, *rest, **options)

    monkeypatch.setattr(builtins, "__import__", guarded)
    with pytest.raises(InputError, match="no such model folder"):
        model_folder(name)


def test_an_older_retriever_folder_keeps_its_pinned_backend(family_base, tmp_path):
    saved = Retriever.from_base(family_base("llava"), layers=1, device="cpu").save_pretrained(tmp_path / "model")
    pinned = json.loads((saved / "sentence_bert_config.json").read_text())["processor_kwargs"]
    assert pinned == {"backend": "pil"}
    (saved / "sentence_bert_config.json").write_text(json.dumps({"processor_kwargs": {"backend": "torchvision"}}))
    assert not type(load_processor(saved).image_processor).__name__.endswith("Pil")
