"""Retrieval quality by depth, before any training: where to cut a base.

===============================================  =========================================================
:mod:`puma.evaluation.probing.run`               the whole probe: draw, embed, score, suggest, write
:mod:`puma.evaluation.probing.depths`            states of all depths from one forward pass; FLOPs of each
:mod:`puma.evaluation.probing.material`          queries, pools and train pairs drawn from M-BEIR's layout
:mod:`puma.evaluation.probing.embedding`         items through the model into the store
:mod:`puma.evaluation.probing.store`             states on disk, whole after a kill
:mod:`puma.evaluation.probing.scoring`           zero-shot and ridge-probed scores
:mod:`puma.evaluation.probing.choice`            the suggestion
:mod:`puma.evaluation.probing.report`, ``plot``  the table and the plot
===============================================  =========================================================

A probe ranks depths by what they hold at ``[RET]`` before training; training moves the shallow ones up most, so read
the suggestion as where to start, not as what a trained model will reach.
"""

from puma.evaluation.probing.choice import Point, Suggestion, suggest
from puma.evaluation.probing.depths import VARIANTS, depth_flops, depth_states
from puma.evaluation.probing.material import gather
from puma.evaluation.probing.run import probe

__all__ = ["VARIANTS", "Point", "Suggestion", "depth_flops", "depth_states", "gather", "probe", "suggest"]
