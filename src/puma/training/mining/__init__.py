"""Hard negatives: candidates that a model puts high and that are not right, written into a benchmark's training files.

``choosing``: which candidates, by scores and guards, a pure function. ``scoring``: the scores. ``writing``: a benchmark
written anew with them, in the folders of ``roots``. Loads no torch.
"""

from puma.training.mining.choosing import Rules, choose, choose_above
from puma.training.mining.writing import mine

__all__ = ["Rules", "choose", "choose_above", "mine"]
