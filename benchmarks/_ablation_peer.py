"""The peer: sentence-transformers' own way to train the pruned model on pairs, on the same rows and steps.

Its loss with its defaults (``MultipleNegativesRankingLoss``: scale 20, the queries' view only, no false negatives
masked), its trainer, its collator with its own chat messages and padding, its ``no_duplicates`` batches, its image
path (each step opens the images and runs the tower). The same as ours, so that the comparison is of these and not of
the optimiser: the rows, the weights that learn, AdamW's settings and the schedule.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

import torch

from puma.items import Item
from puma.pruning import decoder_of
from puma.retriever.model import Retriever
from puma.retriever.sentence_transformers import sentence_transformer
from puma.training.config import TrainConfig
from puma.training.pairs import Pair
from puma.training.planned import batches_of

ADAPTIVE_NOTE = (
    "As it is, AdaptiveLayerLoss stops on this multimodal model with `KeyError: 'all_layer_embeddings'`: it asks for "
    "hidden states in the outer configuration, and the language model reads its own. Setting "
    "`config.text_config.output_hidden_states = True` by hand, as done here, lets it run."
)


def train_by_peer(
    retriever: Retriever,
    pairs: Sequence[Pair],
    config: TrainConfig,
    *,
    adaptive: bool = False,
    watch: tuple[int, Callable[[], dict[str, float]]] | None = None,
) -> list[dict[str, float]]:
    """Train in place.

    Args:
        pairs: the rows; those that our own batches would take with this configuration are used, and mixed anew.
        config: steps, rates, schedule, optimiser, batch size, precision and seed; its loss is not used.
        adaptive: wrap the loss in ``AdaptiveLayerLoss`` with its defaults.
        watch: (steps, figures): what is logged every so many steps, and after the last one, of the weights as they are.

    Returns:
        The trainer's log.
    """
    from datasets import Dataset, disable_progress_bars
    from sentence_transformers import SentenceTransformerTrainingArguments
    from sentence_transformers.sentence_transformer.data_collator import SentenceTransformerDataCollator
    from sentence_transformers.sentence_transformer.losses import AdaptiveLayerLoss, MultipleNegativesRankingLoss

    disable_progress_bars()
    torch.manual_seed(config.seed)
    model = retriever.model.float().train()
    st = sentence_transformer(retriever)
    model.requires_grad_(False)
    for part in (decoder_of(model).layers, decoder_of(model).norm, model.multi_modal_projector):
        part.requires_grad_(True)
    rows = list(itertools.chain.from_iterable(itertools.islice(batches_of(pairs, config), config.steps)))
    # Keys stand for the messages, so that no_duplicates compares ids and does not open images.
    asked = {f"query {pairs[row].query_id}": (pairs[row].query, pairs[row].instruction) for row in rows}
    found: dict[str, tuple[Item, str | None]] = {pairs[row].candidate_id: (pairs[row].candidate, None) for row in rows}
    known = {**asked, **found}

    def preprocess(keys: list[str], **options: Any) -> dict[str, Any]:
        return st.preprocess([_message(*known[key]) for key in keys], **options)

    loss: Any = MultipleNegativesRankingLoss(st)
    if adaptive:
        loss = AdaptiveLayerLoss(st, loss)
        model.config.text_config.output_hidden_states = True
    data = {
        "anchor": [f"query {pairs[row].query_id}" for row in rows],
        "positive": [pairs[row].candidate_id for row in rows],
    }
    with tempfile.TemporaryDirectory() as folder:
        arguments = SentenceTransformerTrainingArguments(
            output_dir=folder,
            max_steps=config.steps,
            per_device_train_batch_size=config.batch_size,
            learning_rate=config.learning_rate,
            learning_rate_mapping={r".*multi_modal_projector.*": config.projector_rate},
            lr_scheduler_type="cosine_with_min_lr",
            lr_scheduler_kwargs={"min_lr_rate": config.final_rate},
            warmup_steps=max(1, round(config.warmup * config.steps)),
            weight_decay=config.weight_decay,
            adam_beta2=config.beta2,
            max_grad_norm=config.clip,
            bf16=config.precision == "bf16",
            use_cpu=not torch.cuda.is_available(),
            batch_sampler="no_duplicates",
            save_strategy="no",
            logging_steps=max(1, config.steps // 20),
            report_to="none",
            disable_tqdm=True,
            seed=config.seed,
            data_seed=config.seed,
            dataloader_pin_memory=torch.cuda.is_available(),
        )
        trainer = _trainer_class()(
            model=st,
            args=arguments,
            train_dataset=Dataset.from_dict(data),
            loss=loss,
            data_collator=SentenceTransformerDataCollator(preprocess_fn=preprocess),
        )
        if watch is not None:
            trainer.add_callback(_watching(trainer, *watch))
        trainer.train()
    if adaptive:
        model.config.text_config.output_hidden_states = False
    model.requires_grad_(False).eval()
    shown = [entry for entry in trainer.state.log_history if "loss" in entry or "eval_wrong_mean" in entry]
    return [{k: float(v) for k, v in entry.items()} for entry in shown]


def _watching(trainer: Any, every: int, figures: Callable[[], dict[str, float]]) -> Any:
    from transformers import TrainerCallback

    class Watching(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step % every and state.global_step < state.max_steps:
                return
            trainer.model.eval()
            with torch.random.fork_rng(devices=[]):
                found = figures()
            trainer.model.train()
            trainer.log(found)

    return Watching()


def _trainer_class() -> type:
    from sentence_transformers import SentenceTransformerTrainer
    from transformers import PrinterCallback

    class Peer(SentenceTransformerTrainer):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.remove_callback(PrinterCallback)

        def add_model_card_callback(self, default_args_dict: dict[str, Any]) -> None:
            """None: it would embed training rows to fill a page."""

        def compute_loss(self, model: Any, *args: Any, **kwargs: Any) -> Any:
            # In train mode the frozen tower's BatchNorm statistics would move: that would be no fair peer.
            self.accelerator.unwrap_model(self.model)[0].model.get_encoder("image").eval()
            return super().compute_loss(model, *args, **kwargs)

    return Peer


def _message(item: Item, instruction: str | None) -> list[dict[str, Any]]:
    """An item as chat messages, as a user of sentence-transformers would write it: the instruction is the system's."""
    content: list[dict[str, Any]] = []
    if item.image is not None:
        content.append({"type": "image", "image": item.open_image()})
    if item.text:
        content.append({"type": "text", "text": item.text})
    asked = [{"role": "system", "content": [{"type": "text", "text": instruction}]}] if instruction else []
    return [*asked, {"role": "user", "content": content}]
