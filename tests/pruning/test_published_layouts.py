"""Checkpoints in their publishers' layout: every tensor arrives, and the whole road from there works.

What the layouts are and where that is known from: published_bases. Width is the true one (Qwen2-VL-2B, Qwen3-VL-2B,
SmolVLM-256M), depth is cut to three decoder layers and two to four vision layers. At most 6 GB of memory and two
minutes a family on one core.
"""

import gc
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

from puma.errors import ModelError
from puma.items import Item
from puma.pruning import count_parameters, prune_folder
from puma.pruning.loading import load_model
from puma.retriever.model import Retriever
from puma.training import train
from puma.training.config import TrainConfig
from puma.training.pairs import Pair
from support import published_bases as published

pytestmark = pytest.mark.slow

STEP = TrainConfig(  # the first step is the warm-up's, at rate 0
    steps=2, batch_size=2, chunks=1, lora_rank=4, lora_alpha=8, precision="fp32", learning_rate=1e-3, warmup=0.0
)
PARAMETERS = {  # embeddings, three decoder layers and the final norm, by hand from the published shapes
    "qwen2_vl": 151936 * 1536
    + 3 * (2 * 1536 * 1536 + 2 * 1536 * 256 + 3 * 1536 * 8960 + 1536 + 2 * 256 + 2 * 1536)
    + 1536,
    "qwen3_vl": 151936 * 2048 + 3 * (2 * 2048 * 2048 + 2 * 2048 * 1024 + 3 * 2048 * 6144 + 2 * 128 + 2 * 2048) + 2048,
    "smolvlm": 49280 * 576 + 3 * (2 * 576 * 576 + 2 * 576 * 192 + 3 * 576 * 1536 + 2 * 576) + 576,
}
MIXED = [
    "a red fox",
    {"image": Image.effect_noise((150, 110), 60).convert("RGB")},
    {"image": Image.new("RGB", (64, 200), (200, 30, 30)), "text": "but blue"},
    "a longer text about two cats on a mat, to be padded against",
]


@pytest.fixture(scope="module", params=published.FAMILIES)
def checkpoint(request, tmp_path_factory):
    """(family, folder), the folder gone after the family's tests: a gigabyte each."""
    import shutil

    folder = tmp_path_factory.mktemp("published") / request.param
    published.write(request.param, folder)
    yield request.param, folder
    shutil.rmtree(folder)


def limit(family):
    return (64, 64) if family == "smolvlm" else (4, 16)


def opened(checkpoint, **options):
    family, folder = checkpoint
    return Retriever.from_base(folder, image_tokens=limit(family), device="cpu", **options)


def written(folder):
    """The checkpoint's tensors, one after the other."""
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - a safe_open is no mapping
                yield name, tensors.get_tensor(name)


def test_every_tensor_arrives(checkpoint):
    family, folder = checkpoint
    retriever = opened(checkpoint)
    assert retriever.model.dtype == torch.bfloat16
    left, rows = dict(retriever.model.named_parameters()), retriever.inputs.ret_id
    for name, tensor in written(folder):
        ours = published.base_model_name(family, name)
        if ours is None:
            continue
        loaded = left.pop(ours)
        if loaded is retriever.model.get_input_embeddings().weight:  # the row of [RET] is our own
            loaded, tensor = loaded[:rows], tensor[:rows]
        assert torch.equal(loaded, tensor), name
    assert not left, "parameters that no tensor of the checkpoint filled"
    vision = sum(p.numel() for n, p in retriever.model.named_parameters() if "vis" in n or "connector" in n)
    grown = max(0, rows + 1 - retriever.model.config.get_text_config().vocab_size)
    expected = PARAMETERS[family.removesuffix("_untied")] + vision
    assert count_parameters(retriever.model)["total"] - expected in (0, grown, (rows + 1 - 49280) * 576)


def test_a_cut_load_reads_the_same_layers(checkpoint):
    family, folder = checkpoint
    for keep_last, layers in ((False, [0, 1]), (True, [0, 2])):
        model = load_model(folder, layers=2, keep_last=keep_last, head=False)
        text = next(name for name, _ in model.named_parameters() if name.endswith("layers.0.input_layernorm.weight"))
        text = text.removesuffix("layers.0.input_layernorm.weight")
        kept = dict(model.named_parameters())
        for name, tensor in written(folder):
            ours = published.base_model_name(family, name)
            if ours is None or not ours.startswith(f"{text}layers."):
                continue
            number, _, rest = ours.removeprefix(f"{text}layers.").partition(".")
            if int(number) in layers:
                assert torch.equal(kept.pop(f"{text}layers.{layers.index(int(number))}.{rest}"), tensor), name
        assert not [name for name in kept if name.startswith(f"{text}layers.")]


@pytest.mark.parametrize("rank", [0, 4], ids=["full", "lora"])
def test_prune_train_save_reload(checkpoint, tmp_path, rank):
    from sentence_transformers import SentenceTransformer

    if checkpoint[0] == "qwen2_vl_untied":
        pytest.skip("from here on the same as qwen2_vl: a retriever has no head")
    retriever = opened(checkpoint, layers=2, dtype=torch.float32)
    before = retriever.encode(MIXED, instruction="Find it.")
    result = train(retriever, pairs(), replace(STEP, lora_rank=rank), tmp_path / "run", show_progress=False)
    assert np.isfinite(result.log[-1]["loss"])
    after = retriever.encode(MIXED, instruction="Find it.")
    assert np.abs(after - before).max() > 1e-5, "the step changed nothing"
    folder = retriever.save_pretrained(tmp_path / "saved")
    del retriever
    gc.collect()  # the trainer's circles hold the optimiser
    again = Retriever.from_pretrained(folder, device="cpu")
    assert np.abs(again.encode(MIXED, instruction="Find it.") - after).max() < 1e-5
    ours = again.encode(MIXED)
    del again
    gc.collect()
    plain = SentenceTransformer(str(folder), device="cpu")
    assert np.abs(plain.encode(MIXED, prompt="Find it.") - after).max() < 1e-5
    assert np.abs(plain.encode(MIXED) - ours).max() < 1e-5


def test_prune_writes_a_folder_with_its_head(checkpoint, tmp_path):
    family, folder = checkpoint
    out = prune_folder(folder, tmp_path / "cut", 2)
    model = load_model(out)
    head, table = model.get_output_embeddings().weight, model.get_input_embeddings().weight
    assert (head is table) == (not published.LAYOUTS[family].lm_head)
    if published.LAYOUTS[family].lm_head:
        assert torch.equal(head, published.content("lm_head.weight", head.shape))
    retriever = Retriever.from_base(out, image_tokens=limit(family), device="cpu")
    assert retriever.encode(MIXED).shape == (4, retriever.dim)


def test_a_shard_that_is_missing_is_refused(checkpoint, tmp_path):
    import shutil

    _, folder = checkpoint
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken, ignore=shutil.ignore_patterns("model-00002*"))
    with pytest.raises(ModelError, match="broken"):
        load_model(broken, head=False)


def pairs():
    def drawn(i):
        return Item(image=Image.new("RGB", (90, 70), (40 * i, 255 - 40 * i, 90)))

    made = []
    for i in range(4):
        candidate = drawn(i) if i % 2 else Item(text=f"word {i}")
        made.append(Pair(Item(text=f"thing {i}"), candidate, "Find it.", i % 2, f"q{i}", f"c{i}", frozenset([f"c{i}"])))
    return made
