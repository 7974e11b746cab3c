"""A fast version of a function beside a slow, obvious one: values and gradients."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch


def assert_same_with_gradients(
    fast: Callable[..., torch.Tensor], slow: Callable[..., torch.Tensor], *inputs: torch.Tensor, atol: float = 1e-5
) -> None:
    """Both give the same scalar, and the same gradient to each of the inputs."""
    fast_in = [one.clone().requires_grad_() for one in inputs]
    slow_in = [one.clone().requires_grad_() for one in inputs]
    value, obvious = fast(*fast_in), slow(*slow_in)
    assert float(value.detach()) == pytest.approx(float(obvious.detach()), abs=atol)
    value.backward()
    obvious.backward()
    for one, other in zip(fast_in, slow_in, strict=True):
        assert torch.allclose(one.grad, other.grad, atol=atol)
