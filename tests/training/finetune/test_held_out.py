"""Hit rates on what is held out, against a slow count; and the report's figures."""

import numpy as np
import pytest

from puma.items import Item
from puma.training.finetune.examples import Example
from puma.training.finetune.held_out import HeldOut, hit_rate
from puma.training.finetune.report import gain_lines, gains
from puma.training.validation import MEAN


class Table:
    """Encodes a text to a fixed random vector; an instruction turns it."""

    def __init__(self, seed=0):
        self.seed = seed

    def encode(self, items, instruction=None):
        asked = instruction if isinstance(instruction, list) else [instruction] * len(items)
        rows = []
        for item, words in zip(items, asked, strict=True):
            state = np.random.default_rng([self.seed, *f"{item.text}{words or ''}".encode()])
            row = state.normal(size=8)
            rows.append(row / np.linalg.norm(row))
        return np.array(rows, np.float32)


def example(query, positive, instruction=None):
    return Example(Item(text=query), Item(text=positive), instruction, query, positive)


ROWS = [example(f"q{n % 12}", f"p{n}", "find" if n % 3 else None) for n in range(20)]
ROWS += [example("p3", "q3"), example("q3", "p3")]  # pairs that go both ways


def known(rows):
    found = {}
    for row in rows:
        found.setdefault(row.query_key, set()).add(row.positive_key)
    return {key: frozenset(value) for key, value in found.items()}


def slow_rank(row, encoder):
    """The rank of the best right answer: everything of an equal or better score that is wrong stands before it."""
    pool = list(dict.fromkeys(r.positive_key for r in ROWS))
    query = encoder.encode([row.query], [row.instruction])[0]
    scores = {key: float(query @ encoder.encode([Item(text=key)])[0]) for key in pool}
    right = {r.positive_key for r in ROWS if r.query_key == row.query_key} & set(pool)
    best = max(scores[key] for key in right)
    return 1 + sum(scores[key] >= best for key in pool if key not in right and key != row.query_key)


def test_ranks_are_those_of_a_slow_count():
    held, encoder = HeldOut.of(ROWS, ROWS, known(ROWS)), Table()
    found = held.ranks(encoder)
    assert list(found) == held.kinds == ["text -> text"]
    assert found["text -> text"] == {row.query_id: slow_rank(row, encoder) for row in ROWS}
    assert len(found["text -> text"]) < len(ROWS)  # a query of several rows is asked once
    assert len(held.pool("text -> text")) == len({row.positive_key for row in ROWS})


def test_figures_are_means_of_hit_rates_at_1_5_and_10():
    held, encoder = HeldOut.of(ROWS, ROWS, known(ROWS)), Table()
    ranks = list(held.ranks(encoder)["text -> text"].values())
    expected = np.mean([np.mean([rank <= k for rank in ranks]) for k in (1, 5, 10)])
    assert held.figures(encoder) == {"eval_hit_text->text": pytest.approx(expected), MEAN: pytest.approx(expected)}


def test_scores_that_are_no_numbers_are_misses():
    class Broken(Table):
        def encode(self, items, instruction=None):
            return super().encode(items, instruction) * np.nan

    ranks = HeldOut.of(ROWS[:4], ROWS, known(ROWS)).ranks(Broken())
    assert set(ranks["text -> text"].values()) == {None}
    assert hit_rate(ranks["text -> text"], 10) == 0


def test_gains_are_paired_and_printed():
    held = HeldOut.of(ROWS, ROWS, known(ROWS))
    before = {"text -> text": {str(n): 20 if n < 6 else 1 for n in range(10)}}
    after = {"text -> text": {str(n): 4 if n < 3 else before["text -> text"][str(n)] for n in range(10)}}
    found = gains(held, before, after)
    row = found["kinds"]["text -> text"]
    assert (row["queries"], row["pool"]) == (10, len(held.pool("text -> text")))
    five = row["hit_rate@5"]
    assert (five["before"], five["after"], five["better"], five["worse"]) == (0.4, 0.7, 3, 0)
    assert five["difference"] == pytest.approx(0.3)
    assert 0 <= five["low"] < 0.3 < five["high"] <= 1
    # with no query that loses, three of ten that gain: the middle 95 % of binomial(10, 0.3) / 10
    assert (five["low"], five["high"]) == (pytest.approx(0.0), pytest.approx(0.6))
    assert row["hit_rate@1"]["difference"] == row["hit_rate@1"]["low"] == row["hit_rate@1"]["high"] == 0
    lines = gain_lines(found)
    pool, rates = str(row["pool"]), ["40.0", "40.0", "40.0", "70.0", "40.0", "70.0"]
    assert lines[1].split() == ["text", "->", "text", "10", pool, *rates]
    assert "@1 +0.0 (+0.0 to +0.0), @5 +30.0 (+0.0 to +60.0)" in lines[2]
    assert "95 % interval over queries" in lines[2]
