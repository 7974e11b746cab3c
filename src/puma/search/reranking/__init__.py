"""A second stage: the first stage's best candidates scored again, by something dearer than one cosine.

``stages``: the :class:`Reranker` interface, and both stages together on run files. ``late_interaction``: one real
reranker, over the retriever's own token states. Not here: the first stage (:mod:`puma.retriever.model`,
:mod:`puma.evaluation.mbeir`), metrics, and what it brings (benchmarks).
"""

from puma.search.reranking.late_interaction import LateInteraction, maxsim
from puma.search.reranking.stages import DEPTH, Reranker, combined, rerank_run, second_stage

__all__ = ["DEPTH", "LateInteraction", "Reranker", "combined", "maxsim", "rerank_run", "second_stage"]
