"""Embedding many items through any encoder: in batches, with progress, past pictures that cannot be read.

Here: :func:`embed_readable` and its record of what was skipped. Not here: how a model embeds a batch
(``puma.encoding``). Nothing in this module loads torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from tqdm import tqdm

from puma.errors import ImageError
from puma.items import Encoder, Item

BATCH = 256
"""Items handed to the encoder at once; it cuts them into batches of its own."""


@dataclass(frozen=True)
class Skip:
    """Something that was left out, and why.

    Args:
        where: names a file, a line or an id.
        reason: why.
        source: the file or folder that could not be read in full now, where what was read of it before is to be kept;
            None where nothing is.
        id, image: of the entry in that source that this is about, as far as they are known.
    """

    where: str
    reason: str
    source: str | None = field(default=None, compare=False)
    id: str | None = field(default=None, compare=False)
    image: str | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        for name in ("where", "reason"):  # a file's name may hold what no terminal and no JSON can
            object.__setattr__(self, name, getattr(self, name).encode("utf-8", "backslashreplace").decode())

    def __str__(self) -> str:
        return f"{self.where}: {self.reason}"


def embed_readable(
    encoder: Encoder,
    items: Sequence[Item],
    *,
    instruction: str | None = None,
    batch_size: int = BATCH,
    progress: str | None = None,
) -> tuple[np.ndarray, np.ndarray, list[tuple[int, str]]]:
    """Embed all items whose pictures can be read.

    Args:
        instruction: goes before every item.
        progress: a label for the progress bar on stderr; None for no bar.

    Returns:
        ``vectors`` float32 [n, dim], zero where an item could not be read; ``readable`` bool [n]; and
        ``(position, reason)`` of each that could not.
    """
    vectors = np.zeros((len(items), encoder.dim), dtype=np.float32)
    readable = np.ones(len(items), dtype=bool)
    faults: list[tuple[int, str]] = []
    with tqdm(total=len(items), desc=progress, unit="item", disable=progress is None, smoothing=0.1) as bar:
        for start in range(0, len(items), batch_size):
            places = list(range(start, min(start + batch_size, len(items))))
            try:
                vectors[places] = encoder.encode([items[place] for place in places], instruction=instruction)
            except ImageError as error:
                bad = _unreadable(items, places)
                if not bad:  # the encoder refuses what we can open: its message is all there is
                    raise error
                faults += bad
                readable[[place for place, _ in bad]] = False
                good = [place for place in places if readable[place]]
                if good:
                    vectors[good] = encoder.encode([items[place] for place in good], instruction=instruction)
            bar.update(len(places))
    return vectors, readable, faults


def _unreadable(items: Sequence[Item], places: Sequence[int]) -> list[tuple[int, str]]:
    faults = []
    for place in places:
        try:
            items[place].open_image()
        except ImageError as error:
            faults.append((place, str(error)))
    return faults
