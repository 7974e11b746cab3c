"""More training after stage 2, each round followed by the mean of the weights before and after it.

The mean of a network's weights and of the same network trained on is often better than either (model soups, Wortsman et
al. 2022, arXiv 2203.05482; WiSE-FT, 2109.01903). Loads no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from puma.errors import InputError
from puma.training.config import TrainConfig


@dataclass(frozen=True)
class Rounds:
    """Rounds of more training.

    Args:
        config: of the first round; each later one has a seed higher by one.
        count: how many.
        share: of the new weights in each mean, above 0 and at most 1.

    Raises:
        InputError: a number out of range.
    """

    config: TrainConfig
    count: int = 1
    share: float = 0.5

    def __post_init__(self) -> None:
        if type(self.count) is not int or self.count < 1:
            raise InputError(f"count={self.count!r}: give a whole number of rounds, at least 1")
        if not isinstance(self.share, (int, float)) or not 0 < self.share <= 1:
            raise InputError(f"share={self.share!r}: give the new weights' share in the mean, above 0 and at most 1")

    @property
    def configs(self) -> list[TrainConfig]:
        """The rounds' settings, in order."""
        return [replace(self.config, seed=self.config.seed + number) for number in range(self.count)]


def names_with_rounds(stages: Sequence[str], rounds: Rounds | None) -> dict[str, str | None]:
    """The names of stages and rounds (of their working folders and logs) in order, each with the next one's: what
    stands on it."""
    names = [*stages, *(_name(number) for number in range(1, (rounds.count if rounds else 0) + 1))]
    return dict(zip(names, [*names[1:], None], strict=True))


def _name(number: int) -> str:
    return f"round-{number}"


def train_rounds(model: Callable[[], Any], rounds: Rounds, run: Callable[[TrainConfig, str], None]) -> None:
    """Train in rounds, and take the mean after each.

    A killed run goes on where it was: a finished round's weights come from its last checkpoint, and the mean is taken
    again.

    Args:
        model: returns the model that is trained, with stage 2's weights at first.
        rounds: how many, and how.
        run: trains the model by a round's settings, in the working folder of that name.
    """
    for number, config in enumerate(rounds.configs, 1):
        with mean_with_before(model, rounds.share):
            run(config, _name(number))


@contextmanager
def mean_with_before(model: Callable[[], Any], share: float) -> Iterator[None]:
    """After the block the model's weights are ``share`` of what they are then, and the rest of what they were before.

    If an exception ends the block they are left as they are.
    """
    before = {name: tensor.cpu().clone() for name, tensor in model().state_dict().items() if tensor.is_floating_point()}
    yield
    mix_weights(model(), before, share)


def mix_weights(model: Any, others: Mapping[str, Any], share: float) -> None:
    """Set the model's weights to ``share`` of themselves and the rest of the others', in float32.

    Args:
        model: a torch module, changed in place. What is no floating-point number stays as it is.
        others: tensors by the names of the model's ``state_dict``; names that are missing leave a tensor as it is.
        share: of the model's own weights, 0 to 1.
    """
    seen = set()  # tied weights have several names
    for name, tensor in model.state_dict().items():
        if name not in others or not tensor.is_floating_point() or tensor.data_ptr() in seen:
            continue
        seen.add(tensor.data_ptr())
        own, other = tensor.float(), others[name].to(tensor.device).float()
        mixed = share * own + (1 - share) * other
        # What was frozen stays bit for bit: 0.6 x + 0.4 x is not always x, and an adapter would carry the difference.
        tensor.copy_(mixed.where(own != other, own))
