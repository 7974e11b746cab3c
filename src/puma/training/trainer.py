"""The trainer, and its checkpoints: only what is trained, whole or not counted, written by the first process alone.

A kill while a checkpoint is written leaves a folder without its mark; :func:`latest_checkpoint` passes it over. What is
decided by evaluations (best weights, early stopping) is read off the log that a checkpoint carries, so that a run that
was killed decides as one that was not.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from puma.errors import InputError, ModelError
from puma.pruning import decoder_of
from puma.storage.folders import storage_errors
from puma.training.budget import UNBOUNDED, Budget
from puma.training.config import TrainConfig
from puma.training.distributed import average_gradients, broadcast, processes, wait
from puma.training.run_folder import WEIGHTS, Journal, drop_bests, save_best
from puma.training.validation import best_of, stalled
from puma.training.workers import batch_loader, onto

MARK = "complete"
UNBOUNDED_LOG = 25
"""Steps between log entries of a run that only its minutes end."""
REPLACED = "chunk0_puma_replaced"
"""The batch's key for rows whose image could not be used, int64 [m, 2]."""


@dataclass(frozen=True)
class Watch:
    """What a trainer does beside training.

    Args:
        folder: the run's.
        config: the stage.
        evaluate: the figures of the weights as they are now, called on the first process alone.
        unreadable: called with the rows, int64 [m, 2], of this process's batch whose image could not be used.
        budget: the run's clock.
    """

    folder: Path
    config: TrainConfig
    evaluate: Callable[[], dict[str, float]] | None = None
    unreadable: Callable[[Any], Any] | None = None
    budget: Budget = field(default_factory=lambda: Budget(TrainConfig()))


def latest_checkpoint(folder: str | os.PathLike[str], *, clean: bool = True) -> str | None:
    """The newest whole checkpoint of a run, or None; unfinished ones are removed, unless ``clean`` is false."""
    found = []
    for path in Path(folder).glob("checkpoint-*"):
        if (path / MARK).is_file():
            found.append((int(path.name.rsplit("-", 1)[1]), path))
        elif clean:
            shutil.rmtree(path, ignore_errors=True)
    return str(max(found)[1]) if found else None


class Rows:
    """The data set as the trainer sees it: ``(epoch, row)``, which :class:`puma.training.sampling.Run` draws, becomes the
    dict that the collator reads."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, drawn: tuple[int, int]) -> dict[str, int]:
        return {"epoch": drawn[0], "row": drawn[1]}


REPORT_PACKAGES = {"tensorboard": ("tensorboard", "tensorboardX"), "wandb": ("wandb",), "trackio": ("trackio",)}
"""Packages that transformers reports with, one of which must be there."""


def check_report(report_to: str) -> None:
    """Raise InputError if the package that a log is reported with is not installed."""
    packages = REPORT_PACKAGES.get(report_to, ())
    if packages and not any(find_spec(name) for name in packages):
        raise InputError(f"report_to={report_to!r}: {packages[0]} is not installed; pip install {packages[0]}")


def trainer_arguments(folder: Path, config: TrainConfig, steps: int, workers: int = 0, tower: str = "") -> Any:
    """A stage's settings in the trainer's own words. ``tower`` is the name of the model's vision tower."""
    import torch
    from sentence_transformers import SentenceTransformerTrainingArguments

    rates = {r".*multi_modal_projector.*": config.projector_rate} if config.projector_rate else {}
    if config.tower_rate:
        rates[rf"\.{re.escape(tower)}\."] = config.tower_rate
    cosine = config.schedule == "cosine"
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=config.batch_size,
        gradient_accumulation_steps=config.accumulate,
        learning_rate=config.learning_rate,
        lr_scheduler_type="cosine_with_min_lr" if cosine else "linear",
        lr_scheduler_kwargs={"min_lr_rate": config.final_rate} if cosine else {},
        warmup_steps=max(1, round(config.warmup * steps)),
        weight_decay=config.weight_decay,
        adam_beta2=config.beta2,
        max_grad_norm=config.clip,
        learning_rate_mapping=rates,
        bf16=config.precision == "bf16",
        use_cpu=not torch.cuda.is_available(),
        save_strategy="steps",
        save_steps=config.save_steps or max(1, steps // 8),
        save_total_limit=2,
        logging_steps=UNBOUNDED_LOG if steps >= UNBOUNDED else max(1, steps // 100),
        report_to=config.report_to,
        disable_tqdm=True,
        seed=config.seed,
        data_seed=config.seed,
        dataloader_drop_last=True,  # all our batches are whole; this spares a warning on several processes
        dataloader_num_workers=workers,
        dataloader_pin_memory=torch.cuda.is_available(),
        remove_unused_columns=False,
    )
    # With several GPUs and no launcher the trainer would wrap the model in DataParallel, which cuts chunks by rows.
    arguments._n_gpu = min(1, arguments.n_gpu)
    return arguments


@functools.cache
def make_trainer_class() -> type:
    """The trainer: sentence-transformers' own, with our checkpoints and the loss's progress. Made on demand, since its
    import is slow."""
    import torch
    from safetensors.torch import load_file, save_file
    from sentence_transformers import SentenceTransformerTrainer
    from torch import distributed
    from torch.distributed.tensor import DTensor, distribute_tensor
    from tqdm import tqdm
    from transformers import PrinterCallback, TrainerCallback

    class Bar(TrainerCallback):
        """One line with rate, time left and the loss."""

        bar: Any = None

        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            total = None if state.max_steps >= UNBOUNDED else state.max_steps
            self.bar = tqdm(total=total, initial=state.global_step, unit="step", desc="training")

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.bar.update(state.global_step - self.bar.n)

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            if logs and "loss" in logs:
                self.bar.set_postfix(loss=f"{float(logs['loss']):.3f}", refresh=False)

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
            scheduler = kwargs["lr_scheduler"]
            rates = [b * f(scheduler.last_epoch) for b, f in zip(scheduler.base_lrs, scheduler.lr_lambdas, strict=True)]
            scheduler._last_lr = rates
            for group, rate in zip(scheduler.optimizer.param_groups, rates, strict=True):
                group["lr"] = rate
            rank, _world = processes()
            if rank == 0:
                self.journal.begin(state.log_history)
            if rank:  # other dropout masks than the first process's; a resume puts its own back after this
                torch.manual_seed(args.seed + 7919 * rank)

        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.loss.progress = self.watch.budget.progress

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            budget, every = self.watch.budget, self.watch.config.eval_every
            if budget.update(state.global_step, state.max_steps) and not self.watch.config.save_steps:
                control.should_save = True
            if budget.ends:
                control.should_training_stop = control.should_save = True
            last = budget.ends or state.global_step >= state.max_steps
            if every and (state.global_step % every == 0 or last):
                control.should_evaluate = True

        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            wait()  # under FSDP2 all write
            if state.is_world_process_zero:
                checkpoint = Path(args.output_dir) / f"checkpoint-{state.global_step}"
                self.watch.budget.save(checkpoint)
                (checkpoint / MARK).write_text("whole\n")
                best = best_of(state.log_history)
                drop_bests(self.watch.folder, best[0] if best else None)

    class RetrieverTrainer(SentenceTransformerTrainer):
        """Takes its batches from a :class:`~puma.training.sampling.Run`, averages gradients over processes, saves and loads
        the trained tensors alone, under their own names; keeps the vision tower in eval mode."""

        control: Any
        lr_scheduler: Any

        def __init__(
            self,
            *args: Any,
            batches: Any,
            watch: Watch,
            show_progress: bool = True,
            **kwargs: Any,
        ) -> None:
            super().__init__(*args, **kwargs)
            self.batches, self.watch = batches, watch
            self._shares: dict[str, list[Any]] = {}
            self.replicated = self.accelerator.distributed_type.name.startswith("MULTI_")
            if self.replicated:
                # Mixed precision and placement only, no DistributedDataParallel: see puma.training.distributed.
                self.accelerator.prepare_model = functools.partial(self.accelerator.prepare_model, evaluation_mode=True)
            elif self.is_fsdp_enabled:
                # Decoder layers alone are units of their own: all processes pass through them. The default names the
                # vision tower's too, where a process without images would leave the others waiting.
                layer = type(decoder_of(self.model[0].model).layers[0]).__name__
                self.accelerator.state.fsdp_plugin.transformer_cls_names_to_wrap = [layer]
            self.remove_callback(PrinterCallback)
            self.progress = Progress(self.loss, watch)
            self.add_callback(self.progress)
            if show_progress and self.is_world_process_zero():
                self.add_callback(Bar())

        def add_model_card_callback(self, default_args_dict: dict[str, Any]) -> None:
            """None: it would embed the training rows to fill a page that we do not write."""

        def preprocess_dataset(self, dataset: Any = None, dataset_name: str | None = None) -> Any:
            """Rows are numbers; there are no columns to look after."""
            return dataset

        def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
            """By time spent where the run has minutes, else transformers' own."""
            if not self.watch.config.minutes:
                return super().create_scheduler(num_training_steps, optimizer)
            if self.lr_scheduler is None:
                budget = self.watch.budget
                optimizer = self.optimizer if optimizer is None else optimizer
                self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _step: budget.rate())
            return self.lr_scheduler

        def get_train_dataloader(self) -> Any:
            """A plain loader: the batches are this process's own already, and accelerate would deal them out again."""
            workers = self.args.dataloader_num_workers
            pin = self.args.dataloader_pin_memory
            return batch_loader(self.train_dataset, self.batches, self.data_collator, workers, pin=pin)

        def _prepare_input(self, data: Any) -> Any:
            return onto(data, self.args.device)

        def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
            replaced = inputs.pop(REPLACED, None)
            if replaced is not None and len(replaced) and self.watch.unreadable is not None:
                self.watch.unreadable(replaced)
            # The training step puts everything in train mode; a frozen tower's BatchNorm statistics would move.
            self.accelerator.unwrap_model(self.model)[0].model.get_encoder("image").eval()
            loss = super().compute_loss(model, inputs, *args, **kwargs)
            for name, value in (getattr(self.loss, "last_shares", None) or {}).items():
                self._shares.setdefault(name, []).append(value)
            return loss

        def training_step(self, *args: Any, **kwargs: Any) -> Any:
            loss = super().training_step(*args, **kwargs)
            if self.replicated and self.accelerator.sync_gradients:  # once a step, however many batches it has
                average_gradients(list(self._trained().values()))
            return loss

        def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
            """The figures of the weights as they are, made by the first process while the others wait. Keeps the
            weights if they are the best so far, and ends training where ``patience`` is out."""
            config, evaluate = self.watch.config, self.watch.evaluate
            figures: dict[str, float] = {}
            if evaluate is not None and self.is_world_process_zero():
                self.model.eval()
                on_gpu = [self.args.device] if self.args.device.type == "cuda" else []
                with torch.random.fork_rng(devices=on_gpu):
                    figures = evaluate()
            figures = broadcast(figures)
            self.log(dict(figures))
            self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, figures)
            best = best_of(self.state.log_history)
            if config.keep_best and best and best[0] == self.state.global_step:
                weights = self.whole_weights()
                if self.is_world_process_zero():
                    save_best(self.watch.folder, self.state.global_step, weights)
            if config.patience and stalled(self.state.log_history) >= config.patience:
                self.control.should_training_stop = self.control.should_save = True
            return figures

        def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
            """Adds the first process's shares of both groups of negatives, means since the last entry, and the passes
            over the data, of which the trainer itself knows nothing."""
            if "loss" in logs:
                shares = {f"share_{name}": float(sum(v) / len(v)) for name, v in self._shares.items() if v}
                logs = {**logs, **shares}
                self._shares = {}
            super().log(logs, *args, **kwargs)
            done = self.state.global_step * self.args.gradient_accumulation_steps
            self.state.log_history[-1]["epoch"] = done / max(1, len(self.batches.batches))
            if self.is_world_process_zero():
                self.progress.journal.add(self.state.log_history[-1])

        def put_back(self, weights: Mapping[str, Any], where: str) -> None:
            """Set the trained tensors to these."""
            put_weights(self._trained(), weights, where)

        def _trained(self) -> dict[str, Any]:
            model = self.accelerator.unwrap_model(self.model)
            return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}

        def whole_weights(self) -> dict[str, Any]:
            """The trained tensors on the CPU, put together where FSDP2 cut them up. All processes must ask."""
            parts = {name: weight.detach() for name, weight in self._trained().items()}
            whole = {name: part.full_tensor() if isinstance(part, DTensor) else part for name, part in parts.items()}
            return {name: weight.contiguous().cpu() for name, weight in whole.items()}

        def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
            self._save(output_dir)

        def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
            weights = self.whole_weights()
            if not self.args.should_save:
                return
            folder = Path(output_dir or self.args.output_dir)
            with storage_errors(folder):
                folder.mkdir(parents=True, exist_ok=True)
                save_file(weights, folder / WEIGHTS)

        def _save_rng_state(self, output_dir: str) -> None:
            """All processes' random states, written by the first, before the checkpoint is marked whole."""
            if self.args.world_size <= 1:
                super()._save_rng_state(output_dir)
                return
            import random

            import numpy as np

            mine = {"python": random.getstate(), "numpy": np.random.get_state(), "cpu": torch.random.get_rng_state()}
            if torch.cuda.is_available():
                mine["cuda"] = torch.cuda.random.get_rng_state_all()
            states: list[Any] = [None] * self.args.world_size
            distributed.all_gather_object(states, mine)
            if self.args.should_save:
                with storage_errors(output_dir):
                    for rank, state in enumerate(states):
                        torch.save(state, Path(output_dir) / f"rng_state_{rank}.pth")

        def _load_from_checkpoint(self, checkpoint_path: str, model: Any = None) -> None:
            put_weights(self._trained(), load_file(Path(checkpoint_path) / WEIGHTS), checkpoint_path)

    def put_weights(trained: Mapping[str, Any], saved: Mapping[str, Any], where: str) -> None:
        if saved.keys() != trained.keys():
            raise ModelError(f"{where}: trains other weights than this run; give another folder")
        with torch.no_grad():
            for name, weight in trained.items():
                value = saved[name].to(weight.device)
                if isinstance(weight, DTensor):
                    value = distribute_tensor(value, weight.device_mesh, weight.placements)
                weight.copy_(value)

    return RetrieverTrainer
