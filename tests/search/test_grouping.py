"""Near-duplicates in groups."""

import numpy as np
import pytest

from puma.errors import InputError
from puma.search import Searcher
from puma.search.grouping import group_places, grouped
from support.encoders import ToyEncoder
from support.served import png


def slow(vectors, modalities, near):
    """Said slowly: in order, each goes to the first leader that is near, or leads."""
    leaders, groups = [], []
    for n in range(len(vectors)):
        for leader, group in zip(leaders, groups, strict=True):
            if modalities[leader] == modalities[n] and float(np.dot(vectors[leader], vectors[n])) >= near:
                group.append(n)
                break
        else:
            leaders.append(n)
            groups.append([n])
    return groups


def test_groups_are_those_of_the_slow_way_and_keep_their_order():
    random = np.random.default_rng(0)
    centres = random.normal(size=(7, 16))
    vectors = centres[random.integers(0, 7, 60)] + 0.1 * random.normal(size=(60, 16))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    modalities = random.choice(["image", "text"], 60).tolist()
    groups = group_places(vectors, modalities, 0.95)
    assert groups == slow(vectors, modalities, 0.95)
    assert 7 < len(groups) < 60
    assert sorted(place for group in groups for place in group) == list(range(60))
    assert [group[0] for group in groups] == sorted(group[0] for group in groups)
    shorter = group_places(vectors[:40], modalities[:40], 0.95)
    assert [group[0] for group in shorter] == [group[0] for group in groups if group[0] < 40]


def test_odd_arguments():
    assert group_places(np.zeros((0, 4)), []) == []
    with pytest.raises(InputError, match="as many, got 2 and 1"):
        group_places(np.eye(2), ["text"])


def test_hits_of_an_index(tmp_path):
    searcher = Searcher(ToyEncoder(), tmp_path / "my.index")
    pictures = {"red": (255, 0, 0), "same": (254, 0, 0), "blue": (0, 0, 255)}
    searcher.add([{"image": png(colour)} for colour in pictures.values()], list(pictures))
    searcher.add(["red"], ["word"])
    hits = searcher.search("red", k=10)
    found = [[hit.id for hit in group] for group in grouped(searcher.index, hits)]
    assert sorted(map(sorted, found)) == [["blue"], ["red", "same"], ["word"]]
    searcher.index.delete([hits[0].id])
    assert hits[0].id not in {hit.id for group in grouped(searcher.index, hits) for hit in group}
    assert grouped(searcher.index, []) == []
