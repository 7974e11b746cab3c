"""Adapters found under every name that trainers write, merged in fp32; what does not fit is named."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from puma.errors import InputError, ModelError
from puma.pruning.hub import is_adapter_folder
from puma.retriever.adapters import CONFIG, base_of, with_adapter
from puma.retriever.dimensions import nested_dimensions, note_dimensions
from support import tiny

TARGETS = ["q_proj", "v_proj"]


def lora(**more):
    from peft import LoraConfig

    return LoraConfig(**{"r": 4, "lora_alpha": 12, "target_modules": TARGETS, **more})


def randomised(model, seed=7):
    """Every adapter weight random: as peft makes them, the adapter changes nothing."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_" in name:
                weight.copy_(torch.randn(weight.shape, generator=generator) * 0.2)
    return model


def last_layer(model):
    decoder = model.get_decoder() if hasattr(model, "get_decoder") else model
    return decoder.layers[-1].self_attn.q_proj.weight.detach().float()


def bare(model):
    return model.model if hasattr(model, "lm_head") else model


@pytest.fixture(params=tiny.FAMILIES)
def family(request):
    return request.param


@pytest.mark.parametrize("trained_on", ["whole", "bare", "wrapped", "transformers"])
def test_an_adapter_of_any_maker_gives_its_makers_vectors(family, trained_on, tmp_path):
    from peft import get_peft_model

    model = tiny.build(family)
    target = model if trained_on == "whole" else bare(model)
    if trained_on == "transformers":
        target.add_adapter(lora())
        randomised(target).save_pretrained(tmp_path)
    elif trained_on == "wrapped":
        holder = torch.nn.Sequential()
        holder.add_module("0", torch.nn.Module())
        holder[0].auto_model = target
        trained = randomised(get_peft_model(holder, lora()))
        trained.save_pretrained(tmp_path)
    else:
        trained = randomised(get_peft_model(target, lora()))
        trained.save_pretrained(tmp_path)
    assert is_adapter_folder(tmp_path)
    features = tiny.inputs(family)
    with torch.no_grad():
        expected = bare(model)(**features).last_hidden_state
    merged = with_adapter(bare(tiny.build(family)), tmp_path)
    with torch.no_grad():
        found = merged(**features).last_hidden_state
        plain = bare(tiny.build(family))(**features).last_hidden_state
    assert not any("lora" in name for name, _ in merged.named_parameters())
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert (found - plain).abs().max() > 1e-3


def test_a_merged_adapter_ends_the_promise_of_shorter_vectors(tmp_path):
    from peft import get_peft_model

    randomised(get_peft_model(bare(tiny.build("llava")), lora())).save_pretrained(tmp_path)
    model = bare(tiny.build("llava"))
    note_dimensions(model.config, (4, 8), tiny.HIDDEN)
    assert nested_dimensions(model.config, tiny.HIDDEN) == (4, 8)
    assert nested_dimensions(with_adapter(model, tmp_path).config, tiny.HIDDEN) == ()


def test_names_of_older_transformers_are_found(tmp_path):
    from peft import get_peft_model

    model = tiny.build("qwen2_vl")
    randomised(get_peft_model(bare(model), lora())).save_pretrained(tmp_path)
    expected = last_layer(with_adapter(bare(tiny.build("qwen2_vl")), tmp_path))
    stored = load_file(tmp_path / "adapter_model.safetensors")
    older = {name.replace("language_model.layers", "model.layers"): row for name, row in stored.items()}
    assert older.keys() != stored.keys()
    save_file(older, tmp_path / "adapter_model.safetensors")
    assert torch.equal(last_layer(with_adapter(bare(tiny.build("qwen2_vl")), tmp_path)), expected)


def test_merged_in_fp32_and_of_the_type_it_was(tmp_path):
    from peft import get_peft_model

    base = bare(tiny.build("fast_vlm")).to(torch.bfloat16)
    before = last_layer(base)
    trained = randomised(get_peft_model(bare(tiny.build("fast_vlm")), lora()))
    trained.save_pretrained(tmp_path)
    stored = load_file(tmp_path / "adapter_model.safetensors")
    pick = [name for name in stored if f"layers.{tiny.LAYERS - 1}.self_attn.q_proj" in name]
    a = next(stored[name] for name in pick if "lora_A" in name)
    b = next(stored[name] for name in pick if "lora_B" in name)
    merged = with_adapter(base, tmp_path)
    assert {weight.dtype for weight in merged.parameters()} == {torch.bfloat16}
    expected = (before + 12 / 4 * (b.float() @ a.float())).to(torch.bfloat16).float()
    assert torch.equal(last_layer(merged), expected)


@pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`")
def test_ranks_by_layer_saved_modules_biases_and_heads_come_along(tmp_path):
    from peft import get_peft_model

    deep = f"language_model.layers.{tiny.LAYERS - 1}.self_attn.q_proj"
    options = {
        "rank_pattern": {f"model.{deep}": 2},
        "alpha_pattern": {f"model.{deep}": 6},
        "modules_to_save": ["norm"],
        "target_modules": [*TARGETS, "lm_head"],
        "use_rslora": True,
        "bias": "lora_only",
    }
    model = tiny.build("qwen2_vl")
    trained = randomised(get_peft_model(model, lora(**options)))
    with torch.no_grad():
        for name, weight in trained.named_parameters():
            if name.endswith("modules_to_save.default.weight") or (".q_proj" in name and name.endswith("bias")):
                weight.add_(0.3)
    trained.save_pretrained(tmp_path)
    features = tiny.inputs("qwen2_vl")
    merged = with_adapter(bare(tiny.build("qwen2_vl")), tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(
            merged(**features).last_hidden_state,
            bare(model)(**features).last_hidden_state,
            atol=1e-4,
            rtol=1e-4,
        )


def test_tokens_trained_alone_and_a_grown_vocabulary(tmp_path):
    from peft import get_peft_model

    trained = randomised(get_peft_model(bare(tiny.build("qwen2_vl")), lora(trainable_token_indices=[3, 5])))
    with torch.no_grad():
        for name, weight in trained.named_parameters():
            if "trainable_tokens_delta" in name:
                weight.add_(0.5)
    trained.save_pretrained(tmp_path / "tokens")
    before = bare(tiny.build("qwen2_vl"))
    rows = before.get_input_embeddings().weight.detach().clone()
    after = with_adapter(before, tmp_path / "tokens").get_input_embeddings().weight.detach()
    changed = (after - rows).abs().amax(1) > 1e-6
    assert changed.nonzero().flatten().tolist() == [3, 5]
    torch.testing.assert_close(after[[3, 5]], rows[[3, 5]] + 0.5)

    grown = bare(tiny.build("qwen2_vl"))
    grown.resize_token_embeddings(len(rows) + 1)
    with torch.no_grad():
        grown.get_input_embeddings().weight[-1] = 2.0
    randomised(get_peft_model(grown, lora())).save_pretrained(tmp_path / "grown", save_embedding_layers=True)
    table = with_adapter(bare(tiny.build("qwen2_vl")), tmp_path / "grown").get_input_embeddings().weight
    assert len(table) == len(rows) + 1
    assert (table[-1] == 2).all()


@pytest.fixture
def adapter(tmp_path):
    from peft import get_peft_model

    folder = tmp_path / "adapter"
    randomised(get_peft_model(bare(tiny.build("qwen2_vl")), lora())).save_pretrained(folder)
    return folder


def test_the_base_is_found_or_its_lack_is_named(adapter, tmp_path, monkeypatch):
    def named(name):
        about = json.loads((adapter / "adapter_config.json").read_text())
        (adapter / "adapter_config.json").write_text(json.dumps(about | {"base_model_name_or_path": name}))
        return base_of(adapter)

    (tmp_path / "base").mkdir()
    assert named(str(tmp_path / "base")) == str(tmp_path / "base")
    assert named("base") == str(tmp_path / "base")
    assert named("org/name") == "org/name"
    with pytest.raises(InputError, match="its base '/gone/base' is not here"):
        named("/gone/base")
    for nothing in (None, ""):
        with pytest.raises(ModelError, match="names no base"):
            named(nothing)
    (adapter / "adapter_config.json").write_text("{")
    with pytest.raises(ModelError, match=r"adapter_config\.json cannot be read"):
        base_of(adapter)


def test_a_model_is_no_adapter_folder(adapter, base, tmp_path):
    assert not is_adapter_folder(base)
    assert not is_adapter_folder(tmp_path / "gone")
    (adapter / "model.safetensors").touch()
    assert not is_adapter_folder(adapter)


def test_what_does_not_fit_is_named(adapter, tmp_path):
    from puma.pruning import prune

    cut = bare(tiny.build("qwen2_vl"))
    prune(cut, 2)
    with pytest.raises(ModelError, match=r"layers\.2\.self_attn\.\w_proj is not in the model.*2 layers"):
        with_adapter(cut, adapter)
    stored = load_file(adapter / "adapter_model.safetensors")
    name = next(name for name in stored if "lora_A" in name)
    save_file(stored | {name: torch.zeros(4, 7)}, adapter / "adapter_model.safetensors")
    with pytest.raises(ModelError, match=r"lora_A\.weight is \[4, 7\].*another base"):
        with_adapter(bare(tiny.build("qwen2_vl")), adapter)
    save_file(
        {name: row for name, row in stored.items() if "lora_A" not in name}, adapter / "adapter_model.safetensors"
    )
    with pytest.raises(ModelError, match="cannot be merged: nothing for"):
        with_adapter(bare(tiny.build("qwen2_vl")), adapter)
    whole = (adapter / "adapter_model.safetensors").read_bytes()
    (adapter / "adapter_model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match="cannot be read"):
        with_adapter(bare(tiny.build("qwen2_vl")), adapter)
    shutil.move(adapter / "adapter_model.safetensors", adapter / "adapter_model.bin")
    with pytest.raises(ModelError, match="is a pickle"):
        with_adapter(bare(tiny.build("qwen2_vl")), adapter)
    about = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(about | {"peft_type": "IA3"}))
    with pytest.raises(ModelError, match="'IA3', and only LoRA"):
        with_adapter(bare(tiny.build("qwen2_vl")), adapter)


def test_a_retriever_loads_from_its_adapter_alone(family_base, tmp_path, capsys):
    import numpy as np
    from peft import get_peft_model

    from puma.cli import main
    from puma.retriever.model import Retriever

    saved = Retriever.from_base(family_base("qwen3_vl"), layers=2, device="cpu").save_pretrained(tmp_path / "model")
    trained = Retriever.from_pretrained(saved, device="cpu")
    wrapped = randomised(get_peft_model(trained.model, lora()))
    wrapped.save_pretrained(tmp_path / "adapter")
    about = json.loads((tmp_path / "adapter" / CONFIG).read_text())
    about["base_model_name_or_path"] = "model"  # a folder beside the adapter's
    (tmp_path / "adapter" / CONFIG).write_text(json.dumps(about))
    trained.model = wrapped.merge_and_unload()
    from_adapter = Retriever.from_pretrained(tmp_path / "adapter", device="cpu")
    items = ["a red fox", "a cat"]
    np.testing.assert_allclose(from_adapter.encode(items), trained.encode(items), atol=1e-5)
    assert (
        np.abs(from_adapter.encode(items) - Retriever.from_pretrained(saved, device="cpu").encode(items)).max() > 1e-3
    )
    texts = tmp_path / "texts.txt"
    texts.write_text("a red fox\na cat\n")
    assert main(["index", "add", str(tmp_path / "i"), str(texts), "--model", str(tmp_path / "adapter")]) == 0
    (tmp_path / "model" / "config.json").unlink()
    assert main(["search", str(tmp_path / "i"), "a cat", "--model", str(tmp_path / "adapter")]) == 2
    assert "no config.json" in capsys.readouterr().err
