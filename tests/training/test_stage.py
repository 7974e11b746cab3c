"""Training: what moves and what does not, resume after kill -9, the objective against its parts, teachers of both
kinds."""

import json
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

from puma.errors import InputError
from puma.items import Item
from puma.losses import distillation_loss, false_negatives, mac_loss
from puma.retriever.encoding.states import forward_states
from puma.retriever.model import Retriever
from puma.retriever.sentence_transformers import sentence_transformer
from puma.training import train
from puma.training.collating import PairCollator, id_key, known_keys
from puma.training.config import TrainConfig
from puma.training.objective import RetrievalObjective
from puma.training.pairs import Pair
from puma.training.planned import batches_of
from puma.training.run_folder import MARK, latest_checkpoint
from puma.training.teacher.dual_depth import DualDepth
from puma.training.teacher.store import PromptTargets, teacher_states

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
from training.test_stage import FULL, fresh, make_pairs
from dataclasses import replace
from pathlib import Path
from puma.training import train
train(fresh(Path({base!r})), make_pairs(), replace(FULL, steps=400), {out!r}, show_progress=False)
"""


def test_kill_minus_nine_loses_only_what_came_after_the_last_checkpoint(base, tmp_path):
    out = tmp_path / "run"
    code = CHILD.format(tests=str(Path(__file__).parents[1]), base=str(base), out=str(out))
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
    changed = replace(FULL, steps=2, batch_size=4, temperature=0.1)
    with pytest.raises(InputError, match="batch_size, temperature"):
        train(fresh(base), make_pairs(), changed, tmp_path / "run", show_progress=False)


def test_a_model_says_what_lengths_it_was_trained_for(base, tmp_path):
    """In its folder too, in vLLM's words; a run goes on with the same lengths only; training without them ends it."""
    nested = replace(FULL, steps=2, dimensions=(4, 8))
    retriever = fresh(base)
    assert retriever.dimensions == ()
    train(retriever, make_pairs(), nested, tmp_path / "run", show_progress=False)
    assert retriever.dimensions == (4, 8)
    folder = retriever.save_pretrained(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    assert config["matryoshka_dimensions"] == [4, 8, retriever.dim]
    loaded = Retriever.from_pretrained(folder, device="cpu")
    assert loaded.dimensions == (4, 8)
    resumed = fresh(base)
    train(resumed, make_pairs(), nested, tmp_path / "run", show_progress=False)
    assert resumed.dimensions == (4, 8)
    with pytest.raises(InputError, match=r"other settings \(dimensions\)"):
        train(fresh(base), make_pairs(), replace(nested, dimensions=(4,)), tmp_path / "run", show_progress=False)
    train(loaded, make_pairs(), replace(FULL, steps=2), tmp_path / "plain", show_progress=False)
    assert loaded.dimensions == ()
    assert "matryoshka_dimensions" not in (loaded.save_pretrained(tmp_path / "after") / "config.json").read_text()


def test_lengths_that_the_model_does_not_have_are_refused_before_anything_is_written(base, tmp_path):
    retriever = fresh(base)
    wrong = replace(FULL, dimensions=(4, retriever.dim))
    with pytest.raises(InputError, match=f"have {retriever.dim} numbers, which are always trained"):
        train(retriever, make_pairs(), wrong, tmp_path / "run", show_progress=False)
    assert not (tmp_path / "run").exists()


def test_objective_is_its_parts_on_the_whole_batch(base):
    """Chunks, padding and order change nothing: the loss equals the plain one on item-by-item states."""
    retriever, pairs = fresh(base), make_pairs(6)
    asked = [(p.query, p.instruction) for p in pairs] + [(p.candidate, None) for p in pairs]
    fake_teacher = {
        retriever.inputs.written([i], a)[0]: np.random.default_rng(n).normal(size=32) for n, (i, a) in enumerate(asked)
    }
    collate = PairCollator(
        pairs, retriever.inputs, chunks=3, equal_chunks=True, teacher=PromptTargets(retriever, fake_teacher)
    )
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
    keys = torch.tensor([id_key(pair.candidate_id) for pair in pairs])
    plain = mac_loss(
        states[:half],
        states[half:],
        codes,
        codes,
        temperature=0.1,
        hard_temperature=0.1 * np.exp(-1.0),
        exclude=false_negatives(known_keys(pairs), keys, keys),
    )
    taught = [n for n, (item, _) in enumerate(asked) if item.image is None]
    rows = [fake_teacher[retriever.inputs.written([asked[n][0]], asked[n][1])[0]] for n in taught]
    teacher = torch.tensor(np.stack(rows)).float()
    assert float(terms["contrastive"]) == pytest.approx(float(plain), abs=1e-5)
    assert float(terms["distillation"]) == pytest.approx(
        0.5 * float(distillation_loss(states[taught], teacher)), rel=1e-5
    )


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


def both(count=12):
    """Pairs whose queries have an image and a text, and that bring hard negatives."""
    made = []
    for i in range(count):
        query = Item(text=f"thing {i}", image=Image.new("RGB", (64, 64), (i * 20, 0, 0)))
        negative = (f"n{i}", Item(text=f"not {i}"))
        made.append(
            Pair(query, Item(text=f"word {i}"), "Find it.", 6, f"q{i}", f"c{i}", frozenset([f"c{i}"]), (negative,))
        )
    return made


@pytest.mark.parametrize("changes", [{"gradient_checkpointing": True}, {"grad_cache": 3}, {"workers": 1}])
def test_what_spares_memory_or_time_changes_no_weight(base, tmp_path, changes):
    config = replace(FULL, steps=3, hard_negatives=1, modality_dropout=0.5)
    plain, spared = fresh(base), fresh(base)
    train(plain, both(), config, tmp_path / "plain", show_progress=False)
    train(spared, both(), replace(config, **changes), tmp_path / "spared", show_progress=False)
    assert difference(weights(plain), weights(spared)) < 1e-5
    moved = difference(weights(plain), weights(fresh(base)))
    assert moved > 1e-4
    assert not any(getattr(module, "gradient_checkpointing", False) for module in spared.model.modules())


def test_a_run_with_dropped_parts_goes_on_over_epochs_as_if_never_stopped(base, tmp_path):
    """Its own draws an epoch, the same after a resume in the middle of the second."""
    config = replace(FULL, steps=5, batch_size=5, save_steps=3, modality_dropout=0.5)
    whole, resumed = fresh(base), fresh(base)
    result = train(whole, both(), config, tmp_path / "run", show_progress=False)
    assert [entry["epoch"] for entry in result.log] == [0.5, 1.0, 1.5, 2.0, 2.5]
    shutil.rmtree(tmp_path / "run" / "checkpoint-5")
    train(resumed, both(), config, tmp_path / "run", show_progress=False)
    assert difference(weights(whole), weights(resumed)) == 0.0
    undropped = fresh(base)
    train(undropped, both(), replace(config, modality_dropout=0.0), tmp_path / "other", show_progress=False)
    assert difference(weights(whole), weights(undropped)) > 0


def test_batches_told_are_the_batches_taken(base, tmp_path):
    pairs, met = [pair for pair in make_pairs(6) if pair.task == 1], []

    def target(item, instruction):
        met.append(item.text)
        return np.zeros(32, np.float32)

    config = replace(FULL, steps=5, batch_size=4, distillation_weight=0.1)
    train(fresh(base), pairs, config, tmp_path / "run", teacher=target, show_progress=False)
    output = list(batches_of(pairs, config))
    assert len(output) == 5, "over as many epochs as it takes"
    assert met == [item.text for rows in output for side in ("query", "candidate") for item in sides(pairs, rows, side)]


def sides(pairs, rows, side):
    return [getattr(pairs[row], side) for row in rows]


def test_log_tells_both_groups_shares(base, tmp_path):
    config = replace(FULL, steps=2, loss="mac", temperature=1.0, decay=0.0)  # flat, so that neither group takes all
    log = train(fresh(base), make_pairs(), config, tmp_path / "run", show_progress=False).log
    for entry in log:
        assert 0 < entry["share_hard"] < 1, "pictures and texts are both among the targets"
        assert entry["share_hard"] + entry["share_other"] == pytest.approx(1.0, abs=1e-5)
    split = replace(config, loss="split-mac", other_weight=0.5)
    log = train(fresh(base), make_pairs(), split, tmp_path / "split", show_progress=False).log
    for entry in log:
        assert min(entry["same_loss"], entry["other_loss"]) > 0
        assert entry["same_loss"] + entry["other_loss"] == pytest.approx(entry["loss"], abs=1e-3)
        assert "share_hard" not in entry
    lines = (tmp_path / "split" / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["other_loss"] for line in lines] == [entry["other_loss"] for entry in log]


SHARED = replace(
    FULL, steps=3, lora_rank=4, lora_alpha=8, lora_dropout=0.0, distillation_weight=0.5, teacher="shared", save_steps=2
)


def shared_student(base):
    retriever = Retriever.from_base(base, prompt="open-quote", device="cpu")
    return retriever, DualDepth(retriever.model, 2, ret_id=retriever.inputs.ret_id)


@pytest.mark.parametrize("changes", [{}, {"grad_cache": 5}, {"precision": "bf16", "gradient_checkpointing": True}])
def test_a_shared_teacher_trains_what_a_separate_one_would(base, tmp_path, changes):
    config, whole = replace(SHARED, **changes), Retriever.from_base(base, prompt="open-quote", device="cpu")
    bf16 = config.precision == "bf16"

    def separate(item, instruction):
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            return forward_states(whole.model, whole.inputs.features([item], instruction))[0].numpy()

    student, dual = shared_student(base)
    train(student, make_pairs(), config, tmp_path / "shared", teacher=dual, show_progress=False)
    other = fresh(base)
    train(
        other, make_pairs(), replace(config, teacher="store"), tmp_path / "two", teacher=separate, show_progress=False
    )
    start = weights(fresh(base))
    assert difference(weights(student), weights(other)) < (2e-3 if bf16 else 1e-5)
    assert difference(weights(other), start) > 1e-3
    assert student.model.config.get_text_config().num_hidden_layers == 2
    assert student.encode(["a thing"]).shape == (1, 32)


def test_a_shared_run_resumes_and_a_wrong_teacher_is_refused(base, tmp_path):
    whole, dual = shared_student(base)
    train(whole, make_pairs(), SHARED, tmp_path / "run", teacher=dual, show_progress=False)
    shutil.rmtree(tmp_path / "run" / "checkpoint-3")
    again, dual = shared_student(base)
    train(again, make_pairs(), SHARED, tmp_path / "run", teacher=dual, show_progress=False)
    assert difference(weights(whole), weights(again)) == 0.0
    student, dual = shared_student(base)
    for config, teacher, said in (
        (SHARED, None, "needs a teacher"),
        (SHARED, lambda item, ask: None, "'shared' takes a DualDepth"),
        (replace(SHARED, teacher="store"), dual, "'store' one of"),
        (SHARED, shared_student(base)[1], "another model"),
        (replace(SHARED, distillation_weight=0.0), dual, "leave it out"),
    ):
        with pytest.raises(InputError, match=said):
            train(student, make_pairs(), config, tmp_path / "other", teacher=teacher, show_progress=False)
    assert not (tmp_path / "other").exists()


def test_the_pipeline_is_made_without_writing_weights(base, tmp_path, monkeypatch):
    from sentence_transformers import SentenceTransformer

    retriever = fresh(base)
    retriever.save_pretrained(tmp_path / "model")
    monkeypatch.setattr(type(retriever.model), "save_pretrained", None)  # whoever calls it fails
    st = sentence_transformer(retriever)
    assert st[0].model is retriever.model
    asked = ["a red fox", {"text": "blue heart", "image": Image.new("RGB", (64, 64), "blue")}]
    loaded = SentenceTransformer(str(tmp_path / "model"), device="cpu")
    for item in asked:
        np.testing.assert_allclose(st.encode([item]), loaded.encode([item]), atol=1e-6)
    assert [str(module) for module in st] == [str(module) for module in loaded]


def test_a_single_step_trains(base, tmp_path):
    """A warm-up's first step has a rate of 0, so a run of one step must have none."""
    retriever = fresh(base)
    before = weights(retriever)
    train(retriever, make_pairs(), replace(FULL, steps=1), tmp_path / "run", show_progress=False)
    assert difference(weights(retriever), before) > 0
