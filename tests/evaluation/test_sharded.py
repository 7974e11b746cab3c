"""An evaluation that embeds in actors and searches by shards: the figures of one process to the last digit."""

import numpy as np
import pytest

from puma.evaluation.mbeir import evaluate
from puma.evaluation.stored.reading import evaluate_embeddings
from puma.evaluation.stored.writing import write_embeddings
from puma.index.exact.sharded import ShardedSearch
from puma.items import remote
from support.benchmarks import random_tasks
from support.encoders import ToyEncoder
from support.inline_ray import InlineRay


@pytest.fixture
def root(tmp_path):
    return random_tasks(
        tmp_path / "root", tasks=(0, 3, 7), queries=7, candidates=12, images=True, graded=True, prompts=3
    )


class Coarse(ToyEncoder):
    """One of four directions for each item: nearly all scores are ties."""

    def encode(self, items, *, instruction=None):
        rows = super().encode(items, instruction=instruction)[:, :4]
        return np.eye(4, self.dim, dtype=np.float32)[rows.argmax(axis=1)]


@pytest.mark.parametrize("load", [ToyEncoder, Coarse])
@pytest.mark.parametrize("kept", [True, False])
def test_the_figures_and_runs_are_those_of_one_process(root, tmp_path, monkeypatch, load, kept):
    ray = InlineRay(seed=1, deaths=2)
    monkeypatch.setattr(remote, "connected", lambda *given: ray)
    options = {"details": True, "progress": False, "batch_size": 4}
    expected = evaluate(load(), root, run_dir=tmp_path / "one", **options)
    with remote.RayEncoder(load, workers=3) as encoder:
        if kept:
            options["work"] = tmp_path / "work"
        search = ShardedSearch(ray, shard_rows=5)
        tables = evaluate(encoder, root, run_dir=tmp_path / "two", search=search, **options)
    assert tables == expected
    assert all(table["skipped"] == 0 for table in tables.values())
    assert any(table["hit_rate@5"] > 0 for table in tables.values())
    assert encoder.deaths == 2
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


def test_stored_vectors_by_shards(root, tmp_path):
    write_embeddings(Coarse(), root, tmp_path / "stored", progress=False)
    search = ShardedSearch(InlineRay(), shard_rows=3)
    expected = evaluate_embeddings(tmp_path / "stored", root, details=True)
    assert evaluate_embeddings(tmp_path / "stored", root, details=True, search=search) == expected
