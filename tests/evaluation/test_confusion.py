"""Top modalities, their shares and their table: by hand, ties against us."""

import numpy as np
import pytest

from puma.evaluation.confusion import confusion_table, shares, top_modalities, wrong_modality

NONE = -np.inf


def test_the_best_modality_is_on_top_and_a_tie_is_a_wrong_one():
    best = np.array([[0.9, 0.5, 0.1], [0.5, 0.5, 0.1], [0.4, 0.5, 0.5], [0.1, NONE, NONE], [NONE, NONE, NONE]])
    assert top_modalities(best, wanted=0).tolist() == [0, 1, 1, 0, -1]
    assert top_modalities(best, wanted=1).tolist() == [0, 0, 2, 0, -1]
    assert top_modalities(best, wanted=2).tolist() == [0, 0, 1, 0, -1]
    assert best[0].tolist() == [0.9, 0.5, 0.1]  # the argument stays as it was


def test_shares_sum_to_one_and_nothing_found_is_wrong():
    tops = np.array([0, 0, 1, -1])
    assert shares(tops) == {"text": 0.5, "image": 0.25, "image,text": 0.0, "none": 0.25}
    assert wrong_modality(tops, wanted=0) == 0.5
    assert shares(np.array([2, 2])) == {"text": 0.0, "image": 0.0, "image,text": 1.0}


def test_the_table_says_what_was_wanted():
    local = {"confusion": {"text": 0.0, "image": 1.0, "image,text": 0.0}}
    mixed = {"confusion": {"text": 0.75, "image": 0.25, "image,text": 0.0}}
    tables = {"0": local | {"global": mixed}, "webqa_task2": {"global": mixed}, "3": local}
    rows = confusion_table(tables)
    assert [(row["task"], row["query"], row["wanted"], row["wrong"]) for row in rows] == [
        ("0", "text", "image", pytest.approx(0.75)),
        ("webqa_task2", "text", "image,text", 1.0),
    ]
    assert rows[0]["shares"] == mixed["confusion"]
    assert [(row["task"], row["wrong"]) for row in confusion_table(tables, "local")] == [("0", 0.0), ("3", 1.0)]
