"""Callbacks of the trainer: the progress bar, the loss's progress, evaluations, marks of whole checkpoints.

Imported when a training begins, since transformers is slow to import.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm
from transformers import TrainerCallback

from puma.storage.folders import write_json
from puma.training.budget import UNBOUNDED, Budget
from puma.training.config import TrainConfig
from puma.training.distributed import processes, wait
from puma.training.run_folder import MARK, PARTS, Journal, drop_bests
from puma.training.validation import best_of


@dataclass(frozen=True)
class Watch:
    """What a trainer does beside training.

    Args:
        folder: the run's.
        config: the stage.
        evaluate: the figures of the weights as they are now, called on the first process alone.
        unreadable: called with the rows, int64 [m, 2], of this process's batch whose image could not be used.
        budget: the run's clock.
        before: what other numbers of processes have done of the run (:class:`puma.training.sampling.Run`).
    """

    folder: Path
    config: TrainConfig
    evaluate: Callable[[], dict[str, float]] | None = None
    unreadable: Callable[[Any], Any] | None = None
    budget: Budget = field(default_factory=lambda: Budget(TrainConfig()))
    before: Sequence[tuple[int, int]] = ()


class Bar(TrainerCallback):
    """One line with rate, time left, the loss and, of split MAC-Loss, its two addends."""

    bar: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        total = None if state.max_steps >= UNBOUNDED else state.max_steps
        self.bar = tqdm(total=total, initial=state.global_step, unit="step", desc="training")

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.bar.update(state.global_step - self.bar.n)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if logs and "loss" in logs:
            shown = {name: logs[name] for name in ("loss", "same_loss", "other_loss") if name in logs}
            self.bar.set_postfix({name: f"{float(value):.3f}" for name, value in shown.items()}, refresh=False)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.bar.close()


class Progress(TrainerCallback):
    """Tells the loss how far training is, also after a resume; asks for evaluations; marks checkpoints that are
    whole."""

    def __init__(self, loss: Any, watch: Watch) -> None:
        self.loss, self.watch, self.journal = loss, watch, Journal(watch.folder)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.watch.budget.begin(state.global_step, state.max_steps)
        # A checkpoint brings its own intervals, and the rate that its own length had at this step.
        state.compute_steps(args, state.max_steps)
        _set_rates(kwargs["lr_scheduler"])
        rank, _world = processes()
        if rank == 0:
            self.journal.begin(state.log_history)
        if rank:  # other dropout masks than the first process's; a resume puts its own back after this
            torch.manual_seed(args.seed + 7919 * rank)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.loss.progress = self.watch.budget.progress
        if self.watch.config.minutes:  # the scheduler asked for the rate before the budget knew of the last step
            _set_rates(kwargs["lr_scheduler"])

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        budget, every = self.watch.budget, self.watch.config.eval_every
        if budget.update(state.global_step, state.max_steps) and not self.watch.config.save_steps:
            control.should_save = True
        if budget.ends:
            control.should_training_stop = control.should_save = True
        last = budget.ends or state.global_step >= state.max_steps
        if last:  # else the log would end before the run, at a multiple of its interval
            control.should_log = True
        if every and (state.global_step % every == 0 or last):
            control.should_evaluate = True

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        wait()  # under FSDP2 all write
        if state.is_world_process_zero:
            checkpoint = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            self.watch.budget.save(checkpoint)
            before = list(self.watch.before)
            batches = state.global_step * args.gradient_accumulation_steps - sum(count for _, count in before)
            write_json(checkpoint / PARTS, [*before, (args.world_size, batches)])
            (checkpoint / MARK).write_text("whole\n")
            best = best_of(state.log_history)
            drop_bests(self.watch.folder, best[0] if best else None)


def _set_rates(scheduler: Any) -> None:
    """Give every group of weights the rate that the schedule has now."""
    rates = [b * f(scheduler.last_epoch) for b, f in zip(scheduler.base_lrs, scheduler.lr_lambdas, strict=True)]
    scheduler._last_lr = rates
    for group, rate in zip(scheduler.optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
