"""The same vectors on the GPU as on the CPU, in fp32 to rounding and in bf16 nearly, for every family."""

import numpy as np
import pytest
import torch
from gpu_material import known_faults, mixed

from puma.retriever.model import Retriever
from support import families

pytestmark = pytest.mark.gpu

FP32, BF16 = 2e-4, 0.98
"""The largest difference of a unit vector's number in fp32; the least cosine in bf16, on random weights."""


def encoded(base, where, kind, **options):
    retriever = Retriever.from_base(base, layers=3, device=where, dtype=kind)
    vectors = retriever.encode(mixed(), instruction="Find it.", batch_size=4)
    assert np.isfinite(vectors).all()
    return vectors


@pytest.mark.parametrize("family", families.FAMILIES)
def test_vectors_equal_those_of_the_cpu(family, bases, device, record_property):
    reference = encoded(bases(family), "cpu", torch.float32)
    difference = float(np.abs(encoded(bases(family), device, torch.float32) - reference).max())
    cosine = float((encoded(bases(family), device, torch.bfloat16) * reference).sum(1).min())
    on_cpu = float((encoded(bases(family), "cpu", torch.bfloat16) * reference).sum(1).min())
    record_property("fp32_largest_difference", difference)
    record_property("bf16_least_cosine", round(cosine, 5))
    record_property("bf16_least_cosine_on_the_cpu", round(on_cpu, 5))
    assert difference < FP32
    assert cosine > min(BF16, on_cpu - 0.01), "bf16 on this device is worse than bf16 on the CPU"


@pytest.mark.parametrize("family", families.FAMILIES)
def test_autocast_gives_nearly_the_same(family, bases, device, record_property):
    known_faults(family)
    retriever = Retriever.from_base(bases(family), layers=3, device=device, dtype=torch.float32)
    whole = retriever.encode(mixed())
    retriever.autocast = torch.bfloat16
    cosine = float((retriever.encode(mixed()) * whole).sum(1).min())
    record_property("least_cosine", round(cosine, 5))
    assert cosine > 0.95


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_attention_implementations_agree(attention, bases, device, record_property):
    base = bases("qwen2_vl")
    reference = encoded(base, "cpu", torch.float32)
    retriever = Retriever.from_base(base, layers=3, device=device, dtype=torch.float32, attn=attention)
    difference = float(np.abs(retriever.encode(mixed(), instruction="Find it.", batch_size=4) - reference).max())
    record_property("largest_difference", difference)
    assert difference < FP32


@pytest.mark.parametrize("family", ["qwen2_vl", "idefics3", "fast_vlm"])
def test_plain_sentence_transformers_on_the_device(family, bases, device, tmp_path, record_property):
    from sentence_transformers import SentenceTransformer

    retriever = Retriever.from_base(bases(family), layers=3, device=device, dtype=torch.float32)
    folder = retriever.save_pretrained(tmp_path / "model")
    items = [
        item.text if item.image is None else {"image": item.image, **({"text": item.text} if item.text else {})}
        for item in mixed()
    ]
    theirs = SentenceTransformer(str(folder), device=device).encode(items, prompt="Find it.")
    difference = float(np.abs(retriever.encode(items, instruction="Find it.") - theirs).max())
    record_property("largest_difference", difference)
    assert difference < FP32
