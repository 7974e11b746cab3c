"""The losses: pure functions, and one object over them for the trainer (:mod:`puma.losses.objective`)."""

from puma.losses.distillation import distillation_loss
from puma.losses.mac import cosine_scores, hard_temperature, mac_loss, temperature_matrix

__all__ = ["cosine_scores", "distillation_loss", "hard_temperature", "mac_loss", "temperature_matrix"]
