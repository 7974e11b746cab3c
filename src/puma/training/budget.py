"""How far a stage is, by steps or by wall time, also over kills: what its learning rate and the loss's decay follow."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path

from puma.storage.folders import write_json
from puma.training.config import TrainConfig
from puma.training.distributed import broadcast

UNBOUNDED = 10**9
"""Steps of a run that only its minutes end."""
FILE = "spent.json"
SAVES = 8
"""Checkpoints of a run, spread evenly over its minutes."""


class Budget:
    """A stage's clock.

    Args:
        config: its ``minutes``, 0 for a run that steps alone end, its ``least_steps``, and the shape of its schedule.
        checkpoint: where the run goes on; the time spent before it counts.
    """

    def __init__(self, config: TrainConfig, checkpoint: str | None = None) -> None:
        self.config = config
        self.progress = 0.0
        """Fraction of the run that is done, the same on all processes."""
        kept = None if checkpoint is None else Path(checkpoint) / FILE
        self._before = (
            float(json.loads(kept.read_text(encoding="utf-8"))["seconds"]) if kept and kept.is_file() else 0.0
        )
        self._start: float | None = None

    @property
    def seconds(self) -> float:
        """Spent training, in all calls."""
        return self._before + (0.0 if self._start is None else time.monotonic() - self._start)

    def is_spent(self, step: int) -> bool:
        """Whether a run that has done so many steps has no time left."""
        return self.config.minutes > 0 and self._by_time(step) >= 1

    @property
    def ends(self) -> bool:
        """Whether no time was left when :meth:`update` last looked."""
        return self.config.minutes > 0 and self.progress >= 1

    def begin(self, step: int, steps: int) -> None:
        """Start the clock."""
        self._start = time.monotonic()
        self.update(step, steps)

    def update(self, step: int, steps: int) -> bool:
        """Look at the clock after a step; true where a checkpoint is due by time. All processes must call."""
        fraction, before = step / max(1, steps), self.progress
        if self.config.minutes:
            fraction = broadcast(max(fraction, self._by_time(step)))
        self.progress = min(1.0, fraction)
        return self.config.minutes > 0 and int(SAVES * self.progress) > int(SAVES * before)

    def _by_time(self, step: int) -> float:
        """The fraction of the minutes that is over; of the least steps, where less of them is done."""
        fraction = self.seconds / (60 * self.config.minutes)
        return min(fraction, step / self.config.least_steps) if self.config.least_steps else fraction

    def rate(self) -> float:
        """The learning rate of a run with minutes, as a fraction of its peak."""
        config = self.config
        if self.progress < config.warmup:
            return self.progress / config.warmup
        done = (self.progress - config.warmup) / max(1e-9, 1 - config.warmup)
        if config.schedule == "linear":
            return max(0.0, 1 - done)
        return config.final_rate + (1 - config.final_rate) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))

    def save(self, folder: Path) -> None:
        """Keep the time spent beside a checkpoint."""
        if self.config.minutes:
            write_json(folder / FILE, {"seconds": round(self.seconds, 1)})
