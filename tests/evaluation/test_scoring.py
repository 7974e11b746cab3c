"""Ranks, gains, top modalities and runs against a slow way to them; the same on every budget; where vectors lie."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from puma.evaluation import matrices, scoring
from puma.evaluation.matrices import matrix, parts_of, scratch_folder
from puma.evaluation.scoring import score
from puma.items import MODALITIES


def pool_view(random, pool, queries, codes, places):
    """What score() reads of a view."""
    positives = [np.sort(random.permutation(pool)[: random.integers(0, min(pool, 4) + 1)]) for _ in range(queries)]
    return SimpleNamespace(
        places=places,
        codes=codes,
        wanted=int(random.integers(0, len(MODALITIES))),
        positives=positives,
        grades=[random.integers(1, 3, len(columns)).astype(float) for columns in positives],
        qids=[f"9:{n}" for n in range(queries)],
        dids=[f"9:{n}" for n in range(pool)],
    )


def unit(random, rows, dim, distinct):
    """Unit rows, each one of a few, so that many scores tie."""
    few = random.normal(size=(distinct, dim)).astype(np.float32)
    few /= np.linalg.norm(few, axis=1, keepdims=True)
    return few[random.integers(0, distinct, rows)]


def slow(queries, readable_queries, vectors, readable, view):
    """Every pair by itself; a candidate is (score, is it wrong, its place), sorted in Python."""
    ranks, gains, tops, run = [], [], [], {}
    for number, query in enumerate(queries):
        grade = dict(zip(view.positives[number].tolist(), view.grades[number].tolist(), strict=True))
        rows = []
        for column, place in enumerate(view.places.tolist()):
            if readable_queries[number] and readable[place]:
                cosine = sum(float(a) * float(b) for a, b in zip(query, vectors[place], strict=True))
                rows.append((round(cosine, 6), column))
        worst = sorted(rows, key=lambda row: (-row[0], grade.get(row[1], 0)))
        found = [(rank, grade[column]) for rank, (_, column) in enumerate(worst, 1) if column in grade]
        ranks.append([rank for rank, _ in found])
        gains.append([gain for _, gain in found])
        shown = sorted(rows, key=lambda row: (-row[0], view.codes[row[1]] == view.wanted))
        tops.append(int(view.codes[shown[0][1]]) if shown else -1)
        run[view.qids[number]] = [(view.dids[column], score) for score, column in shown]
    return ranks, gains, tops, run


@given(
    seed=st.integers(0, 2**32 - 1),
    pool=st.integers(1, 14),
    queries=st.integers(1, 6),
    distinct=st.integers(1, 20),
    mixed=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_scores_equal_the_slow_way(seed, pool, queries, distinct, mixed):
    random = np.random.default_rng(seed)
    rows = random.permutation(pool + 3)[:pool]
    codes = np.sort(random.integers(0, 3, pool)) if mixed else np.full(pool, 1)
    view = pool_view(random, pool, queries, codes, np.sort(rows))
    vectors, asked = unit(random, pool + 3, 8, distinct), unit(random, queries, 8, distinct)
    readable, readable_queries = random.random(pool + 3) < 0.9, random.random(queries) < 0.9
    vectors[~readable], asked[~readable_queries] = 0, 0
    ranks, gains, tops, run = slow(asked, readable_queries, vectors, readable, view)
    for memory, keep in ((None, True), (1, True), (None, False)):
        found = score(asked, readable_queries, vectors, readable, view, memory=memory, keep_run=keep)
        assert [row.tolist() for row in found.ranks] == ranks
        assert [row.tolist() for row in found.gains] == gains
        assert found.tops.tolist() == tops
        assert {qid: list(row.items()) for qid, row in found.run.items()} == (run if keep else {})


def test_a_run_keeps_the_best_and_wrong_modalities_first_among_equals(monkeypatch):
    monkeypatch.setattr(scoring, "RUN_DEPTH", 3)
    random = np.random.default_rng(0)
    view = pool_view(random, 6, 1, np.array([0, 0, 1, 1, 2, 2]), np.arange(6))
    view.wanted = 0
    vectors = np.ones((6, 1), dtype=np.float32)
    asked, yes = np.ones((1, 1), dtype=np.float32), np.ones(6, dtype=bool)
    for memory in (None, 1):
        scored = score(asked, yes[:1], vectors, yes, view, keep_run=True, memory=memory)
        assert list(scored.run["9:0"].items()) == [("9:2", 1.0), ("9:3", 1.0), ("9:4", 1.0)]
        assert scored.tops.tolist() == [1]


@pytest.mark.parametrize("most", [1, 64])
def test_parts_of_a_file_are_its_rows_in_order(tmp_path, monkeypatch, most):
    monkeypatch.setattr(matrices, "MOST_PARTS", most)
    monkeypatch.setattr(matrices, "ROWS_AT_ONCE", 2)
    vectors, rows = matrix(10, 4, 1, tmp_path)
    assert (type(vectors), rows) == (np.memmap, 1)
    vectors[:] = np.arange(40).reshape(10, 4)
    places = np.array([7, 8, 9, 0, 1, 5])
    kept = np.array(vectors[places])
    with parts_of(vectors, places, tmp_path) as parts:
        assert len(parts) == (1 if most == 1 else 3)
        assert all(isinstance(part, np.memmap) for part in parts)
        assert (np.concatenate(parts) == kept).all()
    assert [path.name for path in tmp_path.iterdir()] == ["candidates.npy"]
    with parts_of(np.array(vectors), places, None) as parts:
        assert (np.concatenate(parts) == kept).all()


def test_the_scratch_folder_goes_even_after_a_fault(tmp_path):
    def fail():
        with scratch_folder(100, tmp_path / "new") as folder:
            assert folder.is_dir()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert list((tmp_path / "new").iterdir()) == []
    with scratch_folder(None, tmp_path / "none") as folder:
        assert folder is None
    assert not (tmp_path / "none").exists()
