"""Rounds of more training, and the mean of weights after each."""

import copy
import re
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from puma.errors import ConfigError, InputError
from puma.retriever.model import Retriever
from puma.training.recipes.recipe import read_recipe
from puma.training.rounds import Rounds, mean_with_before, mix_weights, names_with_rounds, train_rounds
from puma.training.two_stages import train_two_stages
from training.test_two_stages import RETRIEVE, texts

FULL = replace(RETRIEVE, lora_rank=0)


class Tied(nn.Module):
    """Two names of one matrix, whole numbers, and weights of bfloat16."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(3, 3, bias=False)
        self.second = nn.Linear(3, 3, bias=False)
        self.second.weight = self.first.weight
        self.narrow = nn.Linear(2, 2).to(torch.bfloat16)
        self.register_buffer("count", torch.tensor(7))


def test_a_mean_is_the_closed_form_and_tied_weights_are_mixed_once():
    torch.manual_seed(0)
    ours, others = Tied(), Tied()
    others.count.fill_(9)
    before = copy.deepcopy(ours.state_dict())
    mix_weights(ours, others.state_dict(), 0.25)
    after = ours.state_dict()
    for name in ("first.weight", "second.weight"):
        torch.testing.assert_close(after[name], 0.25 * before[name] + 0.75 * others.state_dict()[name])
    expected = (0.25 * before["narrow.weight"].float() + 0.75 * others.narrow.weight.float()).to(torch.bfloat16)
    torch.testing.assert_close(after["narrow.weight"], expected)
    assert after["narrow.weight"].dtype == torch.bfloat16
    assert after["count"] == 7


def test_a_share_of_one_and_missing_names_leave_weights_as_they_are():
    ours, others = Tied(), Tied()
    before = copy.deepcopy(ours.state_dict())
    mix_weights(ours, others.state_dict(), 1.0)
    mix_weights(ours, {}, 0.5)
    assert all(torch.equal(before[name], tensor) for name, tensor in ours.state_dict().items())


def test_what_was_frozen_stays_bit_for_bit():
    torch.manual_seed(0)
    ours = nn.Linear(50, 50)
    others = copy.deepcopy(ours.state_dict())
    with torch.no_grad():
        ours.weight[0] += 1
    assert not torch.equal(0.6 * ours.weight + 0.4 * ours.weight, ours.weight), "else this test cannot fail"
    mix_weights(ours, others, 0.6)
    assert torch.equal(ours.weight[1:], others["weight"][1:])
    assert torch.equal(ours.bias, others["bias"])
    torch.testing.assert_close(ours.weight[0], others["weight"][0] + 0.6)


def test_an_exception_takes_no_mean():
    model = nn.Linear(1, 1)

    def interrupted():
        with mean_with_before(lambda: model, 0.5):
            model.weight.data.fill_(3.0)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert model.weight.item() == 3.0


def test_names_say_what_stands_on_what():
    rounds = Rounds(FULL, count=2)
    assert names_with_rounds(["retrieve"], rounds) == {"retrieve": "round-1", "round-1": "round-2", "round-2": None}
    assert names_with_rounds(["distil", "retrieve"], None) == {"distil": "retrieve", "retrieve": None}
    assert [config.seed for config in rounds.configs] == [0, 1]


@pytest.mark.parametrize("bad", [{"count": 0}, {"count": True}, {"share": 0}, {"share": 1.5}, {"share": "half"}])
def test_numbers_out_of_range_are_refused(bad):
    with pytest.raises(InputError, match=f"{next(iter(bad))}={next(iter(bad.values()))!r}: give"):
        Rounds(FULL, **bad)


def weights(folder):
    return {name: tensor.float() for name, tensor in load_file(folder / "model.safetensors").items()}


def test_rounds_are_trainings_of_the_mean_before(base, tmp_path):
    """Beside the slow obvious way: one command after another, means by hand."""
    data, options = texts(tmp_path / "data"), {"prompt": "open-quote"}
    rounds = Rounds(replace(FULL, seed=5, learning_rate=1e-3), count=2, share=0.25)
    logs = train_two_stages(base, data, tmp_path / "out", layers=2, retrieve=FULL, rounds=rounds, **options)
    assert set(logs) == {"retrieve", "round-1", "round-2"}

    train_two_stages(base, data, tmp_path / "plain", layers=2, retrieve=FULL, **options)
    last = tmp_path / "plain"
    for number, config in enumerate(rounds.configs):
        after = tmp_path / f"after-{number}"
        train_two_stages(last, data, after, retrieve=config, **options)
        mean = {name: 0.75 * weights(last)[name] + 0.25 * tensor for name, tensor in weights(after).items()}
        made = Retriever.from_pretrained(after, device="cpu")
        kept = made.model.state_dict()
        assert kept.keys() == mean.keys()
        for name, tensor in mean.items():
            kept[name].copy_(tensor)
        last = tmp_path / f"mean-{number}"
        made.save_pretrained(last)
    found, expected = weights(tmp_path / "out"), weights(last)
    moved = weights(tmp_path / "plain")
    assert max((found[name] - moved[name]).abs().max() for name in found) > 1e-4
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, atol=2e-6, rtol=1e-5)


def test_rounds_beside_each_other_start_from_stage_2_and_end_in_one_mean(base, tmp_path):
    """Beside the slow obvious way: each round trained by itself on what stage 2 made, the mean by hand."""
    data, options = texts(tmp_path / "data"), {"prompt": "open-quote"}
    each = ({"learning_rate": 1e-3}, {"learning_rate": 3e-3, "decay": 0.0})
    rounds = Rounds(replace(FULL, seed=5), count=2, share=0.6, beside=True, each=each)
    assert [(config.seed, config.learning_rate, config.decay) for config in rounds.configs] == [
        (5, 1e-3, FULL.decay),
        (6, 3e-3, 0.0),
    ]
    logs = train_two_stages(base, data, tmp_path / "out", layers=2, retrieve=FULL, rounds=rounds, **options)
    assert set(logs) == {"retrieve", "round-1", "round-2"}

    train_two_stages(base, data, tmp_path / "plain", layers=2, retrieve=FULL, **options)
    start = weights(tmp_path / "plain")
    after = []
    for number, config in enumerate(rounds.configs):
        train_two_stages(tmp_path / "plain", data, tmp_path / f"after-{number}", retrieve=config, **options)
        after.append(weights(tmp_path / f"after-{number}"))
    assert max((after[0][name] - after[1][name]).abs().max() for name in start) > 1e-4
    found = weights(tmp_path / "out")
    for name, tensor in start.items():
        expected = 0.4 * tensor + 0.3 * after[0][name] + 0.3 * after[1][name]
        torch.testing.assert_close(found[name], expected, atol=2e-6, rtol=1e-5)


def test_rounds_beside_each_other_leave_what_was_frozen_bit_for_bit():
    torch.manual_seed(0)
    model = nn.Linear(50, 50)
    start = copy.deepcopy(model.state_dict())

    def run(config, name):
        assert torch.equal(model.weight, start["weight"]), "every round starts from the same weights"
        with torch.no_grad():
            model.weight[0] += config.seed

    train_rounds(lambda: model, Rounds(replace(FULL, seed=1), count=3, share=0.9, beside=True), run)
    assert torch.equal(model.weight[1:], start["weight"][1:])
    assert torch.equal(model.bias, start["bias"])
    torch.testing.assert_close(model.weight[0], start["weight"][0] + 0.9 * (1 + 2 + 3) / 3)


@pytest.mark.parametrize("beside", [False, True])
def test_a_run_killed_in_its_second_round_ends_like_one_that_was_not(beside, base, tmp_path, monkeypatch):
    data, options = texts(tmp_path / "data"), {"layers": 2, "prompt": "open-quote", "retrieve": FULL}
    options["rounds"] = Rounds(replace(FULL, steps=4, save_steps=2), count=2, beside=beside)
    train_two_stages(base, data, tmp_path / "whole", **options)

    from puma.training.trainer import RetrieverTrainer

    steps, step = [], RetrieverTrainer.training_step

    def killed(self, *args, **kwargs):
        steps.append(1)
        if len(steps) == 2 + 4 + 4:  # stage 2, the first round, and three steps of the second
            raise KeyboardInterrupt
        return step(self, *args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(RetrieverTrainer, "training_step", killed)
        with pytest.raises(KeyboardInterrupt):
            train_two_stages(base, data, tmp_path / "again", **options)
    assert not (tmp_path / "again").exists()
    changed = replace(options["rounds"], config=replace(options["rounds"].config, learning_rate=1e-5))
    with pytest.raises(InputError, match="learning_rate"):  # the second round stands on the first
        train_two_stages(base, data, tmp_path / "again", **{**options, "rounds": changed})
    train_two_stages(base, data, tmp_path / "again", **options)
    found, expected = weights(tmp_path / "again"), weights(tmp_path / "whole")
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_a_recipe_says_its_rounds(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(
        "base: mini\nretrieve: {minutes: 9, learning_rate: 1e-3, batch_size: 32}\n"
        "rounds: {count: 2, share: 0.3, steps: 7, learning_rate: 1e-4}\npublished_tower: 0.2\n"
    )
    recipe = read_recipe(path)
    assert (recipe.rounds.count, recipe.rounds.share, recipe.published_tower) == (2, 0.3, 0.2)
    config = recipe.rounds.config
    assert (config.steps, config.minutes, config.learning_rate, config.batch_size) == (7, 0, 1e-4, 32)
    assert [c.learning_rate for c in recipe.trainings] == [1e-3, 1e-4, 1e-4]
    assert read_recipe(path, {"rounds": None}).rounds is None
    assert read_recipe(path, {"rounds.count": 1}).rounds.count == 1
    beside = read_recipe(path, {"rounds.beside": True, "rounds.each": [{}, {"decay": 0.0, "minutes": 3}]}).rounds
    assert beside.beside
    assert [(config.decay, config.minutes, config.steps) for config in beside.configs] == [(0.5, 0, 7), (0.0, 3, 7)]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("rounds: {count: 2}", "say how long a round is"),
        ("rounds: {count: 0, steps: 3}", "mine.yaml:2: rounds.count=0: give a whole number of rounds"),
        ("rounds: {share: 2, steps: 3}", "mine.yaml:2: rounds.share=2: give the new weights' share"),
        ("rounds: {steps: 3, learning_rate: -1}", "mine.yaml:2: rounds.learning_rate"),
        ("rounds: {steps: 3, stage: distil}", "rounds.stage: the section's name says it"),
        ("rounds: {steps: 3, colour: red}", "colour"),
        ("rounds: {beside: 1, steps: 3}", "mine.yaml:2: rounds.beside=1: give true or false"),
        ("rounds: {each: 4, steps: 3}", "mine.yaml:2: rounds.each=4: give a list with the settings of each round"),
        ("rounds: {count: 2, each: [{}], steps: 3}", "mine.yaml:2: rounds.each: has 1 entries for 2 rounds"),
        ("rounds: {each: [{decay: -1}], steps: 3}", "mine.yaml:2: rounds.each: decay=-1"),
        ("rounds: {each: [{colour: red}], steps: 3}", "mine.yaml:2: rounds.each: colour: no such setting"),
        ("rounds: {each: [{stage: distil}], steps: 3}", "a round is of stage retrieve; leave stage out"),
        ("rounds: 3", "give settings, as rounds: {steps: 100}"),
        ("published_tower: 2", "mine.yaml:2: published_tower=2: give a share from 0 to 1"),
        ("published_tower: true", "published_tower=True: give a share from 0 to 1"),
    ],
)
def test_faults_of_rounds_are_named_with_their_line(tmp_path, line, said):
    path = tmp_path / "mine.yaml"
    path.write_text(f"base: mini\n{line}\n")
    with pytest.raises(ConfigError, match=re.escape(said)):
        read_recipe(path)


def test_another_base_has_no_published_tower(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("base: somewhere/else\npublished_tower: 0.2\n")
    with pytest.raises(ConfigError, match="only the mini base has it"):
        read_recipe(path)
