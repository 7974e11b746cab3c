"""The depth probe: states against really pruned models in every family, scores against slow ones, ties, resuming, the
suggestion, the command."""

import copy
import json
import os
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from puma.cli import main
from puma.data import mbeir
from puma.errors import DependencyError, InputError, ModelError
from puma.evaluation.mbeir import evaluate
from puma.evaluation.probing import choice, embedding, scoring
from puma.evaluation.probing.choice import Point, suggest, within_one_error
from puma.evaluation.probing.depths import FIRST, KEEP_LAST, depth_flops, depth_states
from puma.evaluation.probing.material import gather
from puma.evaluation.probing.plot import check_matplotlib
from puma.evaluation.probing.report import notes
from puma.evaluation.probing.run import probe
from puma.evaluation.probing.scoring import Ridge, cosines, rates, ridge_scores, unit
from puma.evaluation.probing.store import StateStore
from puma.pruning import decoder_of, prune
from puma.retriever.model import Retriever
from puma.retriever.pooling import last_token_state
from support import tiny

ATOL = 1e-5
NUMBER = 20


# ---- states


def pruned_state(model, features):
    """What enters and leaves the final norm of a pruned model, the ordinary way: [n, length, dim]."""
    with torch.no_grad():
        out = model.model(**features, use_cache=False)
    return out.last_hidden_state


def padded(family):
    """Two rows of unlike length without images, the second padded on the right."""
    long, short = (tiny.inputs(family, with_image=False, length=n, seed=n)["input_ids"] for n in (24, 9))
    ids = torch.cat([long, torch.nn.functional.pad(short, (0, 15))])
    return {"input_ids": ids, "attention_mask": torch.arange(24)[None] < torch.tensor([[24], [9]])}


@pytest.mark.parametrize("family", tiny.FAMILIES)
@pytest.mark.parametrize("kind", ["image", "text", "padded"])
def test_every_depth_is_what_a_really_pruned_model_gives(family, kind):
    full = tiny.build(family)
    # gemma3's window is 16 positions: 24 tokens tell its kinds of layers apart
    features = padded(family) if kind == "padded" else tiny.inputs(family, with_image=kind == "image", length=24)
    features["attention_mask"] = features["attention_mask"].long()
    with torch.inference_mode():
        at_ret = depth_states(full, features)
        everywhere = depth_states(full, features, read=lambda hidden: hidden)
    for variant, keep_last in ((FIRST, False), (KEEP_LAST, True)):
        for k in range(1, tiny.LAYERS + 1):
            true = pruned_state(prune(copy.deepcopy(full), k, keep_last=keep_last), features)
            wanted = last_token_state(true, features["attention_mask"])
            torch.testing.assert_close(at_ret[variant][k - 1], wanted, atol=ATOL, rtol=0)
            kept = features["attention_mask"].bool()
            torch.testing.assert_close(everywhere[variant][k - 1][kept], true[kept], atol=ATOL, rtol=0)
    assert float((at_ret[FIRST][0] - at_ret[KEEP_LAST][0]).abs().max()) > 1e-3  # or the test could not fail


def test_gemma3_layers_of_both_kinds_are_probed():
    """The last layer keeps its own kind of mask, wherever its input comes from."""
    full = tiny.build("gemma3")
    kinds = ["full_attention", "sliding_attention", "sliding_attention", "full_attention"]
    for last in ("full_attention", "sliding_attention"):
        kinds[-1] = last
        config = copy.deepcopy(full.config)
        config.text_config.layer_types = list(kinds)
        torch.manual_seed(1)
        model = type(full)(config).eval()
        features = tiny.inputs("gemma3", length=40)
        with torch.inference_mode():
            states = depth_states(model, features)
        for k in (1, 2, 3):
            true = pruned_state(prune(copy.deepcopy(model), k, keep_last=True), features)
            torch.testing.assert_close(states[KEEP_LAST][k - 1], true[:, -1], atol=ATOL, rtol=0)


def test_one_pass_over_the_model_and_no_hook_left():
    model, features = tiny.build("qwen2_vl"), tiny.inputs("qwen2_vl")
    counts = [0] * tiny.LAYERS
    tower = 0
    for i, layer in enumerate(decoder_of(model).layers):
        layer.register_forward_hook(lambda *_, i=i: counts.__setitem__(i, counts[i] + 1))

    def seen(*_):
        nonlocal tower
        tower += 1

    model.get_encoder("image").register_forward_hook(seen)
    with torch.inference_mode():
        depth_states(model, features, variants=(FIRST,))
        assert counts == [1] * tiny.LAYERS
        depth_states(model, features)
    assert counts == [2] * (tiny.LAYERS - 1) + [2 + tiny.LAYERS - 1]
    assert tower == 2
    decoder = decoder_of(model)
    assert sum(len(m._forward_pre_hooks) for m in (*decoder.layers, decoder.norm)) == 0
    assert sum(len(m._forward_hooks) for m in (*decoder.layers, decoder.norm)) == tiny.LAYERS


def test_a_model_that_skips_layers_is_refused():
    model = tiny.build("gemma3")
    model.config.text_config.num_hidden_layers = 2  # gemma3's forward pass goes by it
    with torch.inference_mode(), pytest.raises(ModelError, match="cannot be told apart"):
        depth_states(model, tiny.inputs("gemma3", with_image=False))
    assert not decoder_of(model).norm._forward_pre_hooks


def test_flops_rise_by_a_layer_and_are_those_of_pruned_models():
    from torch.utils.flop_counter import FlopCounterMode

    model, features = tiny.build("fast_vlm").model, tiny.inputs("fast_vlm")
    flops = depth_flops(model, [features, features])
    steps = np.diff(flops)
    assert steps[0] > 0
    assert (steps == steps[0]).all()
    for k in range(1, tiny.LAYERS + 1):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            prune(copy.deepcopy(model), k)(**features, use_cache=False)
        assert flops[k - 1] == 2 * counter.get_total_flops()


# ---- scores


def test_cosines_and_rates_by_hand():
    queries, pool = np.array([[2.0, 0.0], [0.0, 1.0]]), np.array([[5.0, 0.0], [1.0, 1.0], [0.0, 0.0]])
    scores = cosines(queries, pool)
    np.testing.assert_allclose(scores, [[1, 0.707107, 0], [0, 0.707107, 0]])
    assert rates(scores, [[0], [2]]) == {"hit_rate@1": 0.5, "hit_rate@5": 1.0, "hit_rate@10": 1.0}


def test_what_cannot_be_read_is_never_found():
    states = np.array([[1.0, 0.0], [np.nan, np.nan]])
    assert rates(cosines(states, states), [[0], [1]])["hit_rate@10"] == 0.5
    train = np.random.default_rng(0).normal(size=(20, 2))
    train[3] = np.nan
    scores, _ = ridge_scores(train, train[::-1].copy(), states, states)
    assert np.isnan(scores[1]).all()
    assert np.isnan(scores[:, 1]).all()
    assert np.isfinite(scores[0, 0])


@pytest.mark.parametrize("noise", [0.0, 1e-8])
def test_identical_states_score_nothing_zero_shot_and_ridge(noise):
    """As before the first layer, where every [RET] is the same row; ``noise`` is what batches leave in it."""
    random = np.random.default_rng(0)
    same = random.normal(size=(1, 16)).astype(np.float32)
    states = [same + noise * random.normal(size=(n, 16)).astype(np.float32) for n in (40, 40, 8, 12)]
    positives = [[i] for i in range(8)]
    assert set(rates(cosines(states[2], states[3]), positives).values()) == {0.0}
    scores, _ = ridge_scores(*states)
    assert set(rates(scores, positives).values()) == {0.0}
    # and so do candidates that are told apart by nothing, whatever is searched for
    scores, _ = ridge_scores(random.normal(size=(40, 16)), states[1], random.normal(size=(8, 16)), states[3])
    assert set(rates(scores, positives).values()) == {0.0}


@settings(max_examples=30, deadline=None)
@given(
    pairs=st.integers(3, 30),
    width=st.integers(1, 12),
    strength=st.sampled_from([1e-4, 0.1, 10.0]),
    seed=st.integers(0, 9),
)
def test_ridge_is_the_closed_form_both_ways(pairs, width, strength, seed):
    random = np.random.default_rng(seed)
    x, y, new = random.normal(size=(pairs, width)), random.normal(size=(pairs, 3)), random.normal(size=(5, width))
    centred = x - x.mean(0)
    eigenvalue = (centred**2).sum() / min(pairs, width)
    slow = np.linalg.solve(centred.T @ centred + strength * eigenvalue * np.eye(width), centred.T @ (y - y.mean(0)))
    np.testing.assert_allclose(Ridge(x, y)(new, strength), (new - x.mean(0)) @ slow, rtol=1e-6, atol=1e-8)


def rotated(random, count, turn, width=12):
    queries = unit(random.normal(size=(count, width)))
    return queries, unit(queries @ turn + 0.01 * random.normal(size=(count, width)) + 3.0)


def test_the_ridge_finds_a_map_that_zero_shot_cannot_see_and_never_sees_what_it_is_scored_on():
    random = np.random.default_rng(0)
    turn = np.linalg.qr(random.normal(size=(12, 12)))[0]
    train, held = rotated(random, 200, turn), rotated(random, 50, turn)
    positives = [[i] for i in range(50)]
    scores, strength = ridge_scores(*train, *held)
    assert rates(scores, positives)["hit_rate@1"] > 0.9
    assert rates(cosines(*held), positives)["hit_rate@1"] < 0.3
    again, same = ridge_scores(*train, held[0][:1], held[1])
    np.testing.assert_allclose(again, scores[:1], atol=1e-6)  # other queries change neither the map nor the choice
    assert same == strength


def test_the_strength_is_small_where_weak_directions_tell_and_large_where_they_are_noise():
    random = np.random.default_rng(0)
    meaning = random.normal(size=(200, 12))
    faint = meaning * np.geomspace(1, 0.01, 12) + 30  # far from the origin, so that unit length bends nothing
    assert ridge_scores(faint, meaning + 30, faint[:3], meaning[:3])[1] < 0.05
    meaning = random.normal(size=(60, 4))
    noisy = np.concatenate([meaning, 0.5 * random.normal(size=(60, 56))], 1) + 30
    blurred = meaning + 0.5 * random.normal(size=meaning.shape) + 30
    assert ridge_scores(noisy, blurred, noisy[:3], blurred[:3])[1] > 0.5


def test_the_ridge_needs_pairs():
    few = np.eye(3)
    with pytest.raises(InputError, match="four or more readable"):
        ridge_scores(few, few, few, few)
    with pytest.raises(InputError, match="two or more pairs"):
        Ridge(few, few[:2])


def test_the_mean_is_over_tasks_and_its_error_falls_with_queries():
    tables = [{"hit_rate@10": 0.5}, {"hit_rate@10": 1.0}]
    found = scoring.mean_over_tasks(tables, [100, 100])
    assert found["hit_rate@10"] == 0.75
    assert found["standard_error"] == pytest.approx(0.05 / 2)
    assert scoring.mean_over_tasks(tables, [400, 100])["standard_error"] == pytest.approx(0.025 / 2)


# ---- the choice


POINTS = [
    Point(1, False, 0.10, 9.0),
    Point(1, True, 0.30, 9.0),
    Point(2, False, 0.39, 3.0),
    Point(2, True, 0.38, 3.0),
    Point(3, False, 0.40, 1.5, 0.05),
    Point(4, False, 0.35, 1.0),
]


def test_the_fewest_layers_for_a_quality_and_the_best_for_a_speed():
    assert suggest(POINTS).point == POINTS[2]
    assert suggest(POINTS, quality=0.75).point == POINTS[1]
    assert suggest(POINTS, quality=1.0).point == POINTS[4]
    assert suggest(POINTS, speed=3).point == POINTS[2]
    assert suggest(POINTS, speed=4).point == POINTS[1]
    assert suggest(POINTS, speed=1).point == POINTS[4]
    assert within_one_error(POINTS) == POINTS[2]
    output = suggest(POINTS, quality=0.75).sentence
    assert output.startswith("Keep the last alone of 4 decoder layers (keep_last): the fewest that reach 75 %")
    assert "30.0 % against 40.0 % at k = 3" in output
    assert output.count(". ") == 0
    assert "the first 2 of 4 decoder layers" in suggest(POINTS, speed=3).sentence


def test_nothing_is_suggested_where_nothing_is_found():
    suggestion = suggest([Point(1, False, 0.0, 2.0), Point(2, False, 0.0, 1.0)])
    assert suggestion.point is None
    assert "nothing" not in suggestion.sentence.split()[0]


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ({"quality": 0.0}, "quality=0.0"),
        ({"quality": 1.5}, "quality=1.5"),
        ({"quality": float("nan")}, "quality=nan"),
        ({"speed": 0.5}, "speed=0.5"),
        ({"speed": float("nan")}, "speed=nan"),
        ({"speed": 10.0}, "only 9.0 times"),
        ({"speed": 2.0, "quality": 0.5}, "not both"),
    ],
)
def test_targets_that_cannot_be_meant(target, said):
    with pytest.raises(InputError, match=said):
        suggest(POINTS, **target)


# ---- the store


NOTE = {"model": "a"}


def test_states_are_read_back_by_key_and_place(tmp_path):
    rows = np.random.default_rng(0).normal(size=(3, 2, 4, 5)).astype(np.float32)
    keys = [bytes([n]) * 16 for n in range(3)]
    with StateStore(tmp_path, (2, 4, 5), NOTE) as store:
        store.append(keys, rows)
        with pytest.raises(ValueError, match="new keys"):
            store.append(keys[:1], rows[:1])
    with StateStore(tmp_path, (2, 4, 5), NOTE) as store:
        got = store.read([keys[2], b"x" * 16, keys[0]], (1, 3))
        np.testing.assert_array_equal(got[[0, 2]], rows[[2, 0], 1, 3])
        assert np.isnan(got[1]).all()


def test_a_torn_tail_is_cut_off(tmp_path):
    rows = np.arange(6, dtype=np.float32).reshape(3, 2)
    keys = [bytes([n]) * 16 for n in range(3)]
    with StateStore(tmp_path, (2,), NOTE) as store:
        store.append(keys[:2], rows[:2])
    for name, tail in (("rows", b"abc"), ("keys", b"abcdefg")):
        with open(tmp_path / name, "ab") as stream:
            stream.write(tail)
    with StateStore(tmp_path, (2,), NOTE) as store:
        assert len(store) == 2
        store.append(keys[2:], rows[2:])
    with StateStore(tmp_path, (2,), NOTE) as store:
        np.testing.assert_array_equal(store.read(keys, ()), rows)


def test_states_of_another_model_and_a_second_writer_are_refused(tmp_path):
    second = StateStore(tmp_path, (2,), NOTE)
    with StateStore(tmp_path, (2,), NOTE), pytest.raises(InputError, match="another probe is at work"), second:
        pass
    with pytest.raises(InputError, match=r"another run \(model differ\)"), StateStore(tmp_path, (2,), {"model": "b"}):
        pass
    with pytest.raises(InputError, match="shape"), StateStore(tmp_path, (3,), NOTE):
        pass


# ---- the material


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Task 0 (names to images) and task 1 (texts to texts), with train pairs; some of them repeat, some are also
    evaluated."""
    root = tmp_path_factory.mktemp("data")
    (root / "mbeir_images").mkdir()
    random = np.random.default_rng(0)
    for n in range(40):
        pixels = random.integers(0, 255, (8, 8, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(root / f"mbeir_images/{n}.png")
    words = ["red", "fox", "blue", "heart", "cat", "dog", "green", "tree", "old", "house"]
    names = [f"{words[n % 10]} {words[n // 10]} {n}" for n in range(40)]
    images = [mbeir.Candidate(f"{NUMBER}:{n}", None, f"mbeir_images/{n}.png", "image") for n in range(40)]
    texts = [mbeir.Candidate(f"{NUMBER}:{n + 100}", f"means {name}", None, "text") for n, name in enumerate(names)]
    for task, candidates in ((0, images), (1, texts)):
        asked = [
            mbeir.Query(f"{NUMBER}:{1000 * task + n}", name, None, "text", (candidates[n].did,), (), task)
            for n, name in enumerate(names)
        ]
        again = mbeir.Query(f"{NUMBER}:{1000 * task + 500}", names[0], None, "text", (candidates[0].did,), (), task)
        write(root, task, "val", asked[28:], candidates[24:])
        write(root, task, "train", [*asked[:29], again], candidates)  # query 28 is evaluated, query 0 comes twice
    prompts = [
        ("text", "image", "tiny", NUMBER, ["Find a picture.", "Other words."]),
        ("text", "text", "tiny", NUMBER, ["Find it."]),
    ]
    mbeir.write_instructions(mbeir.instructions_path(root), prompts)
    return root


def write(root, task, split, queries, pool):
    mbeir.write_queries(mbeir.query_path(root, "tiny", task, split), queries)
    mbeir.write_pool(mbeir.pool_path(root, "tiny", task, split), pool)
    qrels = {query.qid: dict.fromkeys(query.positives, 1) for query in queries}
    mbeir.write_qrels(mbeir.qrels_path(root, "tiny", task, split), qrels, task)


def test_nothing_evaluated_is_fitted_on_and_no_train_content_comes_twice(root):
    material = gather(root)
    evaluated = {material.items[place].item.text for task in material.tasks for place in task.queries}
    for task in material.tasks:
        assert len(task.pairs) == 28
        asked = [material.items[place] for place in task.pairs[:, 0].tolist()]
        assert not evaluated & {one.item.text for one in asked}
        assert len({one.item.text for one in asked}) == len(asked)
        assert len(set(task.pairs[:, 1].tolist())) == len(task.pairs)
        wanted = {0: "Find a picture.", 1: "Find it."}[task.task]
        assert {one.instruction for one in asked} == {wanted}
        for query, candidate in task.pairs.tolist():
            one, other = material.items[query], material.items[candidate]
            number = one.item.text.split()[-1]
            assert number in (other.item.text or Path(other.item.image).stem).split()
            assert other.instruction is None
        columns = [task.pool[columns[0]] for columns in task.positives]
        assert [material.items[place].where for place in columns] == [
            f"{NUMBER}:{n + 100 * task.task}" for n in range(28, 40)
        ]
    assert len({(a.item.text, a.item.image, a.instruction) for a in material.items}) == len(material.items)


def test_limits_keep_the_positives_and_the_same_seed_draws_the_same(root):
    material = gather(root, tasks=["0"], queries=5, pairs=12, pool=7, seed=3)
    (task,) = material.tasks
    assert (len(task.queries), len(task.pool), len(task.pairs)) == (5, 7, 12)
    assert all(len(columns) == 1 for columns in task.positives)
    assert material.evaluated == 12
    again = gather(root, tasks=["0"], queries=5, pairs=12, pool=7, seed=3)
    assert [a.where for a in again.items] == [a.where for a in material.items]
    other = gather(root, tasks=["0"], queries=5, pairs=12, pool=7, seed=4)
    assert [a.where for a in other.items] != [a.where for a in material.items]
    assert len(gather(root, tasks=[0], queries=5, pool=2, pairs=0).tasks[0].pool) == 5  # the positives


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"split": "train"}, "give val or test"),
        ({"split": "later"}, "has the splits"),
        ({"tasks": [7]}, r"tasks must be some of \[0, 1\]"),
        ({"tasks": []}, "tasks must be"),
        ({"queries": 0}, "queries=0"),
        ({"pairs": 5}, "at least 10"),
        ({"pairs": -1}, "pairs=-1"),
        ({"pool": 1}, "pool=1"),
        ({"queries": 2.5}, "queries=2.5"),
    ],
)
def test_what_cannot_be_drawn_is_named(root, wrong, said):
    with pytest.raises(InputError, match=said):
        gather(root, **wrong)


def test_a_task_without_train_pairs_is_refused_or_probed_zero_shot(root, tmp_path):
    import shutil

    mine = tmp_path / "data"
    shutil.copytree(root, mine)
    mbeir.query_path(mine, "tiny", 1, "train").unlink()
    with pytest.raises(InputError, match="no train split of task 1"):
        gather(mine)
    assert len(gather(mine, pairs=0).tasks) == 2
    queries = [mbeir.Query(f"{NUMBER}:1", "same words", None, "text", (f"{NUMBER}:{n}",), (), 0) for n in (1,)]
    mbeir.write_queries(mbeir.query_path(mine, "tiny", 0, "train"), queries)
    with pytest.raises(InputError, match="task 0 has 1 train pairs"):
        gather(mine, tasks=[0])


# ---- the whole


@pytest.fixture(scope="module")
def retriever(base):
    return Retriever.from_base(base, prompt="open-quote", dtype=torch.float32, device="cpu")


@pytest.fixture
def undrawn(monkeypatch):
    """A plot takes longer than all else that a tiny probe does."""
    monkeypatch.setattr("puma.evaluation.probing.run.write_plot", lambda *_: [])


OPTIONS = {"precision": "fp32", "progress": False, "batch_size": 8}


def test_zero_shot_is_what_evaluating_really_pruned_models_gives(base, retriever, root, tmp_path, undrawn):
    result = probe(retriever, root, tmp_path / "out", **OPTIONS)
    assert [(row["layers"], row["variant"]) for row in result["depths"]] == [
        (k, variant) for k in range(1, tiny.LAYERS + 1) for variant in (FIRST, KEEP_LAST)
    ]
    seen = set()
    for row in result["depths"]:
        pruned = Retriever.from_base(
            base,
            prompt="open-quote",
            dtype=torch.float32,
            device="cpu",
            layers=row["layers"],
            keep_last=row["variant"] == KEEP_LAST,
        )
        true = evaluate(pruned, root, split="val", pools=("local",), progress=False)
        for task, table in row["zero_shot"]["tasks"].items():
            for name, value in table.items():
                assert value == pytest.approx(true[task][name], abs=1e-9)
                seen.add(value)
    assert len(seen) > 3


def test_the_results_folder(retriever, root, tmp_path):
    out = tmp_path / "out"
    result = probe(retriever, root, out, quality=0.9, name="tiny", **OPTIONS)
    assert json.loads((out / "probe.json").read_text()) == result
    with Image.open(out / "probe.png") as image:
        assert image.size[0] > 1000
    svg = (out / "probe.svg").read_bytes()
    words = " ".join(xml.etree.ElementTree.fromstring(svg.decode()).itertext())
    for label in ("decoder layers kept, k", "hit@10, mean over tasks (%)", "by FLOPs", "chance", "first k, ridge"):
        assert label in words
    text = (out / "probe.md").read_text()
    assert result["suggestion"]["sentence"] in text
    assert "not timed" in text
    assert result["chance"]["hit_rate@10"] == pytest.approx(10 / 16)
    assert "A random ranking would reach 62 %: the pools are too small" in text
    assert not any("random ranking" in note for note in notes({**result, "chance": {"hit_rate@10": 0.4}}))
    assert result["suggestion"]["judged_by"] == "ridge"
    assert result["cost"]["depths"][-1]["speed"] == 1.0
    speeds = [row["speed"] for row in result["cost"]["depths"]]
    assert speeds == sorted(speeds, reverse=True)
    assert probe(retriever, root, out, quality=0.9, name="tiny", **OPTIONS) == result
    assert (out / "probe.svg").read_bytes() == svg


def test_a_later_probe_embeds_only_what_is_new(retriever, root, tmp_path, monkeypatch, undrawn):
    counted = []
    true = embedding.depth_states

    def counting(model, features, **options):
        counted.append(len(features["input_ids"]))
        return true(model, features, **options)

    monkeypatch.setattr(embedding, "depth_states", counting)
    whole = probe(retriever, root, tmp_path / "whole", **OPTIONS)
    everything = sum(counted)
    assert everything == len(gather(root).items)
    counted.clear()
    probe(retriever, root, tmp_path / "parts", tasks=[1], queries=3, pairs=0, **OPTIONS)
    assert 0 < sum(counted) < everything
    resumed = probe(retriever, root, tmp_path / "parts", speed=1.5, **OPTIONS)
    assert sum(counted) == everything
    counted.clear()
    probe(retriever, root, tmp_path / "parts", **OPTIONS)
    assert not counted
    for one, other in zip(resumed["depths"], whole["depths"], strict=True):
        assert one["zero_shot"] == other["zero_shot"]


def test_another_prompt_or_precision_is_refused_in_the_same_folder(base, retriever, root, tmp_path, undrawn):
    probe(retriever, root, tmp_path, pairs=0, tasks=[1], queries=2, **OPTIONS)
    other = Retriever.from_base(base, prompt="short", dtype=torch.float32, device="cpu")
    with pytest.raises(InputError, match=r"\(model differ\)"):
        probe(other, root, tmp_path, **OPTIONS)
    with pytest.raises(InputError, match="precision"):
        probe(retriever, root, tmp_path, **{**OPTIONS, "precision": "bf16"})
    with pytest.raises(InputError, match="variants"):
        probe(retriever, root, tmp_path, keep_last=False, **OPTIONS)


def test_layers_that_do_nothing_score_nothing_at_any_depth(base, root, tmp_path):
    """Then every [RET] is the token's own embedding, as at depth 0: one vector for everything."""
    retriever = Retriever.from_base(base, prompt="open-quote", dtype=torch.float32, device="cpu")
    for layer in decoder_of(retriever.model).layers:
        torch.nn.init.zeros_(layer.self_attn.o_proj.weight)
        torch.nn.init.zeros_(layer.mlp.down_proj.weight)
    result = probe(retriever, root, tmp_path, **OPTIONS)
    for row in result["depths"]:
        for kind in ("zero_shot", "ridge"):
            assert all(table["hit_rate@10"] == 0.0 for table in row[kind]["tasks"].values())
    assert result["suggestion"]["layers"] is None
    assert (tmp_path / "probe.png").is_file()


def test_unreadable_images_are_told_and_never_found(retriever, root, tmp_path, undrawn):
    import shutil

    mine = tmp_path / "data"
    shutil.copytree(root, mine)
    good = probe(retriever, mine, tmp_path / "good", tasks=[0], pool=20, **OPTIONS)
    (mine / "mbeir_images/30.png").write_bytes(b"no picture")
    (mine / "mbeir_images/31.png").unlink()
    result = probe(retriever, mine, tmp_path / "bad", tasks=[0], pool=20, **OPTIONS)
    assert result["unreadable"] == 2
    assert any("30.png" in line for line in result["unreadable_items"])
    assert result["tasks"][0]["pool"] == good["tasks"][0]["pool"]
    for one, other in zip(result["depths"], good["depths"], strict=True):
        assert one["zero_shot"]["mean"]["hit_rate@10"] <= other["zero_shot"]["mean"]["hit_rate@10"] + 2 / 12
    assert max(row["zero_shot"]["mean"]["hit_rate@10"] for row in result["depths"]) <= 10 / 12


def test_without_matplotlib_it_is_told_first(retriever, root, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(DependencyError, match=r"the plot needs matplotlib.*\[plot\]"):
        check_matplotlib()
    with pytest.raises(DependencyError):
        probe(retriever, root, tmp_path / "out", **OPTIONS)
    assert not (tmp_path / "out").exists()


KILLED = """
import sys, time, torch
from puma.retriever.model import Retriever
from puma.evaluation.probing import embedding
from puma.evaluation.probing.run import probe
true = embedding.depth_states
def slow(*args, **options):
    time.sleep(0.2)
    return true(*args, **options)
embedding.depth_states = slow
retriever = Retriever.from_base(sys.argv[1], prompt="open-quote", dtype=torch.float32, device="cpu")
probe(retriever, sys.argv[2], sys.argv[3], precision="fp32", progress=False, batch_size=8)
"""


@pytest.mark.slow
def test_a_killed_probe_loses_a_batch_at_most(base, retriever, root, tmp_path, monkeypatch, undrawn):
    keys = tmp_path / "states" / "keys"
    run = subprocess.Popen([sys.executable, "-c", KILLED, str(base), str(root), str(tmp_path)], env=dict(os.environ))
    for _ in range(600):
        if keys.is_file() and keys.stat().st_size >= 3 * 8 * 16:
            break
        time.sleep(0.05)
    run.send_signal(signal.SIGKILL)
    assert run.wait() == -signal.SIGKILL
    kept = keys.stat().st_size // 16
    assert kept >= 24
    counted = []
    true = embedding.depth_states
    monkeypatch.setattr(
        embedding, "depth_states", lambda m, f, **o: counted.append(len(f["input_ids"])) or true(m, f, **o)
    )
    resumed = probe(retriever, root, tmp_path, **OPTIONS)
    assert sum(counted) == len(gather(root).items) - kept
    whole = probe(retriever, root, tmp_path / "whole", **OPTIONS)
    for one, other in zip(resumed["depths"], whole["depths"], strict=True):
        assert one["zero_shot"] == other["zero_shot"]


# ---- the command


def command(base, root, out, *more):
    given = ["--base", str(base), "--data", str(root), "--out", str(out), "--prompt", "open-quote"]
    return ["probe", *given, "--precision", "fp32", *more]


def test_the_command_prints_a_table_and_why(base, root, tmp_path, capsys, undrawn):
    assert main(command(base, root, tmp_path / "out", "--tasks", "0,1", "--queries", "10")) == 0
    out = capsys.readouterr().out
    assert "k-1 + last, ridge" in out
    assert "Keep " in out
    assert "probe.svg" not in out  # the image is for the file
    assert main(command(base, root, tmp_path / "out", "--tasks", "1", "--speed", "1.2", "--json")) == 0
    output = json.loads(capsys.readouterr().out)
    assert output["suggestion"]["speed"] == 1.2
    assert output["out"] == str(tmp_path / "out")
    assert [task["task"] for task in output["tasks"]] == [1]
    assert main(command(base, root, tmp_path / "first", "--tasks", "1", "--first-only", "--pairs", "0", "--json")) == 0
    output = json.loads(capsys.readouterr().out)
    assert {row["variant"] for row in output["depths"]} == {FIRST}
    assert output["suggestion"]["judged_by"] == "zero_shot"


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--quality", "1.5"], "quality=1.5"),
        (["--quality", "0.9", "--speed", "2"], "not both"),
        (["--speed", "1000"], "only"),
        (["--tasks", "5"], "tasks must be some of [0, 1]"),
        (["--tasks", "nought"], "tasks must be"),
        (["--split", "train"], "val or test"),
        (["--queries", "0"], "queries=0"),
        (["--prompt", "polite"], "--prompt polite"),
        (["--data", "nowhere"], "nowhere"),
        (["--base", "./nowhere"], "nowhere"),
        (["--precision", "fp8"], "fp8"),
        (["--batch-size", "0"], "batch_size=0"),
        (["--dataset", "other"], "other"),
    ],
)
def test_mistakes_exit_with_two_and_one_line(base, root, tmp_path, capsys, more, said):
    out = tmp_path / "out"
    assert main(command(base, root, out, *more)) == 2
    err = capsys.readouterr().err
    assert said in err
    assert "Traceback" not in err
    assert not out.exists()


def test_a_file_as_out_and_a_retriever_as_base_are_refused(base, retriever, root, tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    assert main(command(base, root, tmp_path / "file")) == 2
    assert "is a file" in capsys.readouterr().err
    retriever.save_pretrained(tmp_path / "trained")
    assert main(command(tmp_path / "trained", root, tmp_path / "out")) == 2
    assert "is a retriever already" in capsys.readouterr().err


def test_mini_is_assembled_by_default(base, root, tmp_path, monkeypatch, capsys, undrawn):
    import puma.mini.base.assemble
    import puma.mini.openpics

    monkeypatch.setattr(puma.mini.openpics, "build", lambda *_: root)
    monkeypatch.setattr(puma.mini.base.assemble, "assemble", lambda *_, settings, images: base)
    assert main(["probe", "--out", str(tmp_path / "out"), "--precision", "fp32", "--tasks", "1", "--json"]) == 0
    output = json.loads(capsys.readouterr().out)
    assert output["base"] == "mini"
    assert choice.QUALITY == 0.95
