"""Augmentation: the same for the same seed and place, within the colours there are, white from outside."""

from types import SimpleNamespace

import pytest
import torch

from puma.errors import InputError
from puma.training.augmenting import Augmentation, move

PROCESSOR = SimpleNamespace(image_mean=[0.5] * 3, image_std=[0.5] * 3)


def test_seed_and_place_alone_decide():
    pixels = torch.rand(4, 3, 16, 16) * 2 - 1
    changed = Augmentation(PROCESSOR, 1)(pixels, (0, 5, 2))
    assert torch.equal(changed, Augmentation(PROCESSOR, 1)(pixels, (0, 5, 2)))
    for seed, place in ((2, (0, 5, 2)), (1, (1, 5, 2)), (1, (0, 6, 2))):
        assert not torch.equal(changed, Augmentation(PROCESSOR, seed)(pixels, place))
    assert changed.abs().max() <= 1
    assert (changed - pixels).abs().mean() > 0.1


def test_white_comes_in_and_types_stay():
    black = torch.full((64, 3, 16, 16), -1.0, dtype=torch.bfloat16)
    changed = Augmentation(PROCESSOR)(black, (0, 0, 0))
    assert changed.dtype == torch.bfloat16
    assert changed.max() > 0.6  # white, darkened by a gain of 0.85 at most
    assert (changed == -1).float().mean() > 0.5
    white = move(torch.ones(8, 3, 16, 16), torch.Generator().manual_seed(0))
    assert (white > 0.84).all()


def test_patches_are_refused():
    with pytest.raises(InputError, match=r"shape \[10, 1176\]"):
        Augmentation(SimpleNamespace())(torch.zeros(10, 1176), (0,))
