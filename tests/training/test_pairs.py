"""Training rows from a benchmark folder, and batches that mix tasks."""

import collections
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from puma.data import mbeir
from puma.errors import DataError, InputError
from puma.items import Item
from puma.training.pairs import Pair, read_pairs, rows_by_query
from puma.training.sampling import MixedTaskBatches


@pytest.fixture
def benchmark(tmp_path):
    """Two tasks of texts: task 1 has two positives a query."""
    for task in (1,):
        pool = [mbeir.Candidate(did=f"20:{n}", text=f"text {n}", image_path=None, modality="text") for n in range(1, 9)]
        queries = [
            mbeir.Query(
                qid=f"20:{n}",
                text=f"query {n}",
                image_path=None,
                modality="text",
                positives=(f"20:{n}", f"20:{n + 1}", f"20:{n + 2}"),
                negatives=(),
                task_id=task,
            )
            for n in range(1, 5)
        ]
        mbeir.write_queries(mbeir.query_path(tmp_path, "tiny", task, "train"), queries)
        mbeir.write_pool(mbeir.pool_path(tmp_path, "tiny", task, "train"), pool)
        qrels = {query.qid: dict.fromkeys(query.positives, 1) for query in queries}
        mbeir.write_qrels(mbeir.qrels_path(tmp_path, "tiny", task, "train"), qrels, task)
    mbeir.write_instructions(mbeir.instructions_path(tmp_path), [("text", "text", "tiny", 20, ["Find it.", "Which?"])])
    return tmp_path


def test_a_row_for_every_positive(benchmark):
    pairs = read_pairs(benchmark)
    assert len(pairs) == 12
    assert {len(rows) for rows in rows_by_query(pairs).values()} == {3}
    assert pairs[0].known == {"20:1", "20:2", "20:3"}
    assert {pair.instruction for pair in pairs} == {"Find it.", "Which?"}
    assert pairs == read_pairs(benchmark)


def test_a_limit_keeps_the_first_positive_and_every_known_one(benchmark):
    pairs = read_pairs(benchmark, limit=2)
    assert len(pairs) == 8
    assert [pair.candidate_id for pair in pairs[::2]] == ["20:1", "20:2", "20:3", "20:4"]
    assert all(len(pair.known) == 3 for pair in pairs)


def test_a_positive_outside_the_pool_is_named(benchmark):
    path = mbeir.pool_path(benchmark, "tiny", 1, "train")
    lines = path.read_text().splitlines()
    path.write_text("\n".join(line for line in lines if '"20:6"' not in line) + "\n")
    with pytest.raises(DataError, match=r"query 20:4: its positive 20:6 is not in the train pool"):
        read_pairs(benchmark, strict=True)


def change_line(path, number, change):
    lines = path.read_text().splitlines()
    lines[number - 1] = change(lines[number - 1])
    path.write_text("\n".join(lines) + "\n")


def test_what_cannot_be_used_is_left_out_and_listed(benchmark, caplog):
    """A torn line in each file, a query without positives, a positive outside the pool: the others are trained on."""
    queries = mbeir.query_path(benchmark, "tiny", 1, "train")
    pool = mbeir.pool_path(benchmark, "tiny", 1, "train")
    change_line(queries, 1, lambda line: line[: len(line) // 2])
    change_line(queries, 2, lambda line: line.replace('["20:2", "20:3", "20:4"]', "[]"))
    change_line(pool, 6, lambda line: line + "}")
    found = []
    pairs = read_pairs(benchmark, faults=found)
    assert [(pair.query_id, pair.candidate_id) for pair in pairs] == [
        ("20:3", "20:3"), ("20:3", "20:4"), ("20:3", "20:5"), ("20:4", "20:4"), ("20:4", "20:5"),
    ]  # fmt: skip
    assert pairs[-1].known == {"20:4", "20:5", "20:6"}, "known is what the data says, in the pool or not"
    output = sorted(map(str, found))
    assert len(output) == 4, output
    assert any(f"{queries}, line 1: is not JSON" in line for line in output)
    assert any(f"{pool}, line 6: is not JSON" in line for line in output)
    assert any("query 20:2: it has no positive" in line for line in output)
    assert any("query 20:4: its positive 20:6 is not in the train pool" in line for line in output)
    assert not caplog.records
    assert read_pairs(benchmark) == pairs
    assert "4 faulty entries were left out" in caplog.text, "nobody took the list, so it is in the log"
    with pytest.raises(DataError, match="1 fault in the candidate pool"):
        read_pairs(benchmark, strict=True)


def test_nothing_usable_is_an_error_and_says_why(benchmark):
    mbeir.query_path(benchmark, "tiny", 1, "train").write_text('{"qid": "20:1"\n{"qid": "20:2"}\n')
    with pytest.raises(DataError, match=r"(?s)no training pairs in split 'train'.*2 faulty entries.*line 1: is not"):
        read_pairs(benchmark)


def test_strict_refuses_a_query_without_positives(benchmark):
    path = mbeir.query_path(benchmark, "tiny", 1, "train")
    change_line(path, 2, lambda line: line.replace('["20:2", "20:3", "20:4"]', "[]"))
    with pytest.raises(DataError, match=r"query 20:2: it has no positive"):
        read_pairs(benchmark, strict=True)


def with_negatives(root, dids):
    """The first query's neg_cand_list set; the others' stay empty."""
    path = mbeir.query_path(root, "tiny", 1, "train")
    queries = mbeir.read_queries(path)
    mbeir.write_queries(path, [replace(queries[0], negatives=dids), *queries[1:]])
    return root


def test_hard_negatives_are_drawn_by_row_and_are_never_positives(benchmark):
    with_negatives(benchmark, ("20:8", "20:2", "20:6", "20:7"))  # 20:2 is one of its positives
    pairs = read_pairs(benchmark, negatives=2)
    first, rest = pairs[:3], pairs[3:]
    assert all(pair.negatives == () for pair in rest)
    for pair in first:
        assert len(pair.negatives) == 2
        assert {did for did, _ in pair.negatives} < {"20:6", "20:7", "20:8"}
        assert all(item.text == f"text {did[3:]}" for did, item in pair.negatives)
    assert len({pair.negatives for pair in first}) > 1, "rows of one query meet different ones"
    assert pairs == read_pairs(benchmark, negatives=2)
    assert {did for did, _ in read_pairs(benchmark, negatives=9)[0].negatives} == {"20:6", "20:7", "20:8"}
    plain = read_pairs(benchmark)
    assert all(pair.negatives == () for pair in plain)
    assert [replace(pair, negatives=()) for pair in pairs] == plain


def test_a_negative_of_no_pool_is_named(benchmark):
    with_negatives(benchmark, ("20:99",))
    assert read_pairs(benchmark)
    with pytest.raises(DataError, match="20:99"):
        read_pairs(benchmark, negatives=1, strict=True)
    found = []
    assert all(not pair.negatives for pair in read_pairs(benchmark, negatives=1, faults=found))
    assert ["negative 20:99 is in no pool" in str(skip) for skip in found] == [True]
    with pytest.raises(InputError, match="negatives=-1"):
        read_pairs(benchmark, negatives=-1)


def test_a_task_that_is_not_there_is_named(benchmark):
    with pytest.raises(InputError, match=r"\[7\]"):
        read_pairs(benchmark, tasks=[1, 7])


def made(sizes, shared):
    pairs = []
    for task, size in enumerate(sizes):
        for n in range(size):
            did = f"{task}:{n % shared}"
            pairs.append(Pair(Item(text="q"), Item(text="c"), None, task, f"{task}-{n}", did, frozenset([did])))
    return pairs


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=5),
    shared=st.integers(4, 40),
    batch=st.integers(2, 8),
    balance=st.sampled_from([0.0, 0.3, 1.0]),
    seed=st.integers(0, 99),
)
def test_batches_hold_no_candidate_twice_and_no_query_twice_an_epoch(sizes, shared, batch, balance, seed):
    pairs = made(sizes, shared)
    if len(pairs) < batch:
        return
    sampler = MixedTaskBatches(pairs, batch, seed=seed, balance=balance)
    batches = list(sampler.batches(0))
    assert batches == list(MixedTaskBatches(pairs, batch, seed=seed, balance=balance).batches(0))
    assert len(batches) <= len(sampler)
    for rows in batches:
        assert len(rows) == batch
        assert len({pairs[row].candidate_id for row in rows}) == batch
    used = [pairs[row].query_id for rows in batches for row in rows]
    assert len(used) == len(set(used))
    if shared >= max(sizes):
        assert len(batches) == len(sampler), "without repeats nothing is left over"


def test_epochs_differ_and_tasks_mix():
    pairs = made([400] * 8, 400)
    sampler = MixedTaskBatches(pairs, 32, seed=1)
    first = list(sampler.batches(0))
    assert first != list(sampler.batches(1))
    counts = collections.Counter(len({pairs[row].task for row in rows}) for rows in first[:60])
    assert counts.most_common(1)[0][0] in (3, 4, 5)
    assert min(counts) >= 1


def test_balance_decides_how_often_small_tasks_come():
    pairs = made([1000, 50], 1000)

    def share(balance):
        batches = list(MixedTaskBatches(pairs, 10, seed=0, balance=balance, mean=1.0, deviation=0.0).batches(0))[:5]
        return sum(pairs[row].task for rows in batches for row in rows) / 50

    assert share(0.0) > share(1.0)


def test_a_batch_needs_enough_queries():
    with pytest.raises(InputError, match="batch_size=9"):
        MixedTaskBatches(made([8], 8), 9)
