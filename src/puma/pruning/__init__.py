"""Keeping the shallow decoder layers of a multimodal LLM, in memory and from folder to folder, and loading models."""

from puma.pruning.folders import RECORD, prune, prune_folder
from puma.pruning.hub import model_folder
from puma.pruning.layers import count_parameters, cut, cut_config, decoder_of, kept_layers
from puma.pruning.loading import load_model
from puma.pruning.processors import load_processor

__all__ = [
    "RECORD",
    "count_parameters",
    "cut",
    "cut_config",
    "decoder_of",
    "kept_layers",
    "load_model",
    "load_processor",
    "model_folder",
    "prune",
    "prune_folder",
]
