"""How long a training goes on and what it takes along: accumulated batches, more steps, reports, unreadable images."""

import json
import math
import shutil
from dataclasses import asdict, replace

import pytest
import torch
from PIL import Image

from puma.errors import DataError, InputError
from puma.items import Item
from puma.retriever.model import Retriever
from puma.retriever.sentence_transformers import sentence_transformer
from puma.training import train
from puma.training.collating import PairCollator
from puma.training.config import TrainConfig
from puma.training.objective import RetrievalObjective
from puma.training.pairs import Pair
from puma.training.planned import batches_of
from puma.training.run_folder import CONFIGURATION, same_configuration
from puma.training.trainable import choose_trainable

CONFIG = TrainConfig(
    steps=6, batch_size=6, lora_rank=0, save_steps=2, precision="fp32", learning_rate=1e-3, clip=1e9, workers=0
)


def pairs(count=24):
    made = []
    for i in range(count):
        image = Item(image=Image.new("RGB", (64, 64), (i * 37 % 255, i * 91 % 255, 9)))
        for kind, candidate, task in (("p", image, 0), ("t", Item(text=f"word {i}"), 1)):
            did = f"{kind}{i}"
            made.append(Pair(Item(text=f"thing {i}"), candidate, "Find it.", task, f"q{did}", did, frozenset([did])))
    return made


def fresh(base):
    return Retriever.from_base(base, layers=2, prompt="open-quote", device="cpu")


def run(base, out, config, rows=None):
    retriever = fresh(base)
    return retriever, train(retriever, rows or pairs(), config, out, show_progress=False)


def difference(one, two):
    a, b = one.model.state_dict(), two.model.state_dict()
    return max(float((a[name].float() - b[name].float()).abs().max()) for name in a)


def test_accumulated_steps_are_adamw_on_the_batches_mean_gradient(base, tmp_path):
    config, rows = replace(CONFIG, steps=2, accumulate=3), pairs()
    trained, result = run(base, tmp_path / "run", config)
    slow = fresh(base)
    st = sentence_transformer(slow)
    del st[1:]
    choose_trainable(slow, st, config)
    st.train()
    slow.model.get_encoder("image").eval()
    objective = RetrievalObjective.from_config(st, config)
    moving = [weight for weight in slow.model.parameters() if weight.requires_grad]
    optimiser = torch.optim.AdamW(moving, weight_decay=0.0)
    batches = list(batches_of(rows, config))
    assert len(batches) == 6
    collate = PairCollator(rows, slow.inputs, config.chunks)
    for step, entry in enumerate(result.log):
        objective.progress = step / config.steps
        losses = []
        for batch in batches[3 * step : 3 * step + 3]:
            tensors = collate([{"row": row} for row in batch])
            names = [f"chunk{n}_" for n in range(config.chunks)]
            chunks = [{k[len(p) :]: v for k, v in tensors.items() if k.startswith(p)} for p in names]
            chunks = [chunk for chunk in chunks if chunk]  # so few rows may be cut into fewer
            loss = sum(objective(chunks).values())
            (loss / 3).backward()
            losses.append(loss.item())
        assert entry["loss"] == pytest.approx(sum(losses) / 3, abs=1e-4)
        assert entry["epoch"] == pytest.approx(3 * (step + 1) / 8)
        for group in optimiser.param_groups:
            group["lr"] = entry["learning_rate"]
        optimiser.step()
        optimiser.zero_grad()
    assert difference(trained, slow) < 1e-6
    assert difference(trained, fresh(base)) > 1e-4


def test_accumulation_resumes_and_counts_epochs_in_steps(base, tmp_path):
    config = replace(CONFIG, accumulate=2, lora_rank=2, lora_dropout=0.1)
    whole, _ = run(base, tmp_path / "run", config)
    shutil.rmtree(tmp_path / "run" / "checkpoint-6")
    again, _ = run(base, tmp_path / "run", config)
    assert difference(whole, again) == 0.0
    _, result = run(base, tmp_path / "epochs", replace(config, steps=0, epochs=1.0))
    assert result.steps == math.ceil(8 / 2)


def test_more_steps_go_on_at_the_longer_runs_rate(base, tmp_path):
    _, short = run(base, tmp_path / "run", replace(CONFIG, warmup=0.5))
    more = replace(CONFIG, warmup=0.5, steps=12, save_steps=5, workers=1, max_unreadable=0.5)
    longer, result = run(base, tmp_path / "run", more)
    _, straight = run(base, tmp_path / "straight", more)
    rates = {entry["step"]: entry["learning_rate"] for entry in straight.log}
    assert result.log[:6] == short.log, "what was done stays as it was"
    assert [entry["step"] for entry in result.log] == list(range(1, 13))
    for entry in result.log[6:]:
        assert entry["learning_rate"] == pytest.approx(rates[entry["step"]])
    assert (tmp_path / "run" / "checkpoint-10").is_dir(), "the new interval holds"
    assert json.loads((tmp_path / "run" / "config.json").read_text())["steps"] == 12
    lines = (tmp_path / "run" / "log.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == result.log
    assert difference(longer, fresh(base)) > 1e-4


def test_fewer_steps_than_were_done_are_refused(base, tmp_path):
    run(base, tmp_path / "run", CONFIG)
    with pytest.raises(InputError, match=r"steps=3: .* has trained 6 already"):
        run(base, tmp_path / "run", replace(CONFIG, steps=3))


def test_a_stage_that_others_stand_on_takes_no_more_steps(base, tmp_path):
    run(base, tmp_path / "run", CONFIG)
    retriever = fresh(base)
    with pytest.raises(InputError, match=r"other settings \(steps\)"):
        train(retriever, pairs(), replace(CONFIG, steps=9), tmp_path / "run", fixed=True, show_progress=False)
    train(retriever, pairs(), replace(CONFIG, save_steps=3), tmp_path / "run", fixed=True, show_progress=False)


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "trackio"])
def test_a_report_without_its_package_names_the_install_command(base, tmp_path, monkeypatch, name):
    import puma.training.arguments

    monkeypatch.setattr(puma.training.arguments, "find_spec", lambda _: None)
    with pytest.raises(InputError, match=f"report_to='{name}'.*pip install {name}"):
        run(base, tmp_path / "run", replace(CONFIG, report_to=name))


def test_tensorboard_gets_losses_by_step(base, tmp_path):
    reading = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    _, result = run(base, tmp_path / "run", replace(CONFIG, report_to="tensorboard"))
    (folder,) = {path.parent for path in (tmp_path / "run").rglob("events.out.tfevents.*")}
    events = reading.EventAccumulator(str(folder))
    events.Reload()
    seen = {event.step: event.value for event in events.Scalars("train/loss")}
    assert seen == pytest.approx({int(entry["step"]): entry["loss"] for entry in result.log}, abs=1e-5)


@pytest.mark.parametrize("workers", [0, 1])
def test_unreadable_images_are_replaced_counted_and_limited(base, tmp_path, workers):
    rows = pairs()
    for number in (0, 4):
        rows[number] = replace(rows[number], candidate=Item(image=tmp_path / f"gone{number}.png"))
    config = replace(CONFIG, steps=8, workers=workers)
    _, result = run(base, tmp_path / "run", config, rows)
    assert result.unreadable == 2
    listed = [json.loads(line) for line in (tmp_path / "run" / "unreadable.jsonl").read_text().splitlines()]
    assert sorted(entry["row"] for entry in listed) == [0, 4]
    assert json.loads((tmp_path / "run" / "log.json").read_text())["unreadable"] == 2
    with pytest.raises(DataError, match="max_unreadable=0"):
        run(base, tmp_path / "strict", replace(config, max_unreadable=0.0), rows)


def test_a_run_that_names_no_loss_was_begun_when_there_was_one_only(tmp_path):
    before = {name: value for name, value in asdict(replace(CONFIG, loss="mac")).items() if name != "loss"}
    (tmp_path / CONFIGURATION).write_text(json.dumps({**before, "rows": 8, "processes": 1}))
    with pytest.raises(InputError, match=r"other settings \(loss\)"):
        same_configuration(tmp_path, replace(CONFIG, loss="split-mac"), 8)
    same_configuration(tmp_path, replace(CONFIG, loss="mac"), 8)
