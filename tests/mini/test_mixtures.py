"""Mixtures of stored features and the names that the tower's classifier gives them."""

import numpy as np
import pytest
import torch

from puma.errors import InputError
from puma.items.item import Item
from puma.mini.base.classifier import Classifier, load_classifier
from puma.mini.base.tower import TOWERS
from puma.mini.extra_pairs.mixtures import CEILING, Joined, Mixtures, directions, mixtures_of

CHANNELS, CLASSES = 12, 5


@pytest.fixture
def classifier():
    weight = np.random.default_rng(1).normal(size=(CLASSES, CHANNELS)).astype(np.float32)
    return Classifier(weight, np.zeros(CLASSES, np.float32), ("ant", "bee", "cat", "dog", "elk"))


@pytest.fixture
def mixtures(classifier):
    rows = np.random.default_rng(0).gamma(0.5, 1.0, size=(30, CHANNELS, 3, 3)).astype(np.float16)
    return mixtures_of(rows, np.arange(20), classifier)


def test_probabilities_are_a_softmax_of_the_linear_map(classifier):
    pooled = np.random.default_rng(2).normal(size=(4, CHANNELS)).astype(np.float32)
    slow = []
    for row in pooled:
        weights = [np.exp(float(row @ w) + float(b)) for w, b in zip(classifier.weight, classifier.bias, strict=True)]
        slow.append([weight / sum(weights) for weight in weights])
    np.testing.assert_allclose(classifier(pooled), slow, rtol=1e-4)


def test_the_classifier_is_read_from_the_towers_checkpoint(tmp_path):
    path = tmp_path / TOWERS["lite0"].weights
    path.parent.mkdir(parents=True)
    weight, bias = torch.randn(1000, 1280), torch.randn(1000)
    torch.save({"_fc.weight": weight, "_fc.bias": bias, "_conv_stem.weight": torch.zeros(1)}, path)
    found = load_classifier("lite0", lambda _package: tmp_path)
    assert (found.weight == weight.numpy()).all()
    assert (found.bias == bias.numpy()).all()
    assert len(found.names) == 1000
    assert found.names[1] == "goldfish"
    assert found.names[954] == "banana"


def test_directions_are_as_long_as_features_are_spread(classifier):
    pooled = np.random.default_rng(3).normal(size=(500, CHANNELS)) * np.arange(1, CHANNELS + 1)
    found = directions(pooled, classifier.weight)
    typical = np.sqrt(((pooled - pooled.mean(0)) ** 2).sum(1).mean())
    np.testing.assert_allclose(np.sqrt((found.astype(float) ** 2).sum(-1).mean(-1)), [typical] * 2, rtol=1e-4)
    own = classifier.weight - classifier.weight.mean(0)
    covariance = np.cov(pooled.T)
    for way, wanted in ((0, own @ covariance), (1, own)):
        for row, right in zip(found[way], wanted, strict=True):
            assert row @ right == pytest.approx(np.linalg.norm(row) * np.linalg.norm(right), rel=1e-4)


def test_a_mixture_is_the_same_every_time_and_in_the_towers_range(mixtures):
    first = [mixtures.features(n) for n in range(50)]
    again = [mixtures.lookup(Item(image=f"mixture:{n}")) for n in range(50)]
    for one, other in zip(first, again, strict=True):
        assert one.shape == (CHANNELS, 3, 3)
        assert one.dtype == np.float16
        assert (one == other).all()
        assert one.min() >= 0
        assert one.max() <= CEILING
    assert len({one.tobytes() for one in first}) == 50
    other_seed = Mixtures(mixtures.rows, mixtures.chosen, mixtures.classifier, mixtures.along, seed=1)
    assert (other_seed.features(0) != first[0]).any()


def test_only_chosen_rows_are_mixed(mixtures):
    rows = mixtures.rows.copy()
    rows[20:] = np.nan
    assert all(
        np.isfinite(Mixtures(rows, mixtures.chosen, mixtures.classifier, mixtures.along).features(n)).all()
        for n in range(50)
    )


def test_names_follow_the_classifiers_probabilities(mixtures):
    count = 4000
    drawn = list(mixtures.named(count, np.ones(CLASSES, bool), block=512))
    names = mixtures.classifier.names
    pooled = np.stack([mixtures.features(n).astype(np.float32).mean((1, 2)) for n in range(count)])
    expected = mixtures.classifier(pooled).mean(0)
    share = np.array([sum(name == wanted for _, name in drawn) for wanted in names]) / len(drawn)
    np.testing.assert_allclose(share, expected, atol=0.03)
    likeliest = np.bincount(mixtures.classifier(pooled).argmax(1), minlength=CLASSES) / count
    assert np.abs(share - expected).max() < np.abs(share - likeliest).max()  # drawn, not the likeliest
    assert list(mixtures.named(count, np.ones(CLASSES, bool), block=100)) == drawn


def test_held_out_classes_are_never_named(mixtures):
    allowed = np.array([True, False, True, True, True])
    drawn = list(mixtures.named(1000, allowed))
    assert drawn
    assert "bee" not in {name for _, name in drawn}
    numbers = [int(path.removeprefix("mixture:")) for path, _ in drawn]
    pooled = np.stack([mixtures.features(n).astype(np.float32).mean((1, 2)) for n in numbers])
    assert (mixtures.classifier(pooled)[:, 1] <= 0.5).all()  # mixtures that show a held-out class are left out
    assert list(mixtures.named(10, np.zeros(CLASSES, bool))) == []


def test_sources_are_looked_up_in_turn(mixtures):
    class One:
        def lookup(self, item):
            return np.ones(1) if item.image == "a.png" else None

    joined = Joined(One(), mixtures)
    assert joined.lookup(Item(image="a.png")) == 1
    assert (joined.lookup(Item(image="mixture:3")) == mixtures.features(3)).all()
    assert joined.lookup(Item(image="b.png")) is None
    assert mixtures.lookup(Item(text="mixture:3")) is None


def test_classes_without_stored_features_are_refused(tmp_path, monkeypatch):
    from puma.mini.extra_pairs import pairs

    class Empty:
        def tasks(self, _split):
            return (0, 1, 3)

    monkeypatch.setattr(pairs, "Benchmark", lambda _root: Empty())
    monkeypatch.setattr(pairs, "HeldOut", lambda _root: ())
    with pytest.raises(InputError, match="tower_rate"):
        pairs.extra_pairs(["classes"], tmp_path, 32)
