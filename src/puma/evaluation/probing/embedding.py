"""Embedding a probe's items into its store: unreadable images are skipped, what is stored is not embedded again."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from puma.errors import ImageError
from puma.evaluation.probing.depths import depth_states
from puma.evaluation.probing.material import ProbeItem
from puma.evaluation.probing.store import StateStore, key_of
from puma.items.digest import image_digest
from puma.retriever.encoding.loop import encode_batches
from puma.retriever.model import Retriever


def embed(
    retriever: Retriever,
    items: Sequence[ProbeItem],
    keys: Sequence[bytes],
    store: StateStore,
    variants: Sequence[str],
    batch_size: int,
    half: bool,
    progress: bool,
) -> list[str]:
    """Add the states of all items that are not in the store yet; returns those that cannot be read, with the reason."""
    from tqdm import tqdm

    unique = {key: place for place, key in enumerate(keys)}
    todo = [place for key, place in unique.items() if key not in store]
    faults: list[str] = []
    retriever.model.eval()
    with tqdm(
        total=len(unique), initial=len(unique) - len(todo), unit="item", desc="every depth", disable=not progress
    ) as bar:

        def leave_out(row: int, reason: str) -> None:
            faults.append(f"{items[todo[row]].where}: {reason}")
            bar.update(1)

        batches = encode_batches(
            retriever.model,
            retriever.inputs,
            [items[place].item for place in todo],
            [items[place].instruction for place in todo],
            batch_size=batch_size,
            forward=functools.partial(depth_states, variants=variants),
            autocast=torch.bfloat16 if half else None,
            on_unreadable=leave_out,
        )
        for rows, _, states in batches:
            stacked = torch.stack([states[variant] for variant in variants])  # [variants, layers, n, dim]
            store.append([keys[todo[row]] for row in rows], stacked.permute(2, 0, 1, 3).cpu().numpy())
            bar.update(len(rows))
    return faults


def features(retriever: Retriever, items: Sequence[ProbeItem]) -> Mapping[str, torch.Tensor]:
    """One batch of the model's inputs. Raises ImageError."""
    return retriever.inputs.features([one.item for one in items], [one.instruction for one in items])


def item_key(retriever: Retriever, row: ProbeItem) -> bytes:
    """The key of an item's states: what it says, and what its image holds, wherever that lies."""
    written = retriever.inputs.written([row.item], row.instruction)[0]
    if row.item.image is None:
        return key_of(written, None)
    path = Path(os.fspath(row.item.image))  # type: ignore[arg-type]  # a benchmark's images are files
    try:
        return key_of(written, image_digest(path))
    except ImageError:  # listed as unreadable when it is embedded
        return key_of(written, os.fsencode(path))
