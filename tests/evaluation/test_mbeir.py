"""The evaluation of a tiny benchmark against a slow one written out here; ties, unreadable images, pools, chance."""

import numpy as np
import pytest
from PIL import Image

from puma.data.mbeir import (
    Candidate,
    Query,
    global_pool_path,
    instructions_path,
    pool_path,
    qrels_path,
    query_path,
    write_instructions,
    write_pool,
    write_qrels,
    write_queries,
)
from puma.errors import DataError, InputError
from puma.evaluation.mbeir import chance, evaluate
from puma.evaluation.metrics import hit_rate_at_k, recall_at_k
from puma.evaluation.runs import read_run
from support.benchmarks import named_tasks
from support.encoders import NamedEncoder, ToyEncoder

COLOURS = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (0, 255, 255), (90, 0, 0)]
NAMES = ["red", "green", "blue", "red green", "green blue", "red dark"]


@pytest.fixture
def root(tmp_path):
    (tmp_path / "mbeir_images").mkdir()
    for number, colour in enumerate(COLOURS):
        Image.new("RGB", (8, 8), colour).save(tmp_path / f"mbeir_images/{number}.png")
    images = [Candidate(f"9:{n}", None, f"mbeir_images/{n}.png", "image") for n in range(6)]
    texts = [Candidate(f"9:{n + 10}", name, None, "text") for n, name in enumerate(NAMES)]
    asked = [Query(f"9:{n}", name, None, "text", (f"9:{n}",)) for n, name in enumerate(NAMES[:4])]
    shown = [Query(f"9:{n + 20}", None, f"mbeir_images/{n}.png", "image", (f"9:{n + 10}",)) for n in range(4)]
    write(
        tmp_path,
        0,
        asked,
        images,
        {q.qid: dict.fromkeys(q.positives, 1) for q in asked} | {"9:1": {"9:1": 1, "9:4": 1}},
    )
    write(tmp_path, 3, shown, texts, {q.qid: dict.fromkeys(q.positives, 1) for q in shown})
    write_pool(global_pool_path(tmp_path, "test"), texts + images)
    prompts = [
        ("text", "image", "tiny", 9, ["Find a picture.", "Other words."]),
        ("image", "text", "tiny", 9, ["Name it."]),
    ]
    write_instructions(instructions_path(tmp_path), prompts)
    return tmp_path


def write(root, task, queries, pool, qrels):
    write_queries(query_path(root, "tiny", task, "test"), queries)
    write_pool(pool_path(root, "tiny", task, "test"), pool)
    write_qrels(qrels_path(root, "tiny", task, "test"), qrels, task)


def test_figures_equal_the_slow_way_and_the_run_files(root, tmp_path):
    encoder = ToyEncoder()
    tables = evaluate(encoder, root, ks=(1, 2, 5), run_dir=tmp_path / "runs", progress=False)
    assert list(tables) == ["0", "3"]
    qrels = {f"9:{n}": {f"9:{n}": 1} for n in range(4)} | {"9:1": {"9:1": 1, "9:4": 1}}
    images = np.concatenate(
        [ToyEncoder().encode([Candidate("x", None, f"mbeir_images/{n}.png", "image").item(root)]) for n in range(6)]
    )
    slow = {}
    for n, name in enumerate(NAMES[:4]):
        vector = ToyEncoder().encode([Query("x", name, None, "text").item(root)])[0]
        slow[f"9:{n}"] = {f"9:{m}": round(float(vector @ image), 6) for m, image in enumerate(images)}
    run = read_run(tmp_path / "runs" / "task0_test_local.run")
    assert {qid: pytest.approx(scores, abs=2e-6) for qid, scores in slow.items()} == run
    for k in (1, 2, 5):
        assert tables["0"][f"hit_rate@{k}"] == hit_rate_at_k(qrels, slow, k) == hit_rate_at_k(qrels, run, k)
        assert tables["0"][f"recall@{k}"] == pytest.approx(recall_at_k(qrels, slow, k))
        wide = read_run(tmp_path / "runs" / "task0_test_global.run")
        assert tables["0"]["global"][f"hit_rate@{k}"] == hit_rate_at_k(qrels, wide, k)
    assert (tables["0"]["pool"], tables["0"]["queries"], tables["0"]["global"]["pool"]) == (6, 4, 12)
    # Words are nearer to words: every text query finds its own name first in the global pool.
    assert tables["0"]["global"]["wrong_modality@1"] == 1.0


def test_every_candidate_is_embedded_once_and_only_queries_are_instructed(root):
    encoder = ToyEncoder()
    evaluate(encoder, root, progress=False)
    assert encoder.calls == 12 + 8
    assert encoder.seen_instructions == [None, "Find a picture.", "Name it."]


def test_the_same_vector_for_everything_scores_nothing(root):
    class Constant(ToyEncoder):
        def encode(self, items, *, instruction=None):
            # Noise as a real model has it: below what counts as a difference.
            noise = np.random.default_rng(0).normal(size=(len(items), self.dim)) * 1e-8
            rows = np.ones((len(items), self.dim)) + noise
            return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)

    tables = evaluate(Constant(), root, ks=(1, 4), progress=False)
    for table in (tables["0"], tables["3"], tables["0"]["global"]):
        assert table["hit_rate@1"] == table["hit_rate@4"] == 0.0
    assert tables["3"]["global"]["wrong_modality@1"] == 1.0


def test_unreadable_images_are_counted_and_listed(root):
    good = evaluate(ToyEncoder(), root, progress=False)
    (root / "mbeir_images/0.png").write_bytes((root / "mbeir_images/0.png").read_bytes()[:40])
    tables = evaluate(ToyEncoder(), root, progress=False)
    assert tables["0"]["skipped"] == 1
    assert "9:0: " in tables["0"]["skipped_items"][0]
    assert tables["0"]["pool"] == 6  # stays in the count, is never found
    assert tables["0"]["hit_rate@5"] == good["0"]["hit_rate@5"] - 1 / 4
    assert tables["3"]["skipped"] == 1
    assert "9:20: " in tables["3"]["skipped_items"][0]
    assert tables["3"]["queries"] == 4  # the query is a miss, not gone
    assert tables["3"]["hit_rate@5"] <= 3 / 4
    assert tables["3"]["global"]["skipped"] == 2  # the query, and the image as a candidate


def test_chance_has_the_same_shape_and_random_vectors_reach_it(root):
    expected = chance(root)
    tables = evaluate(ToyEncoder(), root, progress=False)
    assert {task: set(table) for task, table in expected.items()} == {
        task: set(table) for task, table in tables.items()
    }
    assert set(expected["0"]["global"]) == set(tables["0"]["global"])
    assert expected["0"]["hit_rate@1"] == pytest.approx((3 * 1 / 6 + 2 / 6) / 4)
    assert expected["0"]["recall@5"] == pytest.approx(5 / 6)
    assert expected["0"]["global"]["wrong_modality@1"] == 0.5

    class Random(ToyEncoder):
        def __init__(self, seed):
            super().__init__()
            self.random = np.random.default_rng(seed)

        def encode(self, items, *, instruction=None):
            rows = self.random.normal(size=(len(items), self.dim))
            return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)

    drawn = [evaluate(Random(seed), root, progress=False) for seed in range(100)]
    for key in ("hit_rate@1", "hit_rate@5", "recall@1"):
        assert np.mean([table["0"][key] for table in drawn]) == pytest.approx(expected["0"][key], abs=0.05)
        assert np.mean([t["3"]["global"][key] for t in drawn]) == pytest.approx(expected["3"]["global"][key], abs=0.05)


def test_tasks_pools_and_ks_are_chosen_and_checked(root):
    tables = evaluate(ToyEncoder(), root, tasks=["3"], pools=("global",), ks=(3,), progress=False)
    assert list(tables) == ["3"]
    assert set(tables["3"]) == {"global"}
    with pytest.raises(InputError, match=r"tasks must be some of \[0, 3\]"):
        evaluate(ToyEncoder(), root, tasks=[5])
    with pytest.raises(InputError, match="pools must be"):
        evaluate(ToyEncoder(), root, pools=("wide",))
    with pytest.raises(InputError, match="k must be"):
        evaluate(ToyEncoder(), root, ks=(0,))
    with pytest.raises(DataError, match="split 'val'"):
        evaluate(ToyEncoder(), root, split="val")


def test_one_id_for_two_candidates_is_refused(root):
    write_pool(global_pool_path(root, "test"), [Candidate("9:0", "another", None, "text")])
    with pytest.raises(DataError, match="candidate 9:0 of the pool of task 0 is another one"):
        evaluate(ToyEncoder(), root, progress=False)


def test_the_confusion_says_what_stood_on_top(root):
    tables = evaluate(ToyEncoder(), root, progress=False)
    # Words are nearer to words, images to images.
    assert tables["0"]["global"]["confusion"] == {"text": 1.0, "image": 0.0, "image,text": 0.0}
    assert tables["3"]["global"]["confusion"] == {"text": 0.0, "image": 1.0, "image,text": 0.0}
    assert tables["0"]["confusion"] == {"text": 0.0, "image": 1.0, "image,text": 0.0}
    (root / "mbeir_images/0.png").write_bytes(b"")
    assert evaluate(ToyEncoder(), root, progress=False)["3"]["confusion"] == {
        "text": 0.75,
        "image": 0.0,
        "image,text": 0.0,
        "none": 0.25,
    }


def test_details_are_every_querys_best_rank(root):
    tables = evaluate(ToyEncoder(), root, ks=(1, 2, 5), details=True, progress=False)
    for table in (tables["0"], tables["3"], tables["0"]["global"], tables["3"]["global"]):
        ranks = table["per_query"].values()
        assert len(ranks) == 4
        for k in (1, 2, 5):
            assert table[f"hit_rate@{k}"] == np.mean([rank is not None and rank <= k for rank in ranks])
        assert table["mrr@10"] == pytest.approx(np.mean([1 / rank if rank and rank <= 10 else 0 for rank in ranks]))


def test_instructions_first_none_and_all(root):
    class Swayed(ToyEncoder):
        """Other words make it answer at random."""

        def encode(self, items, *, instruction=None):
            rows = super().encode(items, instruction=instruction)
            return np.roll(rows, 1, axis=1) if instruction == "Other words." else rows

    encoder = Swayed()
    first = evaluate(encoder, root, details=True, progress=False)
    assert encoder.seen_instructions == [None, "Find a picture.", "Name it."]
    encoder.seen_instructions.clear()
    evaluate(encoder, root, instruction="none", progress=False)
    assert encoder.seen_instructions == [None, None, None]
    encoder.seen_instructions.clear()
    every = evaluate(encoder, root, instruction="all", details=True, run_dir=root / "runs", progress=False)
    assert encoder.seen_instructions == [None, "Find a picture.", "Other words.", "Name it."]
    for task in ("0", "3"):
        spreads = [every[task].pop("instructions"), every[task]["global"].pop("instructions")]
        for own, table in zip(spreads, (first[task], first[task]["global"]), strict=True):
            assert own["count"] == (2 if task == "0" else 1)
            assert set(own) == {"count"} | {key for key in table if "@" in key}
            for key, value in own.items():
                if key != "count":
                    assert value["min"] <= value["mean"] <= value["max"]
                    assert table[key] in (value["min"], value["max"])  # of two, the first is one end
        if task == "0":
            other = 2 * spreads[0]["hit_rate@1"]["mean"] - first[task]["hit_rate@1"]
            assert other != first[task]["hit_rate@1"]
    assert every == first  # beside the spread, the first instruction's figures
    assert len(list((root / "runs").iterdir())) == 4
    with pytest.raises(InputError, match="instruction must be one of"):
        evaluate(encoder, root, instruction="second")


@pytest.mark.parametrize("memory", [1, 10_000])
def test_within_a_budget_the_tables_and_runs_are_the_same(root, tmp_path, memory):
    (root / "mbeir_images/0.png").write_bytes(b"")
    options = {"details": True, "progress": False}
    whole = evaluate(ToyEncoder(), root, run_dir=tmp_path / "whole", **options)
    encoder = ToyEncoder()
    streamed = evaluate(encoder, root, run_dir=tmp_path / "streamed", memory=memory, work=tmp_path / "work", **options)
    assert streamed == whole
    for path in (tmp_path / "whole").iterdir():
        assert path.read_bytes() == (tmp_path / "streamed" / path.name).read_bytes()
    assert list((tmp_path / "work").iterdir()) == []
    with pytest.raises(InputError, match="memory must be"):
        evaluate(encoder, root, memory=0)


def test_the_headline_follows_mbeirs_convention(tmp_path):
    root = named_tasks(tmp_path / "root", dataset="fashioniq", number=7, tasks=(7,))
    named_tasks(root, dataset="cirr", number=8, tasks=(7,))
    tables = evaluate(NamedEncoder(), root, progress=False)
    assert {task: table["headline"] for task, table in tables.items()} == {
        "fashioniq_task7": "hit_rate@10",
        "cirr_task7": "hit_rate@5",
    }
    assert "headline" not in evaluate(NamedEncoder(), root, ks=(5,), progress=False)["fashioniq_task7"]


def test_several_data_sets_are_evaluated_in_one_pass_or_one_by_one(tmp_path):
    root = named_tasks(tmp_path / "root")
    named_tasks(root, dataset="far", number=4, tasks=(0, 8))
    encoder = NamedEncoder()
    tables = evaluate(encoder, root, progress=False)
    assert encoder.calls == 5 * 12 + 5 * 7
    assert list(tables) == ["far_task0", "far_task8", "tiny_task0", "tiny_task3", "tiny_task7"]
    assert tables["tiny_task0"]["global"]["pool"] == 60
    one = evaluate(NamedEncoder(), root, dataset="far", progress=False)
    assert one == {"0": tables["far_task0"], "8": tables["far_task8"]}
    assert set(chance(root)) == set(tables)


def test_batches_do_not_change_the_figures(root):
    whole = evaluate(ToyEncoder(), root, progress=False)
    assert evaluate(ToyEncoder(), root, batch_size=1, progress=False) == whole
