"""The keys under which a step's batch carries what the losses must know beside the model's input tensors.

A batch is cut into chunks (:func:`chunk_key`). All but :data:`PART_KEYS` ride in the first chunk and describe the whole
batch of q queries and c candidates. :class:`puma.training.collating.PairCollator` writes them.
"""

from __future__ import annotations

PREFIX = "puma_"

ROWS = PREFIX + "rows"
"""int64 [n]: which items of the batch these are."""
WITH_IMAGE = PREFIX + "with_image"
"""bool [n]: which of these have an image."""
PART_KEYS = (ROWS, WITH_IMAGE)
"""In every chunk, about its own items."""

TARGET_MODALITY = PREFIX + "target_modality"
"""int64 [q]: the modality of each query's positive, or :data:`ANY`."""
ANY = -1
"""The modality code of a query that asks for no modality: candidates of every modality count as of its own."""
CANDIDATE_MODALITY = PREFIX + "candidate_modality"
"""int64 [c]."""
CANDIDATE_KEY = PREFIX + "candidate_key"
"""int64 [c]: the candidates' ids as numbers."""
CONTENT_KEY = PREFIX + "content_key"
"""int64 [c]: the candidates' contents as numbers."""
KNOWN = PREFIX + "known"
"""int64 [q, m]: keys of each query's known positives, padded with -1."""
TEACHER = PREFIX + "teacher"
"""[q + c, dim]: the targets of distillation."""
TAUGHT = PREFIX + "taught"
"""bool [q + c]: which items have a target."""
REPLACED = PREFIX + "replaced"
"""int64 [m, 2]: a (row, what) for each image that could not be used."""


def chunk_key(number: int, key: str) -> str:
    """The key of a chunk's tensor in the batch, as sentence-transformers' trainer takes it apart."""
    return f"chunk{number}_{key}"


def of_the_batch(key: str) -> bool:
    """Whether what is under this key describes the whole batch."""
    return key.startswith(PREFIX) and key not in PART_KEYS
