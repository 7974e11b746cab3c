"""More training after stage 2, in rounds that follow or start beside each other, and means of weights.

The mean of a network's weights and of the same network trained on is often better than either (model soups, Wortsman et
al. 2022, arXiv 2203.05482; WiSE-FT, 2109.01903). Loads no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from puma.errors import ConfigError, InputError
from puma.training.config import TrainConfig


@dataclass(frozen=True)
class Rounds:
    """Rounds of more training.

    Args:
        config: of the first round; each later one has a seed higher by one.
        count: how many.
        share: of the new weights in each mean, above 0 and at most 1.
        beside: every round starts from stage 2's weights, and one mean is taken at the end: ``share`` for the rounds in
            equal parts, the rest for stage 2's weights. Else a round starts from the mean after the round before it.
        each: settings by which the rounds differ, above ``config``: one mapping for each round, or none at all.

    Raises:
        InputError: a number out of range; ``each`` has another number of entries than ``count``, or one with an unknown
            key or an unusable value.
    """

    config: TrainConfig
    count: int = 1
    share: float = 0.5
    beside: bool = False
    each: Sequence[Mapping[str, Any]] = ()

    def __post_init__(self) -> None:
        if type(self.count) is not int or self.count < 1:
            raise InputError(f"count={self.count!r}: give a whole number of rounds, at least 1")
        if not isinstance(self.share, (int, float)) or not 0 < self.share <= 1:
            raise InputError(f"share={self.share!r}: give the new weights' share in the mean, above 0 and at most 1")
        if not isinstance(self.beside, bool):
            raise InputError(f"beside={self.beside!r}: give true or false")
        if not isinstance(self.each, (list, tuple)) or not all(isinstance(one, Mapping) for one in self.each):
            raise InputError(f"each={self.each!r}: give a list with the settings of each round")
        if len(self.each) not in (0, self.count):
            raise InputError(f"each: has {len(self.each)} entries for {self.count} rounds; give one for each round")
        if any("stage" in one for one in self.each):
            raise InputError("each: a round is of stage retrieve; leave stage out")
        try:
            _ = self.configs
        except ConfigError as error:
            raise InputError("each: " + "; ".join(str(error).split("\n  ")[1:] or [str(error)])) from None

    @property
    def configs(self) -> list[TrainConfig]:
        """The rounds' settings, in order."""
        plain = [replace(self.config, seed=self.config.seed + number) for number in range(self.count)]
        changes = self.each or [{}] * self.count
        return [TrainConfig.from_dict({**vars(one), **more}) for one, more in zip(plain, changes, strict=True)]


def names_with_rounds(stages: Sequence[str], rounds: Rounds | None) -> dict[str, str | None]:
    """The names of stages and rounds (of their working folders and logs) in order, each with the next one's: what
    stands on it."""
    names = [*stages, *(_name(number) for number in range(1, (rounds.count if rounds else 0) + 1))]
    return dict(zip(names, [*names[1:], None], strict=True))


def _name(number: int) -> str:
    return f"round-{number}"


def train_rounds(model: Callable[[], Any], rounds: Rounds, run: Callable[[TrainConfig, str], None]) -> None:
    """Train in rounds, and take the mean after each, or with ``beside`` the mean of all at the end.

    A killed run goes on where it was: a finished round's weights come from its last checkpoint, and the mean is taken
    again.

    Args:
        model: returns the model that is trained, with stage 2's weights at first.
        rounds: how many, and how.
        run: trains the model by a round's settings, in the working folder of that name.
    """
    if rounds.beside:
        _train_beside(model, rounds, run)
        return
    for number, config in enumerate(rounds.configs, 1):
        with mean_with_before(model, rounds.share):
            run(config, _name(number))


def _train_beside(model: Callable[[], Any], rounds: Rounds, run: Callable[[TrainConfig, str], None]) -> None:
    start = _copied(model())
    mean: dict[str, Any] = {}
    for number, config in enumerate(rounds.configs, 1):
        mix_weights(model(), start, 0.0)
        run(config, _name(number))
        mix_weights(model(), mean, 1 / number)
        mean = _copied(model())
    mix_weights(model(), start, rounds.share)


def _copied(model: Any) -> dict[str, Any]:
    """The weights, copied to the CPU."""
    return {name: tensor.cpu().clone() for name, tensor in model.state_dict().items() if tensor.is_floating_point()}


@contextmanager
def mean_with_before(model: Callable[[], Any], share: float) -> Iterator[None]:
    """After the block the model's weights are ``share`` of what they are then, and the rest of what they were before.

    If an exception ends the block they are left as they are.
    """
    before = _copied(model())
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
