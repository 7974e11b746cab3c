"""Items through the model into the store, past images that cannot be read; what is stored is not embedded again.

Here: the loop and the items' keys. Not here: what a batch's states are (depths), the files (store).
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from puma.evaluation.probing.depths import depth_states
from puma.evaluation.probing.material import Asked
from puma.evaluation.probing.store import StateStore, key_of
from puma.retriever.encoding import encode_batches
from puma.retriever.model import Retriever


def embed(
    retriever: Retriever,
    asked: Sequence[Asked],
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
            faults.append(f"{asked[todo[row]].where}: {reason}")
            bar.update(1)

        batches = encode_batches(
            retriever.model,
            retriever.inputs,
            [asked[place].item for place in todo],
            [asked[place].instruction for place in todo],
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


def features(retriever: Retriever, asked: Sequence[Asked]) -> Mapping[str, torch.Tensor]:
    """One batch of the model's inputs. Raises ImageError."""
    return retriever.inputs.features([one.item for one in asked], [one.instruction for one in asked])


def item_key(retriever: Retriever, asked: Asked) -> bytes:
    """The key of an item's states: what it says, and what its image holds, wherever that lies."""
    written = retriever.inputs.written([asked.item], asked.instruction)[0]
    if asked.item.image is None:
        return key_of(written, None)
    path = Path(os.fspath(asked.item.image))  # type: ignore[arg-type]  # a benchmark's images are files
    try:
        return key_of(written, hashlib.sha256(path.read_bytes()).digest())
    except OSError:  # told as unreadable when it is embedded
        return key_of(written, os.fsencode(path))
