"""A second stage: the first stage's best candidates scored again, by something that costs more than one cosine."""

from puma.search.reranking.late_interaction import LateInteraction, maxsim
from puma.search.reranking.stages import DEPTH, Reranker, combined, rerank_run, second_stage

__all__ = ["DEPTH", "LateInteraction", "Reranker", "combined", "maxsim", "rerank_run", "second_stage"]
