"""Training: what moves and what does not, resume after kill -9, the objective against its parts, configuration
faults."""

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from puma.checkpoints import MARK, latest_checkpoint
from puma.data.collating import PairCollator, false_negatives
from puma.data.pairs import Pair
from puma.encoding import forward_states
from puma.errors import ConfigError, InputError
from puma.interchange import sentence_transformer
from puma.items import Item
from puma.losses import distillation_loss, mac_loss
from puma.losses.objective import RetrievalObjective
from puma.model import Retriever
from puma.settings import TrainConfig
from puma.teacher import CaptionTargets, PromptTargets, caption_targets, teacher_states
from puma.training import train

FULL = TrainConfig(
    steps=6, batch_size=8, lora_rank=0, save_steps=2, precision="fp32", learning_rate=1e-3, symmetric=True
)


def make_pairs(count=24):
    def drawn(i):
        return Image.fromarray(np.full((64, 64, 3), (i * 37) % 255, dtype=np.uint8))

    pairs = []
    for i in range(count):
        for kind, candidate, task in (("p", Item(image=drawn(i)), 0), ("t", Item(text=f"word {i}"), 1)):
            did = f"{kind}{i}"
            pairs.append(Pair(Item(text=f"thing {i}"), candidate, "Find it.", task, f"q{did}", did, frozenset([did])))
    return pairs


def fresh(base):
    return Retriever.from_base(base, layers=2, prompt="open-quote", device="cpu")


def weights(retriever):
    return {name: value.clone() for name, value in retriever.model.state_dict().items()}


def difference(a, b):
    assert a.keys() == b.keys()
    return max(float((a[name].float() - b[name].float()).abs().max()) for name in a)


@pytest.mark.parametrize(
    "changes", [{}, {"lora_rank": 4, "lora_alpha": 8}, {"projector_rate": 1e-3}], ids=["full", "lora", "projector"]
)
def test_only_the_decoder_layers_move(base, tmp_path, changes):
    retriever = fresh(base)
    before = weights(retriever)
    result = train(retriever, make_pairs(), replace(FULL, **changes), tmp_path / "run", show_progress=False)
    moved = {name for name, value in retriever.model.state_dict().items() if not torch.equal(value, before[name])}
    parts = ("language_model.layers.", "language_model.norm.") + (
        ("multi_modal_projector.",) if "projector_rate" in changes else ()
    )
    assert moved
    assert all(name.startswith(parts) for name in moved), (
        "vision tower (BatchNorm statistics too) and embeddings are frozen"
    )
    assert any(name.startswith(parts[-1]) for name in moved) or parts[-1] == "language_model.norm."
    assert {"loss", "contrastive", "step"} <= result.log[0].keys()
    assert result.log[-1]["loss"] < result.log[0]["loss"]


@pytest.mark.parametrize("rank", [0, 4])
def test_a_resumed_run_equals_an_uninterrupted_one(base, tmp_path, rank):
    config = replace(FULL, lora_rank=rank, lora_dropout=0.1)
    whole = fresh(base)
    train(whole, make_pairs(), config, tmp_path / "whole", show_progress=False)
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    shutil.rmtree(tmp_path / "cut" / "checkpoint-6")
    (tmp_path / "cut" / "checkpoint-5").mkdir()  # half-written: no mark
    (tmp_path / "cut" / "checkpoint-5" / "optimizer.pt").write_bytes(b"half")
    assert latest_checkpoint(tmp_path / "cut").endswith("checkpoint-4")
    resumed = fresh(base)
    train(resumed, make_pairs(), config, tmp_path / "cut", show_progress=False)
    assert difference(weights(whole), weights(resumed)) == 0.0
    assert not (tmp_path / "cut" / "checkpoint-5" / "optimizer.pt").exists()


CHILD = """
import sys; sys.path.insert(0, {tests!r})
from test_training import FULL, fresh, make_pairs
from dataclasses import replace
from pathlib import Path
from puma.training import train
train(fresh(Path({base!r})), make_pairs(), replace(FULL, steps=400), {out!r}, show_progress=False)
"""


def test_kill_minus_nine_loses_only_what_came_after_the_last_checkpoint(base, tmp_path):
    out = tmp_path / "run"
    code = CHILD.format(tests=str(Path(__file__).parent), base=str(base), out=str(out))
    child = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", code], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    deadline = time.monotonic() + 120
    while not list(out.glob(f"checkpoint-*/{MARK}")) and child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    assert child.poll() is None, child.stderr.read().decode()[-2000:]
    os.kill(child.pid, signal.SIGKILL)
    child.communicate()
    kept = latest_checkpoint(out)
    step = int(kept.rsplit("-", 1)[1])
    assert step >= 2
    assert all((path / MARK).is_file() for path in out.glob("checkpoint-*"))
    from safetensors.torch import load_file

    assert load_file(Path(kept) / "trainable.safetensors")


def test_another_configuration_does_not_continue_the_run(base, tmp_path):
    train(fresh(base), make_pairs(), replace(FULL, steps=2), tmp_path / "run", show_progress=False)
    with pytest.raises(InputError, match="steps"):
        train(fresh(base), make_pairs(), replace(FULL, steps=4), tmp_path / "run", show_progress=False)


def test_objective_is_its_parts_on_the_whole_batch(base):
    """Chunks, padding and order change nothing: the loss equals the plain one on item-by-item states."""
    retriever, pairs = fresh(base), make_pairs(6)
    asked = [(p.query, p.instruction) for p in pairs] + [(p.candidate, None) for p in pairs]
    fake_teacher = {
        retriever.inputs.written([i], a)[0]: np.random.default_rng(n).normal(size=32) for n, (i, a) in enumerate(asked)
    }
    collate = PairCollator(pairs, retriever.inputs, chunks=3, teacher=PromptTargets(retriever, fake_teacher))
    batch = collate([{"row": n} for n in range(len(pairs))])
    features = []
    for number in range(3):
        prefix = f"chunk{number}_"
        features.append({key[len(prefix) :]: value for key, value in batch.items() if key.startswith(prefix)})
    st = sentence_transformer(retriever)
    objective = RetrievalObjective(st, temperature=0.1, decay=1.0, distillation_weight=0.5)
    objective.progress = 0.5
    with torch.no_grad():
        terms = objective(features)
        states = torch.cat(
            [forward_states(retriever.model, retriever.inputs.features([item], ask)) for item, ask in asked]
        )
    half = len(pairs)
    codes = torch.tensor([p.target_modality for p in pairs])
    plain = mac_loss(
        states[:half],
        states[half:],
        codes,
        codes,
        temperature=0.1,
        hard_temperature=0.1 * np.exp(-1.0),
        exclude=false_negatives(pairs),
    )
    taught = [n for n, (item, _) in enumerate(asked) if item.image is None]
    rows = [fake_teacher[retriever.inputs.written([asked[n][0]], asked[n][1])[0]] for n in taught]
    teacher = torch.tensor(np.stack(rows)).float()
    assert float(terms["contrastive"]) == pytest.approx(float(plain), abs=1e-5)
    assert float(terms["distillation"]) == pytest.approx(
        0.5 * float(distillation_loss(states[taught], teacher)), rel=1e-5
    )


def test_known_positives_and_repeats_are_false_negatives():
    def pair(did, known):
        return Pair(Item(text="a"), Item(text="b"), None, 1, "q" + did, did, frozenset(known))

    mask = false_negatives([pair("1", ["1", "2"]), pair("2", ["2"]), pair("1", ["1"])])
    assert mask.tolist() == [[False, True, True], [False, False, False], [True, False, False]]


def test_teacher_is_the_whole_base_and_its_states_are_kept(base, tmp_path):
    teacher = Retriever.from_base(base, prompt="open-quote", device="cpu")
    asked = [(Item(text=f"word {i}"), "Find it." if i % 2 else None) for i in range(7)]
    states = teacher_states(teacher, asked + asked[:2], store=tmp_path, shard_size=3, batch_size=2)
    assert len(states) == 7
    with torch.no_grad():
        direct = forward_states(teacher.model, teacher.inputs.features([asked[3][0]], asked[3][1]))[0].numpy()
    np.testing.assert_allclose(
        states[teacher.inputs.written([asked[3][0]], asked[3][1])[0]], direct, rtol=2e-3, atol=2e-3
    )
    assert not any(parameter.grad is not None for parameter in teacher.model.parameters())
    shards = sorted(tmp_path.rglob("shard-*.npz"))
    assert len(shards) == 3
    shards[-1].unlink()  # as if killed before the last shard
    again = teacher_states(teacher, asked, store=tmp_path, shard_size=3, batch_size=2)
    assert all(np.array_equal(again[text], states[text]) for text in states)
    other = Retriever.from_base(base, layers=3, prompt="open-quote", device="cpu")
    teacher_states(other, asked[:1], store=tmp_path)
    assert len(list(tmp_path.iterdir())) == 2, "another teacher has another folder"
    with pytest.raises(InputError, match="text items"):
        teacher_states(teacher, [(Item(image=Image.new("RGB", (8, 8))), None)])


def test_distillation_pulls_the_student_to_the_teacher(base, tmp_path):
    pairs = [pair for pair in make_pairs() if pair.task == 1]
    asked = [(p.query, p.instruction) for p in pairs] + [(p.candidate, None) for p in pairs]
    teacher = Retriever.from_base(base, prompt="open-quote", device="cpu")
    states = PromptTargets(teacher, teacher_states(teacher, asked))
    config = replace(
        FULL, stage="distil", steps=30, decay=0.0, contrastive_weight=0.0, distillation_weight=1.0, save_steps=30
    )
    result = train(fresh(base), pairs, config, tmp_path / "run", teacher=states, show_progress=False)
    assert result.log[-1]["distillation"] < 0.7 * result.log[0]["distillation"]
    with pytest.raises(InputError, match="needs a teacher"):
        train(fresh(base), pairs, config, tmp_path / "other", show_progress=False)


def test_a_picture_is_taught_its_captions_state(base):
    teacher = Retriever.from_base(base, prompt="open-quote", device="cpu")
    targets = caption_targets(teacher, ["red fox", "blue heart"], {"a.png": "red fox"}, centre=True)
    fox, heart = targets(Item(text="red fox"), "Find it."), targets(Item(text="blue heart"), None)
    np.testing.assert_allclose(fox + heart, 0, atol=1e-4)  # two centred states are opposite
    assert np.array_equal(targets(Item(image=Path("a.png")), None), fox)
    assert targets(Item(image="a.png", text="but blue"), None) is None
    assert targets(Item(image="b.png"), None) is None
    assert targets(Item(text="unknown"), None) is None
    raw = CaptionTargets({"x": np.ones(3, np.float16)})
    assert np.array_equal(raw(Item(text="x"), None), np.ones(3))


def test_every_fault_of_a_configuration_is_named_at_once():
    with pytest.raises(ConfigError) as caught:
        TrainConfig.from_dict({"stage": "third", "batch_size": 1, "warmup": 2, "lerning_rate": 1})
    for word in ("third", "batch_size=1", "warmup=2", "lerning_rate"):
        assert word in str(caught.value)
