"""Training on the GPU: a step of every kind, resume, gradient caching, memory that is given back."""

import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from gpu_material import drawn, known_faults, make_pairs

from puma.items import Item
from puma.retriever.model import Retriever
from puma.retriever.sentence_transformers import sentence_transformer
from puma.training import train
from puma.training.collating import PairCollator
from puma.training.config import TrainConfig
from puma.training.objective import RetrievalObjective
from puma.training.teacher.dual_depth import DualDepth
from puma.training.teacher.store import PromptTargets, teacher_states
from support import families

pytestmark = pytest.mark.gpu

LORA = TrainConfig(steps=3, batch_size=6, chunks=2, lora_rank=4, lora_alpha=8, save_steps=2, learning_rate=1e-3)
FULL = replace(LORA, lora_rank=0)
DISTIL = replace(
    LORA, stage="distil", decay=0.0, contrastive_weight=0.9, distillation_weight=0.5, distillation="cosine"
)
STAGES = {
    "retrieve-lora": LORA,
    "retrieve-full": FULL,
    "retrieve-fp32": replace(FULL, precision="fp32"),
    "checkpointing": replace(LORA, gradient_checkpointing=True),
    "grad-cache": replace(LORA, grad_cache=3),
    "workers": replace(LORA, workers=1),
    "distil-store": DISTIL,
    "distil-shared": replace(DISTIL, teacher="shared"),
}


def fresh(base, device, layers=2):
    return Retriever.from_base(base, layers=layers, device=device, dtype=torch.float32)


def weights(retriever):
    return {name: value.detach().float().cpu().clone() for name, value in retriever.model.state_dict().items()}


def largest(a, b):
    assert a.keys() == b.keys()
    return max(float((a[name] - b[name]).abs().max()) for name in a)


def stage(base, config, device, out, pairs):
    """A retriever before and after a stage."""
    shared = config.distillation_weight > 0 and config.teacher == "shared"
    retriever = fresh(base, device, None if shared else 2)
    before = {name: value for name, value in weights(retriever).items()}
    teacher = None
    if shared:
        teacher = DualDepth(retriever.model, 2, ret_id=retriever.inputs.ret_id)
    elif config.distillation_weight:
        whole = Retriever.from_base(base, device=device)
        wanted = [(p.query, p.instruction) for p in pairs] + [(p.candidate, None) for p in pairs]
        teacher = PromptTargets(whole, teacher_states(whole, wanted, show_progress=False))
    result = train(retriever, pairs, config, out, teacher=teacher, show_progress=False)
    return retriever, before, result


@pytest.mark.parametrize("name", STAGES)
def test_a_step_of_each_stage(name, bases, device, tmp_path, record_property):
    config = STAGES[name]
    pairs = [p for p in make_pairs() if config.stage == "retrieve" or p.task == 1]
    retriever, before, result = stage(bases("qwen2_vl"), config, device, tmp_path / "run", pairs)
    after = weights(retriever)
    # a base frozen under adapters may have been held in bf16
    moved = [key for key in after if not torch.equal(after[key].bfloat16(), before[key].bfloat16())]
    record_property("loss", [round(row["loss"], 4) for row in result.log])
    assert moved
    assert all("layers." in key or key.endswith("language_model.norm.weight") for key in moved)
    assert all(np.isfinite(row["loss"]) for row in result.log)
    vectors = retriever.encode([Item("a red fox"), Item(image=drawn(1))])
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-3)


@pytest.mark.parametrize("family", families.FAMILIES)
def test_every_family_trains(family, bases, device, tmp_path, record_property):
    known_faults(family)
    retriever, before, result = stage(bases(family), LORA, device, tmp_path / "run", make_pairs(8))
    record_property("loss", [round(row["loss"], 4) for row in result.log])
    assert largest(weights(retriever), before) > 0
    assert all(np.isfinite(row["loss"]) for row in result.log)


def test_a_resumed_run_equals_an_uninterrupted_one(bases, device, tmp_path, record_property):
    config = replace(LORA, steps=4, lora_dropout=0.1)
    whole, _, _ = stage(bases("qwen2_vl"), config, device, tmp_path / "whole", make_pairs())
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    shutil.rmtree(tmp_path / "cut" / "checkpoint-4")
    resumed, _, _ = stage(bases("qwen2_vl"), config, device, tmp_path / "cut", make_pairs())
    difference = largest(weights(whole), weights(resumed))
    record_property("largest_difference", difference)
    assert difference < 1e-4  # kernels on a GPU may add in another order


def gradients(base, device, cache):
    """The trained weights' gradients of one batch, computed whole or in parts."""
    torch.manual_seed(0)
    retriever = fresh(base, device)
    st = sentence_transformer(retriever)
    del st[1:]
    retriever.model.train().requires_grad_(False)
    retriever.model.get_decoder().layers.requires_grad_(True)
    objective = RetrievalObjective(st, temperature=0.05, decay=0.5, grad_cache=cache)
    pairs = make_pairs(4)
    batch = PairCollator(pairs, retriever.inputs, 1 if not cache else 3)([{"row": i, "epoch": 0} for i in range(9)])
    features: list[dict] = []
    for key, value in batch.items():  # as sentence-transformers' trainer takes the columns apart
        column, name = re.fullmatch(r"chunk(\d+)_(.+)", key).groups()
        features += [{} for _ in range(int(column) + 1 - len(features))]
        features[int(column)][name] = value.to(device) if torch.is_tensor(value) else value
    sum(objective(features).values()).backward()
    return {name: p.grad.detach().cpu() for name, p in retriever.model.named_parameters() if p.grad is not None}


def test_a_gradient_cache_equals_plain(bases, device, record_property):
    plain, cached = (gradients(bases("qwen2_vl"), device, cache) for cache in (0, 5))
    assert plain.keys() == cached.keys()
    scale = max(float(g.abs().max()) for g in plain.values())
    difference = max(float((plain[name] - cached[name]).abs().max()) for name in plain) / scale
    record_property("largest_relative_difference", difference)
    assert difference < 1e-3


def test_memory_is_given_back(bases, device, tmp_path, record_property):
    if device != "cuda":
        pytest.skip("memory is counted on a GPU only")
    import gc

    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    retriever, _, _ = stage(bases("qwen2_vl"), LORA, device, tmp_path / "run", make_pairs())
    del retriever
    gc.collect()
    kept = torch.cuda.memory_allocated() - before
    record_property("bytes_kept", kept)
    assert kept < 16 * 2**20
