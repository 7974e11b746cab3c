"""Streamed exact search against the whole matrix of scores, on every division of the work, and within its memory."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from puma.errors import DataError, InputError
from puma.evaluation.metrics import ranks_of_positives
from puma.index.exact import planning, ranking, rescoring, scanning, selection
from puma.index.exact import streamed as bulk
from puma.index.exact.small import rounded
from puma.index.exact.streamed import ranks_of_positives_streamed, top_k


def units(count, dim, seed=0):
    rows = np.random.default_rng(seed).normal(size=(count, dim))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def all_scores(queries, candidates):
    """The slow, obvious matrix: double precision, NaN for what is lost."""
    with np.errstate(invalid="ignore"):
        scores = rounded(queries.astype(np.float64) @ candidates.astype(np.float64).T)
    scores[:, ~candidates.any(axis=1)] = np.nan
    scores[~queries.any(axis=1)] = np.nan
    return scores


def obvious(queries, candidates, k):
    ids = np.full((len(queries), k), -1, dtype=np.int64)
    best = np.full((len(queries), k), np.nan, dtype=np.float32)
    for number, row in enumerate(all_scores(queries, candidates)):
        order = [place for place in np.argsort(-row, kind="stable") if not np.isnan(row[place])][:k]
        ids[number, : len(order)], best[number, : len(order)] = order, row[order]
    return ids, best


def same(found, expected):
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_array_equal(found[1], expected[1])
    assert (found[0].dtype, found[1].dtype) == (np.int64, np.float32)


@pytest.fixture
def divided(monkeypatch):
    """Divide the work so: candidates of a block, queries of a product, queries of a pass."""

    def divide(block, tile=512, queries=None, patch=monkeypatch):
        patch.setattr(planning, "BLOCKS", (block,))
        for module in (planning, scanning, selection, ranking):
            patch.setattr(module, "TILE", tile)
        if queries is not None:
            plan = bulk.plan_for
            patch.setattr(
                bulk,
                "plan_for",
                lambda *arguments: bulk.Plan(queries, block, plan(*arguments).threads),
            )

    return divide


DIVISIONS = [(4096, 512, None, 1), (4096, 512, None, 3), (97, 7, None, 2), (500, 64, 9, 2), (1, 512, None, 1)]


@pytest.mark.parametrize(("block", "tile", "queries", "threads"), DIVISIONS)
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_every_division_of_the_work_gives_the_k_best(divided, block, tile, queries, threads, dtype):
    divided(block, tile, queries)
    asked, pool = units(23, 24), units(1500, 24, seed=1).astype(dtype)
    pool[700:720], pool[30], pool[31, 3], pool[1400] = pool[5], 0, np.nan, np.nan
    asked[4], asked[9] = 0, np.nan
    readable_queries, known = np.nan_to_num(asked), np.where(np.isnan(pool).any(axis=1)[:, None], 0, pool)
    for k in (1, 12, 1499, 1600) if block > 1 else (12,):
        same(top_k(asked, pool, k, threads=threads), obvious(readable_queries, known, k))
    assert np.isnan(asked[9]).all()  # the caller's array is left as it was
    assert np.isnan(pool[1400]).all()


def near_ties(count, dim, spread, seed=0):
    """Candidates nearer to each other than single precision can tell, in groups."""
    centres = units(5, dim, seed)
    rows = centres[np.arange(count) % 5] + spread * np.random.default_rng(seed + 1).normal(size=(count, dim))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("spread", [0.0, 1e-7, 1e-6, 1e-5, 1e-4])
@pytest.mark.parametrize("k", [3, 40, 700])
def test_near_ties_are_decided_by_the_exact_scores(divided, monkeypatch, spread, k):
    monkeypatch.setattr(selection, "SLACK", 8)  # little room: exact scores are needed on the way
    pool = near_ties(4000, 48, spread)
    asked = near_ties(40, 48, 1e-3, seed=7)
    asked[20:] = units(20, 48, seed=3)
    expected = obvious(asked, pool, k)
    for block, threads in ((4096, 1), (250, 2), (37, 1)):
        divided(block)
        same(top_k(asked, pool, k, threads=threads), expected)


@given(
    seed=st.integers(0, 2**32 - 1),
    rows=st.integers(1, 60),
    k=st.integers(1, 20),
    block=st.integers(1, 61),
    tile=st.integers(1, 6),
    threads=st.integers(1, 2),
    signs=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_top_k_and_ranks_do_not_depend_on_the_blocks(seed, rows, k, block, tile, threads, signs):
    random = np.random.default_rng(seed)
    pool = random.normal(size=(rows, 4))
    pool = np.sign(pool) / 2 if signs else pool / np.linalg.norm(pool, axis=1, keepdims=True)  # signs: many ties
    pool[random.random(rows) < 0.1] = 0
    pool = pool.astype(random.choice([np.float16, np.float32]))
    asked = np.concatenate([pool[: min(rows, 4)].astype(np.float32), units(3, 4, seed)])
    positives = [random.choice(rows, random.integers(0, min(rows, 4) + 1), replace=False) for _ in asked]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planning, "BLOCKS", (block,))
        patch.setattr(selection, "SLACK", 1)
        for module in (planning, scanning, selection, ranking):
            patch.setattr(module, "TILE", tile)
        same(top_k(asked, pool, k, threads=threads), obvious(asked, pool, k))
        ranks = ranks_of_positives_streamed(asked, pool, positives, threads=threads)
    for own, expected in zip(ranks, ranks_of_positives(all_scores(asked, pool), positives), strict=True):
        assert own.tolist() == expected.tolist()


@pytest.mark.parametrize("spread", [0.0, 1e-6, 1e-5, 1e-4, 1.0])
def test_ranks_equal_those_of_the_whole_matrix(divided, spread):
    pool = near_ties(3000, 48, spread)
    pool[17] = 0
    asked = np.concatenate([near_ties(20, 48, 1e-3, seed=7), units(20, 48, seed=3), np.zeros((1, 48), np.float32)])
    random = np.random.default_rng(0)
    positives = [random.choice(3000, size, replace=False) for size in random.integers(0, 5, len(asked))]
    positives[3], positives[30] = np.arange(200), [17, 4]
    expected = [row.tolist() for row in ranks_of_positives(all_scores(asked, pool), positives)]
    for block, tile, threads in ((4096, 512, 1), (250, 13, 2)):
        divided(block, tile)
        found = ranks_of_positives_streamed(asked, pool, positives, threads=threads)
        assert [row.tolist() for row in found] == expected
        assert {row.dtype for row in found} == {np.dtype(np.int64)}
    assert expected[-1] == []
    assert len(expected[30]) == 1


def test_blocks_full_of_ties_are_scored_whole_and_few_pairs_one_by_one(divided, monkeypatch):
    divided(256)
    pool = np.repeat(units(1, 16), 5000, axis=0)
    asked = units(6, 16, seed=2)
    calls = {"blocks": 0, "pairs": 0}
    whole, single = selection.block_scores, bulk.stored_scores

    def counted_blocks(*arrays):
        calls["blocks"] += 1
        return whole(*arrays)

    def counted_pairs(queries, source, rows, *rest):
        calls["pairs"] += len(rows)
        return single(queries, source, rows, *rest)

    monkeypatch.setattr(selection, "block_scores", counted_blocks)
    monkeypatch.setattr(bulk, "stored_scores", counted_pairs)
    ids, scores = top_k(asked, pool, 120)
    assert ids.tolist() == [list(range(120))] * 6
    assert (scores == scores[:, :1]).all()
    assert calls["blocks"] >= 19
    assert calls["pairs"] < 6 * 2500  # of 5,000: what ties with the k-th and comes later is not looked at again
    assert [row.tolist() for row in ranks_of_positives_streamed(asked, pool, [[7]] * 6)] == [[5000]] * 6


@pytest.mark.parametrize("sign", [1, -1])
def test_lengths_that_are_not_quite_1_do_not_break_ties(divided, sign):
    asked = units(4, 16)
    pool = np.concatenate([asked] * 40) * np.random.default_rng(0).uniform(1.001, 1.009, (160, 1)) * sign
    pool = pool.astype(np.float32)
    everything = all_scores(asked, pool)
    assert ((everything == sign).sum(axis=1) == 40).all()  # clipped: forty candidates of one score
    for block in (4096, 16):
        divided(block)
        same(top_k(asked, pool, 10), obvious(asked, pool, 10))
        same(top_k(asked, pool, 155), obvious(asked, pool, 155))
        ranks = ranks_of_positives_streamed(asked, pool, [[n, n + 8] for n in range(4)])
        expected = ranks_of_positives(everything, [[n, n + 8] for n in range(4)])
        assert [row.tolist() for row in ranks] == [row.tolist() for row in expected]


@pytest.mark.parametrize("spread", [1e-7, 1e-6, 1e-5])
def test_products_off_by_all_that_the_bound_allows_change_nothing(divided, monkeypatch, spread):
    pool, asked = near_ties(3000, 200, spread), near_ties(12, 200, 1e-3, seed=7)
    positives = [[5 * n, 5 * n + 1] for n in range(12)]
    expected = obvious(asked, pool, 40)
    ranks = [row.tolist() for row in ranks_of_positives(all_scores(asked, pool), positives)]
    noise = rescoring.score_bound(200) - 0.5e-6 - 2e-7  # without rounding, and what single precision adds here
    honest = scanning.Space.scores
    random = np.random.default_rng(0)

    def worst(self, queries, rows, lost):
        scores, mask = honest(self, queries, rows, lost)
        scores += (noise * random.choice([-1, 1], scores.shape)).astype(np.float32)
        return scores, mask

    monkeypatch.setattr(scanning.Space, "scores", worst)
    for block in (4096, 150):
        divided(block)
        same(top_k(asked, pool, 40, threads=1), expected)
        found = ranks_of_positives_streamed(asked, pool, positives, threads=1)
        assert [row.tolist() for row in found] == ranks


@pytest.mark.parametrize("queries", [0, 3])
def test_empty_searches(queries):
    asked = units(queries, 4) if queries else np.zeros((0, 4), dtype=np.float32)
    for source in (np.zeros((0, 4), dtype=np.float32), iter([]), []):
        ids, scores = top_k(asked, source, 2)
        assert ids.tolist() == [[-1, -1]] * queries
        assert scores.shape == (queries, 2)
        assert np.isnan(scores).all()
    assert [row.tolist() for row in ranks_of_positives_streamed(asked, units(5, 4), [[]] * queries)] == [[]] * queries


def test_files_and_passing_blocks_give_what_arrays_give(tmp_path):
    asked, pool = units(11, 12), units(900, 12, seed=1).astype(np.float16)
    np.save(tmp_path / "pool.npy", pool)
    expected = top_k(asked, pool, 20)
    for source in (
        tmp_path / "pool.npy",
        np.load(tmp_path / "pool.npy", mmap_mode="r"),
        iter([pool[:300], pool[300:]]),
    ):
        same(top_k(asked, source, 20), expected)
    same(top_k(asked.astype(np.float64), [pool[:1], tmp_path / "pool.npy"], 1)[:2], top_k(asked, [pool[:1], pool], 1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"queries": np.eye(4, dtype=np.int64)}, r"queries must be floats \[n, 4\], got int64"),
        ({"queries": units(2, 5)}, r"queries must be floats \[n, 4\], got float32 \[2, 5\]"),
        ({"queries": units(2, 4) * 2}, r"queries\[0\] has length 2.0000, not 1; divide"),
        ({"source": units(9, 4) * np.float32(0.9)}, r"source\[0\] has length 0.9000, not 1"),
        ({"source": np.full((9, 4), np.inf, np.float16)}, r"source\[0\] has length inf"),
        ({"source": np.full((9, 4), 1e30, np.float32)}, r"source\[0\] has length inf"),
        ({"k": 0}, "k must be an integer of at least 1, got 0"),
        ({"memory": "lots"}, "memory must be a size"),
        ({"threads": 0}, "threads must be an integer of at least 1 or None, got 0"),
        ({"threads": 1.5}, "threads must be"),
        ({"memory": "1MB"}, r"memory=1MB is too small for 2 queries of dim 4 and k=3; .* give at least \d+MB"),
    ],
)
@pytest.mark.parametrize("threads", [1, 2])
def test_bad_arguments_are_refused(change, message, threads):
    arguments = {"queries": units(2, 4), "source": units(9, 4), "k": 3, "threads": threads} | change
    with pytest.raises(InputError, match=message):
        top_k(**arguments)


def test_a_bad_row_is_named_by_its_place_in_the_whole_pool(divided):
    divided(50)
    pool = units(400, 4)
    pool[333] *= 3
    with pytest.raises(DataError, match=r"source\[333\] has length 3.0000"):
        top_k(units(2, 4), pool, 3, threads=2)


@pytest.mark.parametrize(
    ("positives", "message"),
    [
        ([[1]], "one entry per query, got 1 for 2 queries"),
        ([[1], [9]], r"positives\[1\] must be distinct numbers in 0..8, got \[9\]"),
        ([[-1], [2]], r"positives\[0\] must be distinct"),
        ([[1, 1], [2]], r"positives\[0\] must be distinct"),
        ([[0.5], [2]], r"positives\[0\] must be a list of candidates' numbers"),
    ],
)
def test_bad_positives_are_refused(positives, message):
    with pytest.raises(InputError, match=message):
        ranks_of_positives_streamed(units(2, 4), units(9, 4), positives)


def test_the_memory_that_a_refusal_asks_for_is_enough():
    asked, pool = units(40, 16), units(3000, 16, seed=1)
    with pytest.raises(InputError, match="give at least") as refusal:
        top_k(asked, pool, 500, memory="1MB", threads=2)
    least = str(refusal.value).rpartition(" ")[2]
    more = f"{int(least.removesuffix('MB')) + 8}MB"  # the process may have grown a little since
    same(top_k(asked, pool, 500, memory=more, threads=2), obvious(asked, pool, 500))


def test_less_memory_means_smaller_blocks_then_more_passes(monkeypatch):
    monkeypatch.setattr(planning, "resident_bytes", lambda: 10**8)
    with bulk.open_source(units(10, 576)) as rows:
        much, some, little = (bulk.plan_for(size * 10**6, 2, 20_000, rows, 1000, 0) for size in (8000, 2000, 400))
    assert much == bulk.Plan(20_000, planning.BLOCKS[0], 2)
    assert (some.block, some.threads) == (planning.BLOCKS[0], 2)
    assert planning.ENOUGH <= some.queries < 20_000
    assert little.block < planning.BLOCKS[0]


MEASURED = """
import sys
import numpy as np
from puma.index.exact.streamed import ranks_of_positives_streamed, top_k

queries = np.load(sys.argv[1])
if sys.argv[3] == "top_k":
    ids, scores = top_k(queries, sys.argv[2], 50, memory=sys.argv[4], threads=2)
else:
    ranks_of_positives_streamed(queries, sys.argv[2], [[5]] * len(queries), memory=sys.argv[4], threads=2)
with open("/proc/self/status") as stream:  # not getrusage's figure, which begins at that of the process before exec
    print(next(line.split()[1] for line in stream if line.startswith("VmHWM")))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's account of a process's memory")
@pytest.mark.parametrize("call", ["top_k", "ranks"])
def test_a_pool_larger_than_the_budget_is_searched_within_it(tmp_path, call):
    block = units(4000, 576).astype(np.float16)
    pool = np.lib.format.open_memmap(tmp_path / "pool.npy", "w+", np.float16, (280_000, 576))
    for start in range(0, len(pool), len(block)):
        pool[start : start + len(block)] = block
    del pool
    np.save(tmp_path / "queries.npy", units(24, 576, seed=1))
    assert (tmp_path / "pool.npy").stat().st_size > 320e6
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    script = [
        sys.executable,
        "-c",
        textwrap.dedent(MEASURED),
        str(tmp_path / "queries.npy"),
        str(tmp_path / "pool.npy"),
    ]
    done = subprocess.run([*script, call, "256MB"], env=environment, capture_output=True, text=True, check=True)
    assert int(done.stdout) * 1024 < 256e6


def test_searching_loads_no_torch():
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    code = "import sys, puma.index.exact.streamed; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env=environment).returncode == 0
