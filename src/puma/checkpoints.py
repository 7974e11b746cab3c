"""The trainer, and its checkpoints: only what is trained, whole or not counted.

A kill while a checkpoint is written leaves a folder without its mark; :func:`latest_checkpoint` passes it over.
"""

from __future__ import annotations

import functools
import os
import shutil
from pathlib import Path
from typing import Any

from puma.errors import ModelError
from puma.folders import storage_errors

MARK = "complete"
WEIGHTS = "trainable.safetensors"


def latest_checkpoint(folder: str | os.PathLike[str]) -> str | None:
    """The newest whole checkpoint of a run, or None; unfinished ones are removed."""
    found = []
    for path in Path(folder).glob("checkpoint-*"):
        if (path / MARK).is_file():
            found.append((int(path.name.rsplit("-", 1)[1]), path))
        else:
            shutil.rmtree(path, ignore_errors=True)
    return str(max(found)[1]) if found else None


@functools.cache
def make_trainer_class() -> type:
    """The trainer: sentence-transformers' own, with our checkpoints and the loss's progress. Made on demand, since its
    import is slow."""
    from safetensors.torch import load_file, save_file
    from sentence_transformers import SentenceTransformerTrainer
    from tqdm import tqdm
    from transformers import PrinterCallback, TrainerCallback

    class Bar(TrainerCallback):
        """One line with rate, time left and the loss."""

        bar: Any = None

        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.bar = tqdm(total=state.max_steps, initial=state.global_step, unit="step", desc="training")

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.bar.update(state.global_step - self.bar.n)

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            if logs and "loss" in logs:
                self.bar.set_postfix(loss=f"{float(logs['loss']):.3f}", refresh=False)

        def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.bar.close()

    class Progress(TrainerCallback):
        """Tells the loss how far training is, also after a resume; marks checkpoints that are whole."""

        def __init__(self, loss: Any) -> None:
            self.loss = loss

        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.loss.progress = min(1.0, state.global_step / max(1, state.max_steps))

        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.is_world_process_zero:
                (Path(args.output_dir) / f"checkpoint-{state.global_step}" / MARK).write_text("whole\n")

    class RetrieverTrainer(SentenceTransformerTrainer):
        """Saves and loads the trained tensors alone, under their own names; keeps the vision tower in eval mode."""

        def __init__(self, *args: Any, show_progress: bool = True, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.remove_callback(PrinterCallback)
            self.add_callback(Progress(self.loss))
            if show_progress:
                self.add_callback(Bar())

        def add_model_card_callback(self, default_args_dict: dict[str, Any]) -> None:
            """None: it would embed the training rows to fill a page that we do not write."""

        def compute_loss(self, model: Any, *args: Any, **kwargs: Any) -> Any:
            # The training step puts everything in train mode; a frozen tower's BatchNorm statistics would move.
            self.accelerator.unwrap_model(self.model)[0].model.get_encoder("image").eval()
            return super().compute_loss(model, *args, **kwargs)

        def _trained(self) -> dict[str, Any]:
            model = self.accelerator.unwrap_model(self.model)
            return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}

        def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
            folder = Path(output_dir or self.args.output_dir)
            with storage_errors(folder):
                folder.mkdir(parents=True, exist_ok=True)
                save_file(
                    {name: w.detach().contiguous().cpu() for name, w in self._trained().items()}, folder / WEIGHTS
                )

        def _load_from_checkpoint(self, checkpoint_path: str) -> None:
            import torch

            saved, trained = load_file(Path(checkpoint_path) / WEIGHTS), self._trained()
            if saved.keys() != trained.keys():
                raise ModelError(f"{checkpoint_path}: trains other weights than this run; give another folder")
            with torch.no_grad():
                for name, weight in trained.items():
                    weight.copy_(saved[name])

    return RetrieverTrainer
