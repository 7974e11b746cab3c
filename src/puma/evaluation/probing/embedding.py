"""Embedding a probe's items into its store: unreadable images are skipped, what is stored is not embedded again."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from puma.errors import ImageError
from puma.evaluation.probing.depths import depth_states
from puma.evaluation.probing.material import ProbeItem
from puma.evaluation.probing.store import StateStore, key_of
from puma.items.digest import image_digest
from puma.retriever.encoding import length_sorted_groups, prefetched, why_unusable
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
    model, device = retriever.model, next(retriever.model.parameters()).device
    faults: list[str] = []

    def prepare(rows: list[int]) -> dict[str, Any]:
        places = [todo[row] for row in rows]
        try:
            return {"places": places, "features": features(retriever, [items[place] for place in places])}
        except ImageError:
            bad = {place: reason for place in places if (reason := why_unusable(retriever.inputs, items[place].item))}
            if not bad:
                raise
            good = [place for place in places if place not in bad]
            rest = features(retriever, [items[place] for place in good]) if good else None
            return {"places": good, "features": rest, "bad": bad}

    model.eval()
    groups = length_sorted_groups([items[place].item for place in todo], batch_size)
    with (
        tqdm(
            total=len(unique), initial=len(unique) - len(todo), unit="item", desc="every depth", disable=not progress
        ) as bar,
        torch.inference_mode(),
        torch.autocast(device.type, dtype=torch.bfloat16, enabled=half),
    ):
        for rows, batch in prefetched(groups, prepare):
            faults += [f"{items[place].where}: {reason}" for place, reason in batch.get("bad", {}).items()]
            if batch["places"]:
                moved = {key: value.to(device) for key, value in batch["features"].items()}
                states = depth_states(model, moved, variants=variants)
                stacked = torch.stack([states[variant] for variant in variants])  # [variants, layers, n, dim]
                store.append([keys[place] for place in batch["places"]], stacked.permute(2, 0, 1, 3).cpu().numpy())
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
