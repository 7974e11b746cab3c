"""Batches over tasks and ranks: no duplicates, slices that partition, the same remainder after any step, the number of
tasks."""

import collections
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from puma.errors import InputError
from puma.items import Item
from puma.training.dropout import ModalityDropout
from puma.training.pairs import Pair
from puma.training.sampling import MixedTaskBatches, Run


def made(sizes, shared, positives=1):
    """Tasks of these sizes whose queries share candidates; task 0 asks for images, 1 asks with both."""
    pairs = []
    for task, size in enumerate(sizes):
        candidate = Item(image="c.png") if task == 0 else Item(text="c")
        query = Item(text="q", image="q.png") if task == 1 else Item(text="q")
        for n in range(size):
            for k in range(positives):
                did = f"{task}:{(n + k) % shared}"
                pairs.append(Pair(query, candidate, None, task, f"{task}-{n}", did, frozenset([did])))
    return pairs


cases = st.fixed_dictionaries(
    {
        "sizes": st.lists(st.integers(1, 30), min_size=1, max_size=5),
        "shared": st.integers(4, 40),
        "positives": st.integers(1, 2),
        "batch": st.integers(2, 6),
        "ranks": st.integers(1, 4),
        "balance": st.sampled_from([0.0, 0.3, 1.0]),
        "seed": st.integers(0, 99),
        "epoch": st.integers(0, 3),
    }
)


def sampler_of(case, rank=0):
    pairs = made(case["sizes"], case["shared"], case["positives"])
    if sum(case["sizes"]) < case["batch"] * case["ranks"]:
        return None
    return MixedTaskBatches(
        pairs, case["batch"], seed=case["seed"], balance=case["balance"], ranks=case["ranks"], rank=rank
    )


@settings(max_examples=60, deadline=None)
@given(case=cases)
def test_ranks_partition_a_global_batch_without_duplicates(case):
    sampler = sampler_of(case)
    if sampler is None:
        return
    by_rank = [list(sampler_of(case, rank).batches(case["epoch"])) for rank in range(case["ranks"])]
    plan = list(sampler.plan(case["epoch"]))
    assert all(len(batches) == len(plan) for batches in by_rank), "no rank waits for another for ever"
    pairs, used = sampler.pairs, []
    for number, batch in enumerate(plan):
        parts = [batches[number] for batches in by_rank]
        assert all(len(part) == case["batch"] for part in parts)
        assert sorted(row for part in parts for row in part) == sorted(batch)
        assert len({pairs[row].candidate_id for row in batch}) == case["batch"] * case["ranks"]
        used += [pairs[row].query_id for row in batch]
    assert len(used) == len(set(used)), "every query at most once an epoch"
    assert len(plan) <= len(sampler)
    if case["shared"] >= max(case["sizes"]) and case["positives"] == 1:
        assert len(plan) == len(sampler), "without repeats nothing is left over"


@settings(max_examples=40, deadline=None)
@given(case=cases, stop=st.integers(0, 8))
def test_after_any_step_the_rest_is_the_same(case, stop):
    """A resumed run passes over what it has trained on: an epoch's batches must not depend on what was given before."""
    sampler = sampler_of(case, rank=case["ranks"] - 1)
    if sampler is None:
        return
    whole = list(sampler.batches(case["epoch"]))
    assert list(sampler.batches(case["epoch"])) == whole
    running = sampler.batches(case["epoch"])
    taken = list(itertools.islice(running, stop))
    other = sampler_of(case, rank=case["ranks"] - 1)
    list(other.batches(case["epoch"] + 1))
    assert taken + list(itertools.islice(other.batches(case["epoch"]), stop, None)) == whole
    assert list(running) == whole[stop:]


def test_the_number_of_tasks_is_drawn_from_a_normal_around_four():
    sampler = MixedTaskBatches(made([6000] * 12, 6000), 32, seed=1, balance=0.0)
    counts = np.array([len({sampler.pairs[row].task for row in batch}) for batch in sampler.plan(0)][:1500])
    assert abs(counts.mean() - 4.0) < 0.1
    # rounding to whole numbers adds 1/12 to the variance
    assert abs(counts.std() - (1 + 1 / 12) ** 0.5) < 0.1
    assert counts.min() >= 1
    one = MixedTaskBatches(made([40, 40], 40), 8, mean=9.0, deviation=0.0)
    assert len({one.pairs[row].task for row in next(one.batches(0))}) == 2, "clipped to the tasks there are"


def test_a_task_in_a_batch_has_two_rows_at_least():
    pairs = made([50] * 8, 50)
    for batch in MixedTaskBatches(pairs, 6, seed=2, mean=8.0, deviation=0.0).plan(0):
        counts = collections.Counter(pairs[row].task for row in batch)
        if len(batch) and len(counts) <= 3:
            assert min(counts.values()) >= 2
            break
    else:
        pytest.fail("six rows should hold three tasks at the most")


def test_every_rank_gets_its_share_of_every_modality():
    pairs = made([64, 64, 64], 64)
    sampler = MixedTaskBatches(pairs, 16, ranks=4, mean=3.0, deviation=0.0)
    for batch in list(sampler.plan(0))[:2]:
        images = [sum(pairs[row].candidate.image is not None for row in part) for part in sampler.slices(batch)]
        assert max(images) - min(images) <= 1


def test_a_run_goes_on_over_epochs_and_says_which():
    pairs = made([9, 9], 3)  # shared candidates leave a rest in every epoch
    sampler = MixedTaskBatches(pairs, 2, seed=5)
    run = Run(sampler, 25)
    drawn = list(run)
    assert len(drawn) == len(run) == 25
    assert list(run) == drawn
    epochs = [batch[0][0] for batch in drawn]
    assert epochs == sorted(epochs)
    assert epochs[-1] >= 2
    by_hand = [[(epoch, row) for row in batch] for epoch in range(4) for batch in sampler.plan(epoch)]
    assert drawn == by_hand[:25]


@settings(max_examples=80, deadline=None)
@given(case=cases, stops=st.lists(st.tuples(st.integers(1, 4), st.integers(0, 6)), min_size=1, max_size=3))
def test_another_number_of_processes_goes_on_with_the_rows_not_yet_seen(case, stops):
    """What all processes get together, over a run whose number of processes changes in the middle of an epoch."""
    pairs = made(case["sizes"], case["shared"], case["positives"])
    counts = [ranks for ranks, _ in stops] + [case["ranks"]]
    different = len({pair.candidate_id for pair in pairs})
    if min(sum(case["sizes"]), different) < case["batch"] * max(counts):
        return
    steps = sum(count for _, count in stops) + 5

    def run(ranks, rank, before, steps):
        sampler = MixedTaskBatches(
            pairs, case["batch"], seed=case["seed"], balance=case["balance"], ranks=ranks, rank=rank
        )
        return Run(sampler, steps, before)

    given, before = [], []
    for ranks, count in [*stops, (case["ranks"], 5)]:
        done = len(given)
        try:
            by_rank = [list(run(ranks, rank, before, done + count)) for rank in range(ranks)]
        except InputError:
            assert case["positives"] == 2, "the rows drawn of an epoch may share too few candidates for one batch"
            return
        assert {len(batches) for batches in by_rank} == {done + count}
        given += [[drawn for batches in by_rank for drawn in batches[number]] for number in range(done, done + count)]
        before.append((ranks, count))
    assert len(given) == steps
    seen = collections.defaultdict(list)
    for batch in given:
        assert len({pairs[row].candidate_id for _, row in batch}) == len(batch)
        for epoch, row in batch:
            seen[epoch].append(pairs[row].query_id)
    assert all(len(queries) == len(set(queries)) for queries in seen.values()), "a query twice in an epoch"
    assert list(seen) == sorted(seen), "epochs in order"
    if (
        case["shared"] >= max(case["sizes"]) and case["positives"] == 1
    ):  # no candidate repeats: only a short rest is left
        for epoch in list(seen)[:-1]:
            assert len(pairs) - len(seen[epoch]) < case["batch"] * max(counts)


def test_a_move_to_as_many_processes_changes_nothing_before_it():
    sampler = MixedTaskBatches(made([40, 40], 40), 4, seed=3, ranks=2)
    whole = list(Run(sampler, 12))
    moved = list(Run(sampler.on(3), 12, [(2, 5)]))
    assert moved[:5] == whole[:5]
    assert moved[5:] != whole[5:]


def test_impossible_batches_are_refused():
    with pytest.raises(InputError, match=r"batch_size=9: give a number from 2 to 8"):
        MixedTaskBatches(made([8], 8), 9)
    with pytest.raises(InputError, match=r"batch_size=3 on each of 4 processes: .* 2 to 2"):
        MixedTaskBatches(made([8], 8), 3, ranks=4)
    with pytest.raises(InputError, match="rank=2 of ranks=2"):
        MixedTaskBatches(made([8], 8), 2, ranks=2, rank=2)
    with pytest.raises(InputError, match="only 3 different candidates"):
        Run(MixedTaskBatches(made([8], 3), 4), 5)


def test_withheld_parts_come_at_the_rate_asked_and_again_the_same():
    both = Pair(Item(text="t", image="i.png"), Item(text="c", image="c.png"), "Find it.", 8, "q", "c", frozenset("c"))
    drop = ModalityDropout(0.3, seed=7)
    drawn = [drop(both, row) for row in range(4000)]
    kinds = collections.Counter(pair.query.modality for pair in drawn)
    assert abs(kinds["image,text"] / 4000 - 0.7) < 0.03
    assert abs(kinds["text"] / 4000 - 0.15) < 0.02
    assert all(pair.instruction == "Find it." and pair.candidate is both.candidate for pair in drawn)
    again = [ModalityDropout(0.3, seed=7)(both, row) for row in reversed(range(4000))]
    assert [p.query.modality for p in reversed(again)] == [p.query.modality for p in drawn]
    drop.epoch = 1
    assert [drop(both, row).query.modality for row in range(200)] != [p.query.modality for p in drawn[:200]]


def test_what_has_one_part_only_is_left_whole():
    alone = Pair(Item(text="t"), Item(text="c", image="c.png"), None, 2, "q", "c", frozenset("c"))
    assert all(ModalityDropout(1.0)(alone, row) is alone for row in range(20))
    both = Pair(Item(text="t", image="i.png"), Item(text="c"), None, 6, "q", "c", frozenset("c"))
    assert all(ModalityDropout(0.0)(both, row) is both for row in range(20))
    with pytest.raises(InputError, match=r"probability=1\.5"):
        ModalityDropout(1.5)
