"""The losses: pure functions, and one object over them for the trainer (:mod:`puma.training.objective`)."""

from puma.losses.baselines import (
    LOSS_FUNCTIONS,
    facility_location_loss,
    graph_cut_loss,
    infonce_loss,
    siglip_loss,
)
from puma.losses.comparison import cosine_scores
from puma.losses.distillation import distillation_loss
from puma.losses.mac import hard_temperature, mac_loss, negative_shares, temperature_matrix
from puma.losses.matryoshka import mean_over_widths, nested_comparisons
from puma.losses.negatives import false_negatives
from puma.losses.split_mac import split_losses, split_mac_loss

LOSSES = tuple(LOSS_FUNCTIONS)
"""The contrastive losses' names."""

__all__ = [
    "LOSSES",
    "LOSS_FUNCTIONS",
    "cosine_scores",
    "distillation_loss",
    "facility_location_loss",
    "false_negatives",
    "graph_cut_loss",
    "hard_temperature",
    "infonce_loss",
    "mac_loss",
    "mean_over_widths",
    "negative_shares",
    "nested_comparisons",
    "siglip_loss",
    "split_losses",
    "split_mac_loss",
    "temperature_matrix",
]
