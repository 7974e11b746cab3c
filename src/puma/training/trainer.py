"""The trainer: sentence-transformers' own, with our batches, gradients averaged over processes, and checkpoints of the
trained tensors alone.

A checkpoint is written by the first process and counts only with its mark (:data:`puma.training.run_folder.MARK`): a
kill while it is written leaves a folder without one. What is decided by evaluations (best weights, early stopping) is
read off the log that a checkpoint carries, so that a run that was killed decides as one that was not. Import this
module when a training begins: sentence-transformers is slow to import.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformerTrainer
from torch import distributed
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import PrinterCallback

from puma.errors import ModelError
from puma.losses.batch_keys import REPLACED, chunk_key
from puma.pruning import decoder_of
from puma.storage.folders import storage_errors
from puma.training.callbacks import Bar, Progress, Watch
from puma.training.distributed import average_gradients, broadcast
from puma.training.run_folder import WEIGHTS, save_best
from puma.training.sharding import TiedProjector
from puma.training.validation import best_of, stalled
from puma.training.workers import batch_loader, onto


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
        self._figures: dict[str, list[Any]] = {}
        self.tie: TiedProjector | None = None
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

    def create_optimizer(self, *args: Any, **kwargs: Any) -> Any:
        """transformers' own. Under FSDP2 without groups that hold no weight, such as that of a projector's weights with
        decay 0: torch keeps a sharded optimiser's state by weights, and such a group comes back without its
        settings."""
        optimizer = super().create_optimizer(*args, **kwargs)
        if self.is_fsdp_enabled:
            optimizer.param_groups[:] = [group for group in optimizer.param_groups if group["params"]]
        return optimizer

    def get_train_dataloader(self) -> Any:
        """A plain loader: the batches are this process's own already, and accelerate would deal them out again."""
        workers = self.args.dataloader_num_workers
        pin = self.args.dataloader_pin_memory
        return batch_loader(self.train_dataset, self.batches, self.data_collator, workers, pin=pin)

    def _prepare_input(self, data: Any) -> Any:
        return onto(data, self.args.device)

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        replaced = inputs.pop(chunk_key(0, REPLACED), None)
        if replaced is not None and len(replaced) and self.watch.unreadable is not None:
            self.watch.unreadable(replaced)
        # The training step puts everything in train mode; a frozen tower's BatchNorm statistics would move.
        self.accelerator.unwrap_model(self.model)[0].model.get_encoder("image").eval()
        loss = super().compute_loss(model, inputs, *args, **kwargs)
        for name, value in (getattr(self.loss, "last_figures", None) or {}).items():
            self._figures.setdefault(name, []).append(value)
        return loss

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        loss = super().training_step(*args, **kwargs)
        if self.replicated and self.accelerator.sync_gradients:  # once a step, however many batches it has
            average_gradients(list(self._trained().values()))
        if self.tie is not None and self.accelerator.sync_gradients:
            self.tie.forget_unseen()
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
        """Adds the first process's figures of both groups of negatives (``last_figures`` of
        :class:`puma.training.objective.RetrievalObjective`), means since the last entry, and the passes over the data,
        of which the trainer itself knows nothing."""
        if "loss" in logs:
            logs = {**logs, **{name: float(sum(v) / len(v)) for name, v in self._figures.items() if v}}
            self._figures = {}
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
