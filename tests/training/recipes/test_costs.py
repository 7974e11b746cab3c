"""The dry run's figures against truth: published checkpoints' sizes, the real trainer's choice of parameters, the FLOP
counter and the saved tensors of real models."""

import copy
from types import SimpleNamespace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from puma.errors import ConfigError, InputError
from puma.pruning import count_parameters, decoder_of, prune
from puma.pruning.shapes import KNOWN, config_of, empty_model, image_shape
from puma.training.config import TrainConfig
from puma.training.recipes.costs import Workload, estimate, stage_cost, step_chunks
from puma.training.recipes.recipe import read_recipe
from puma.training.recipes.step_work import decoder_work, step_work, trainable_parameters, vision_flops
from puma.training.trainable import choose_trainable, hold
from support import tiny

PUBLISHED = {  # the totals that the checkpoints' own safetensors headers add up to
    "Qwen/Qwen2-VL-7B-Instruct": 8_291_375_616,
    "Qwen/Qwen2-VL-2B-Instruct": 2_208_985_600,
    "Qwen/Qwen2.5-VL-3B-Instruct": 3_754_622_976,
    "Qwen/Qwen3-VL-2B-Instruct": 2_127_532_032,
    "Qwen/Qwen3-VL-4B-Instruct": 4_437_815_808,
    "Qwen/Qwen3-VL-8B-Instruct": 8_767_123_696,
    "HuggingFaceTB/SmolVLM-256M-Instruct": 256_484_928,
    "HuggingFaceTB/SmolVLM-500M-Instruct": 507_482_304,
}
LORA = TrainConfig(lora_rank=4, lora_alpha=8, precision="fp32", batch_size=4, chunks=2)
FULL = TrainConfig(lora_rank=0, precision="fp32", batch_size=4, chunks=2)


def real_decoder(family, train, layers):
    """A real tiny model as training would set it up, at a depth; its decoder, and what moves and is added."""
    model = prune(tiny.build(family).base_model, layers).train()
    before = sum(p.numel() for p in model.parameters())
    holder = [SimpleNamespace(model=model)]
    choose_trainable(SimpleNamespace(model=model), holder, train)
    moved = sum(p.numel() for p in holder[0].model.parameters() if p.requires_grad)
    return decoder_of(model), (moved, sum(p.numel() for p in holder[0].model.parameters()) - before)


def test_known_shapes_have_the_published_number_of_parameters():
    assert PUBLISHED.keys() == KNOWN.keys()
    for name, total in PUBLISHED.items():
        assert count_parameters(empty_model(config_of(name), head=True))["total"] == total, name


def test_the_papers_model_is_four_billion_with_and_three_and_a_half_without_token_embeddings():
    counts = count_parameters(empty_model(config_of("Qwen/Qwen2-VL-7B-Instruct"), 12))
    assert counts["total"] == pytest.approx(4.0e9, rel=0.01)
    assert counts["without_embeddings"] == pytest.approx(3.5e9, rel=0.01)
    assert counts["total"] - counts["without_embeddings"] == 152064 * 3584


def test_a_folders_config_is_read_and_an_unknown_name_refused(base):
    config = config_of(base)
    assert count_parameters(empty_model(config))["total"] == count_parameters(tiny_base(base))["total"]
    with pytest.raises(InputError, match="neither a folder"):
        config_of("nobody/nothing")


def tiny_base(folder):
    from transformers import AutoModel

    return AutoModel.from_pretrained(folder)


@pytest.mark.parametrize("family", tiny.FAMILIES)
@pytest.mark.parametrize("train", [LORA, FULL], ids=["lora", "full"])
def test_parameters_equal_the_real_models(family, train):
    config = tiny.build(family).config
    real = prune(tiny.build(family).base_model, 3)
    assert count_parameters(empty_model(config, 3)) == count_parameters(real)
    for layers in (1, 4):  # 4 is computed from one and two layers
        assert trainable_parameters(config, train, layers) == real_decoder(family, train, layers)[1]


@pytest.mark.parametrize("family", tiny.FAMILIES)
@pytest.mark.parametrize("train", [LORA, FULL], ids=["lora", "full"])
def test_work_equals_the_counters_on_real_tensors(family, train):
    config = tiny.build(family).config
    decoder, _ = real_decoder(family, train, 4)
    saved, forward, both = decoder_work(config, train, 3, 20, 4)
    truth = step_work(decoder, torch.randn(3, 20, tiny.HIDDEN), autocast=False)
    assert (forward, both) == truth[1:]
    # A kernel of attention chosen for real tensors may repeat fewer heads than the one for fake ones.
    assert truth[0] <= saved <= 1.15 * truth[0]


@pytest.mark.parametrize("kind", ["fp32", "bf16"])
@pytest.mark.parametrize("family", ["qwen2_vl", "llava", "fast_vlm"])
def test_memory_of_a_frozen_base_is_torchs_own_count(family, kind):
    """Weights, gradients and AdamW's moments of a real step, and what the decoder keeps for its backward pass."""
    train = copy_with(LORA, precision="bf16", base_precision=kind)
    config = tiny.build(family).config
    cost = stage_cost(config, train, Workload(text_tokens=20, retrieve_images=0.0), 4)
    model = tiny.build(family).base_model.train()
    holder = [SimpleNamespace(model=model)]
    choose_trainable(SimpleNamespace(model=model), holder, train)
    hold(holder[0].model, train.frozen_type)
    weights = list(model.parameters())
    assert cost.memory["weights"] == sum(weight.nbytes for weight in weights)
    optimiser = torch.optim.AdamW([weight for weight in weights if weight.requires_grad])
    hidden = torch.randn(8, 20, tiny.HIDDEN).to(torch.float32 if kind == "fp32" else torch.bfloat16)
    kept, _, _ = step_work(decoder_of(model), hidden, autocast=True)
    saved, _, _ = decoder_work(config, train, 8, 20, 4)
    assert kept <= saved <= 1.15 * kept
    optimiser.step()
    assert cost.memory["gradients"] == sum(weight.grad.nbytes for weight in weights if weight.grad is not None)
    moments = [part.nbytes for state in optimiser.state.values() for name, part in state.items() if name != "step"]
    assert cost.memory["optimiser"] == sum(moments)


def test_the_papers_second_stage_by_the_base_it_is_held_in():
    config = config_of("Qwen/Qwen2-VL-7B-Instruct")
    stage = read_recipe("qwen2-vl-7b").retrieve
    held = {
        kind: stage_cost(config, copy_with(stage, base_precision=kind), Workload(image_tokens=256), 12).memory
        for kind in ("fp32", "bf16", "4bit")
    }
    gib = {kind: memory["total"] / 2**30 for kind, memory in held.items()}
    assert gib["4bit"] < gib["bf16"] < 36 < 47 < gib["fp32"]
    frozen = {kind: memory["weights"] - 4 * 138_412_032 for kind, memory in held.items()}
    assert frozen["bf16"] == frozen["fp32"] // 2


def test_forward_flops_are_two_a_weight_and_token_and_the_attention():
    config = tiny.build("llava").config
    weights = 2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 64  # q, o, k, v, MLP of a layer
    _, forward, both = decoder_work(config, FULL, 3, 20, 4)
    assert forward == 4 * (2 * weights * 60 + 3 * 4 * 20 * 20 * 32)
    assert both > 3 * forward * 0.99  # in full: gradients of inputs and of weights


def test_autocast_halves_what_linear_layers_keep():
    config = tiny.build("llava").config
    plain, half = (decoder_work(config, t, 8, 40, 3)[0] for t in (FULL, copy_with(FULL, precision="bf16")))
    assert 0.5 * plain < half < 0.95 * plain


def copy_with(train, **changes):
    from dataclasses import replace

    return replace(train, **changes)


@pytest.mark.parametrize("family", [f for f in tiny.FAMILIES if f != "gemma3"])  # its projector is a bare matrix
def test_vision_flops_are_the_counters(family):
    model = tiny.build(family).base_model
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(**tiny.inputs(family), use_cache=False)
    whole = counter.get_total_flops()
    rows = tiny.inputs(family)["input_ids"].shape[1]
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        decoder_of(model)(inputs_embeds=torch.randn(1, rows, tiny.HIDDEN), use_cache=False)
    tokens, patches = image_shape(model.config, 4)
    truth = whole - counter.get_total_flops()
    assert vision_flops(model.config, tokens, patches)["total"] == pytest.approx(truth, rel=0.08)


def test_a_stage_adds_up():
    config = tiny.build("qwen2_vl").config
    work = Workload(text_tokens=10, image_tokens=4, retrieve_images=0.5)
    cost = stage_cost(config, LORA, work, 2)
    assert (cost.items, cost.tokens, cost.layers) == (8, 4 * 10 + 4 * 14, 2)
    total = sum(p.numel() for p in empty_model(config, 2).parameters())
    assert cost.memory["weights"] == 4 * (total + cost.trainable)  # LoRA: what moves is what was added
    assert cost.memory["gradients"] == 4 * cost.trainable
    assert cost.memory["optimiser"] == 8 * cost.trainable
    fixed = sum(cost.memory[name] for name in ("weights", "gradients", "optimiser", "working", "teacher"))
    assert cost.memory["total"] == fixed + cost.memory["activations_plain"]
    assert cost.flops["total"] == sum(v for k, v in cost.flops.items() if k != "total")
    assert cost.flops["recompute"] == 0
    checkpointed = stage_cost(config, copy_with(LORA, gradient_checkpointing=True), work, 2)
    assert checkpointed.flops["recompute"] == checkpointed.flops["forward"]
    assert checkpointed.memory["activations_plain"] == cost.memory["activations_plain"]


def test_checkpointing_saves_more_the_deeper_the_model():
    config = config_of("HuggingFaceTB/SmolVLM-256M-Instruct")
    shallow, deep = (stage_cost(config, LORA, Workload(), k).memory for k in (4, 28))
    ratios = [m["activations_checkpointed"] / m["activations_plain"] for m in (shallow, deep)]
    assert ratios[1] < ratios[0] < 1


def test_teachers_cost_what_they_are():
    config = tiny.build("qwen2_vl").config
    train = copy_with(LORA, stage="distil", distillation_weight=1.0)
    work = Workload(text_tokens=10)
    by_kind = {t: stage_cost(config, train, work, 2, teacher=t) for t in ("store", "shared", "second model")}
    assert by_kind["store"].flops["teacher"] == by_kind["store"].memory["teacher"] == 0
    deep = stage_cost(config, LORA, work, 4)
    assert by_kind["second model"].memory["teacher"] == 2 * sum(p.numel() for p in empty_model(config).parameters())
    assert 0 < by_kind["shared"].memory["teacher"] < deep.memory["weights"]
    assert by_kind["shared"].flops["teacher"] == by_kind["second model"].flops["teacher"]  # texts: no vision tower
    assert stage_cost(config, train, work, 2) == by_kind["store"]


def test_a_gradient_cache_keeps_one_part_at_a_time_for_one_more_pass():
    config = tiny.build("llava").config
    plain = stage_cost(config, LORA, Workload(text_tokens=10, retrieve_images=0.0), 3)
    cached = stage_cost(config, copy_with(LORA, grad_cache=2), Workload(text_tokens=10, retrieve_images=0.0), 3)
    assert cached.memory["activations_plain"] < plain.memory["activations_plain"] / 3
    assert cached.flops["recompute"] == plain.flops["forward"]


def test_chunks_hold_every_item_once_shortest_first():
    train = TrainConfig(batch_size=7, chunks=3, hard_negatives=1)
    chunks = step_chunks(train, Workload(text_tokens=10, retrieve_images=0.3), 5)
    assert sum(n for n, _, _ in chunks) == 21
    assert sum(p for _, _, p in chunks) == 6
    assert [length for _, length, _ in chunks] == [10, 10, 15]


def test_the_report_sets_the_stage_beside_the_unpruned_model():
    config = tiny.build("qwen2_vl").config
    unpruned = copy.deepcopy(config)
    train = copy_with(LORA, stage="distil", distillation_weight=1.0)
    report = estimate(config, 2, [train, LORA], Workload(text_tokens=10, image_tokens=4))
    assert config.to_dict() == unpruned.to_dict()  # the caller's configuration is not cut
    assert report["layers"] == {"kept": 2, "of": 4, "keep_last": False}
    assert report["parameters"]["kept"]["total"] < report["parameters"]["unpruned"]["total"]
    first, second = report["stages"]
    assert first["unpruned"]["layers"] == 4
    assert first["two_models"]["flops"]["total"] > first["cost"]["flops"]["total"]
    assert "two_models" not in second
    assert second["cost"]["flops"]["total"] < second["unpruned"]["flops"]["total"]


def test_bad_workloads_are_refused_all_faults_together():
    with pytest.raises(ConfigError) as caught:
        Workload(text_tokens=0, retrieve_images=2.0)
    assert "text_tokens=0" in str(caught.value)
    assert "retrieve_images=2.0" in str(caught.value)
    with pytest.raises(InputError, match="from 1 to 4"):
        estimate(tiny.build("llava").config, 9, [LORA], Workload())
