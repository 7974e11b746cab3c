"""Parting examples: by query content always, by positives where it is possible, the same on every run."""

import random

import pytest

from puma.errors import InputError
from puma.items import Item
from puma.training.finetune.examples import Example
from puma.training.finetune.split import split_examples


def example(query, positive):
    return Example(Item(text=query), Item(text=positive), None, query, positive)


def sides(rows, split):
    return [{rows[n].query_key for n in part} for part in (split.train, split.choose, split.measure)]


def test_each_example_is_on_one_side_and_a_fifth_of_the_queries_held_out():
    rows = [example(f"q{n}", f"p{n}") for n in range(100)]
    split = split_examples(rows)
    assert sorted(split.train + split.choose + split.measure) == list(range(100))
    assert (len(split.train), len(split.choose), len(split.measure)) == (80, 10, 10)
    assert split.held_out == sorted(split.choose + split.measure)
    assert split.shared_positives == 0
    assert split == split_examples(rows)
    assert split != split_examples(rows, seed=1)


def test_the_split_follows_content_and_not_the_order_of_rows():
    rows = [example(f"q{n}", f"p{n}") for n in range(60)]
    mixed = random.Random(0).sample(rows, len(rows))
    assert sides(rows, split_examples(rows)) == sides(mixed, split_examples(mixed))


def test_a_query_or_positive_of_several_rows_stays_on_one_side():
    chance = random.Random(1)
    rows = [example(f"q{chance.randrange(150)}", f"p{chance.randrange(300)}") for _ in range(200)]
    split = split_examples(rows)
    train, choose, measure = sides(rows, split)
    assert not train & choose
    assert not train & measure
    assert not choose & measure
    positives = [{rows[n].positive_key for n in part} for part in (split.train, split.choose, split.measure)]
    assert not positives[0] & (positives[1] | positives[2])
    assert split.shared_positives == 0
    assert len(choose | measure) == pytest.approx(0.2 * len({row.query_key for row in rows}), abs=3)


def test_pairs_that_go_both_ways_stay_together():
    rows = [example(f"a{n}", f"b{n}") for n in range(30)] + [example(f"b{n}", f"a{n}") for n in range(30)]
    split = split_examples(rows)
    held = {rows[n].query_key for n in split.held_out}
    assert held
    assert all((f"a{key[1:]}" in held) == (f"b{key[1:]}" in held) for key in held)


def test_data_that_hang_together_are_parted_by_query_and_the_shared_positives_counted():
    rows = [example(f"q{n}", f"p{n % 3}") for n in range(50)]
    split = split_examples(rows)
    train, choose, measure = sides(rows, split)
    assert not train & (choose | measure)
    assert len(choose) == len(measure) == 5
    assert split.shared_positives == 3


def test_at_most_so_many_queries_are_held_out():
    split = split_examples([example(f"q{n}", f"p{n}") for n in range(5000)])
    assert len(split.held_out) == 600
    assert len(split_examples([example(f"q{n}", f"p{n}") for n in range(10)]).held_out) == 4


def test_too_few_queries_and_fractions_out_of_range():
    rows = [example(f"q{n % 9}", f"p{n}") for n in range(40)]
    with pytest.raises(InputError, match="9 different queries; at least 10"):
        split_examples(rows)
    for fraction in (0.0, 1.0, -0.1, float("nan")):
        with pytest.raises(InputError, match="held_out="):
            split_examples([example(f"q{n}", f"p{n}") for n in range(40)], fraction)
