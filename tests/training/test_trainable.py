"""The types weights are held in, beside fp32: the same loss and vectors within rounding; exact where it must be."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from puma.errors import InputError
from puma.items import Item
from puma.retriever.model import Retriever
from puma.training import train
from puma.training.config import TrainConfig
from puma.training.pairs import Pair
from puma.training.teacher.dual_depth import DualDepth
from puma.training.trainable import choose_trainable, held_bytes, hold, merge_adapters
from support import families, tiny
from training.test_stage_runs import difference, pairs

LORA = TrainConfig(
    steps=4, batch_size=8, lora_rank=4, lora_alpha=8, lora_dropout=0.0, precision="bf16", learning_rate=3e-3, workers=0
)
ASKED = [Item(text="a red fox"), Item(text="one word"), Item(text="blue heart cat")]


def fresh(base):
    return Retriever.from_base(base, layers=2, prompt="open-quote", device="cpu")


def wrapped(model, config):
    holder = [SimpleNamespace(model=model)]
    choose_trainable(SimpleNamespace(model=model), holder, config)
    return holder[0].model


def kinds(model):
    return {(weight.requires_grad, weight.dtype) for weight in model.parameters()}


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_a_frozen_base_is_bf16_and_what_is_trained_fp32(family):
    model = wrapped(tiny.build(family), LORA)
    buffers = {name: buffer.dtype for name, buffer in model.named_buffers()}
    hold(model, LORA.frozen_type)
    assert {(True, torch.float32), (False, torch.bfloat16)} <= kinds(model)
    assert (True, torch.bfloat16) not in kinds(model)
    assert {name: buffer.dtype for name, buffer in model.named_buffers()} == buffers, "rotary frequencies stay fp32"
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            assert module.weight.dtype == torch.float32


@pytest.mark.parametrize("kind", ["fp32", "bf16"])
@pytest.mark.parametrize("family", ["qwen2_vl", "fast_vlm"])
def test_bytes_counted_are_those_held(family, kind):
    model = wrapped(tiny.build(family), LORA)
    counted = held_bytes(model, kind)
    hold(model, kind)
    assert counted == sum(weight.numel() * weight.element_size() for weight in model.parameters())
    assert held_bytes(model, "4bit") < held_bytes(model, "bf16")


def test_auto_is_bf16_under_adapters_only():
    assert LORA.frozen_type == "bf16"
    assert replace(LORA, lora_rank=0).frozen_type == "fp32"
    assert replace(LORA, precision="fp32").frozen_type == "fp32"
    assert replace(LORA, base_precision="fp32").frozen_type == "fp32"


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen3_vl", "idefics3", "gemma3"])
def test_loss_and_vectors_are_fp32s_within_rounding(family, tmp_path):
    folder = families.build(family, tmp_path / "base")
    losses, vectors = [], []
    for kind in ("fp32", "bf16"):
        retriever = Retriever.from_base(folder, layers=2, device="cpu")
        # At tau 0.03 the tiny bases' random weights make logits of +-33, where rounding is all one sees.
        config = replace(LORA, base_precision=kind, temperature=0.3)
        result = train(retriever, pairs(), config, tmp_path / kind, show_progress=False)
        losses.append([entry["loss"] for entry in result.log])
        assert {weight.dtype for weight in retriever.model.parameters()} == {torch.float32}, "as the base was saved"
        vectors.append(retriever.encode(ASKED, "Find it."))
    np.testing.assert_allclose(losses[1], losses[0], rtol=0.03)
    assert (vectors[0] * vectors[1]).sum(1).min() > 0.995


def test_a_bf16_base_is_trained_and_saved_in_bf16(tmp_path):
    folder = families.build("qwen2_vl", tmp_path / "base", dtype=torch.bfloat16)
    retriever = Retriever.from_base(folder, layers=2, device="cpu")
    train(retriever, pairs(), LORA, tmp_path / "run", show_progress=False)
    assert {weight.dtype for weight in retriever.model.parameters()} == {torch.bfloat16}
    retriever.save_pretrained(tmp_path / "model")
    loaded = Retriever.from_pretrained(tmp_path / "model", device="cpu")
    assert loaded.saved_dtype == torch.bfloat16
    np.testing.assert_array_equal(loaded.encode(ASKED), retriever.encode(ASKED))


@pytest.mark.parametrize("target", [torch.float32, torch.bfloat16])
def test_a_merge_adds_in_fp32_and_rounds_once(base, target):
    model = fresh(base).model
    peft = wrapped(model, LORA)
    hold(peft, "bf16")
    name, layer = next((name, m) for name, m in model.named_modules() if hasattr(m, "lora_A"))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        layer.lora_B["default"].weight.normal_(generator=generator)
    delta = layer.lora_B["default"].weight @ layer.lora_A["default"].weight * (LORA.lora_alpha / LORA.lora_rank)
    wanted = (layer.base_layer.weight.float() + delta).to(target)
    merged = merge_adapters(peft, target)
    assert {weight.dtype for weight in merged.parameters()} == {target}
    assert type(merged.get_submodule(name)) is torch.nn.Linear
    torch.testing.assert_close(merged.get_submodule(name).weight, wanted, atol=1e-6, rtol=0)


def test_resume_with_a_bf16_base_is_exact(base, tmp_path):
    import shutil

    config = replace(LORA, lora_dropout=0.1, save_steps=2, gradient_checkpointing=True)
    whole, again = fresh(base), fresh(base)
    train(whole, pairs(), config, tmp_path / "run", show_progress=False)
    shutil.rmtree(tmp_path / "run" / "checkpoint-4")
    train(again, pairs(), config, tmp_path / "run", show_progress=False)
    assert difference(whole, again) == 0.0


@pytest.mark.parametrize("changes", [{"gradient_checkpointing": True}, {"grad_cache": 3}, {"workers": 1}])
def test_with_a_bf16_base_what_spares_memory_or_time_changes_no_weight(base, tmp_path, changes):
    plain, spared = fresh(base), fresh(base)
    train(plain, pairs(), LORA, tmp_path / "plain", show_progress=False)
    train(spared, pairs(), replace(LORA, **changes), tmp_path / "spared", show_progress=False)
    # Other chunks are other paddings, and a checkpointed last layer is computed whole: in bf16 the last bit may differ.
    assert difference(plain, spared) < (1e-6 if "workers" in changes else 2e-3)
    assert difference(plain, fresh(base)) > 5e-3


@pytest.mark.parametrize("changes", [{}, {"grad_cache": 5}, {"gradient_checkpointing": True}])
def test_a_shared_teacher_over_a_bf16_base_is_the_whole_base_in_bf16(base, tmp_path, changes):
    whole = Retriever.from_base(base, prompt="open-quote", device="cpu", dtype=torch.bfloat16)

    def separate(item, instruction):
        from puma.retriever.encoding.states import forward_states

        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
            return forward_states(whole.model, whole.inputs.features([item], instruction))[0].numpy()

    config = replace(LORA, distillation_weight=0.5, teacher="shared", **changes)
    student = Retriever.from_base(base, prompt="open-quote", device="cpu")
    dual = DualDepth(student.model, 2, ret_id=student.inputs.ret_id)
    shared = train(student, pairs(), config, tmp_path / "shared", teacher=dual, show_progress=False)
    other = fresh(base)
    stored = replace(config, teacher="store")
    two = train(other, pairs(), stored, tmp_path / "two", teacher=separate, show_progress=False)
    for entry, twin in zip(shared.log, two.log, strict=True):
        assert entry["distillation"] == pytest.approx(twin["distillation"], rel=0.03)
    assert difference(student, other) < 0.2 * difference(other, fresh(base))


def test_full_training_is_fp32_whatever_the_base_was_saved_in(tmp_path):
    folder = families.build("qwen2_vl", tmp_path / "base", dtype=torch.bfloat16)
    retriever = Retriever.from_base(folder, layers=2, device="cpu")
    config = replace(LORA, lora_rank=0, steps=2)
    train(retriever, pairs(), config, tmp_path / "run", show_progress=False)
    assert {weight.dtype for weight in retriever.model.parameters()} == {torch.float32}


def test_four_bits_without_a_gpu_are_refused_with_the_remedy(base, tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(InputError, match=r"base_precision='4bit': needs a CUDA GPU.*give bf16"):
        train(fresh(base), pairs(), replace(LORA, base_precision="4bit"), tmp_path / "run", show_progress=False)


@pytest.mark.gpu
def test_four_bits_train_and_merge(base, tmp_path):
    pytest.importorskip("bitsandbytes")
    rows: list[Pair] = pairs()
    retriever = Retriever.from_base(base, layers=2, prompt="open-quote")
    model = wrapped(Retriever.from_base(base, layers=2, prompt="open-quote").model, LORA)
    counted = held_bytes(model, "4bit")
    hold(model, "4bit")
    held = sum(weight.numel() * weight.element_size() for weight in model.parameters())
    states = [getattr(getattr(module, "weight", None), "quant_state", None) for module in model.modules()]
    scales = sum({id(state): state.absmax.nbytes for state in states if state is not None}.values())
    assert counted == held + scales
    result = train(
        retriever, rows, replace(LORA, base_precision="4bit", steps=20), tmp_path / "run", show_progress=False
    )
    assert result.log[-1]["loss"] < result.log[0]["loss"]
    assert {weight.dtype for weight in retriever.model.parameters()} == {torch.float32}
    assert retriever.encode(["a thing"]).shape == (1, tiny.HIDDEN)
