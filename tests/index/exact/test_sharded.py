"""Search by shards: equal to the search in one process to the last bit, ties included."""

import numpy as np
import pytest

from puma.errors import InputError
from puma.index.exact.sharded import ShardedSearch
from puma.index.exact.streamed import ranks_of_positives_streamed, top_k
from support.inline_ray import InlineRay


def _unit(rng, shape, decimals=None):
    rows = rng.normal(size=shape)
    if decimals is not None:
        rows = np.round(rows, decimals) + 1e-3 * (np.abs(np.round(rows, decimals)).sum(1, keepdims=True) == 0)
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("shard", [pytest.param(1, marks=pytest.mark.slow), 7, 64, 1000])
@pytest.mark.parametrize("decimals", [None, 0])
def test_shards_give_what_one_search_gives(shard, decimals):
    """With vectors rounded to whole numbers in three dimensions nearly every score is a tie."""
    rng = np.random.default_rng(shard)
    rows, queries = _unit(rng, (200, 3), decimals), _unit(rng, (9, 3), decimals)
    rows[[3, 50]], queries[4] = 0, 0
    positives = [rng.choice(200, size=number % 4, replace=False) for number in range(9)]
    positives[1] = np.array([3, 10])  # one that is never found
    search = ShardedSearch(InlineRay(seed=shard), shard_rows=shard, ahead=3)
    for k in (1, 10, 250):
        ids, scores = search.top_k(queries, rows, k)
        expected = top_k(queries, rows, k)
        np.testing.assert_array_equal(ids, expected[0])
        np.testing.assert_array_equal(scores, expected[1])
    ranks = search.ranks(queries, rows, positives)
    plain = ranks_of_positives_streamed(queries, rows, positives)
    assert [row.tolist() for row in ranks] == [row.tolist() for row in plain]


def test_few_shards_are_on_their_way_at_once():
    rng = np.random.default_rng(0)
    ray = InlineRay()
    ShardedSearch(ray, shard_rows=2, ahead=3).top_k(_unit(rng, (2, 4)), _unit(rng, (50, 4)), 5)
    assert ray.most_waiting == 3


@pytest.mark.parametrize("bad", [{"shard_rows": 0}, {"ahead": 0}])
def test_bad_sizes_are_refused(bad):
    with pytest.raises(InputError, match="at least 1"):
        ShardedSearch(InlineRay(), **bad)
