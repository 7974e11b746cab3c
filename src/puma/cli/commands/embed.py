"""``puma embed``: vectors of files, for use elsewhere."""

from __future__ import annotations

import contextlib
import io
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from puma.cli.commands._dimensions import Dimensions
from puma.cli.commands._engine import Address, Engine, EngineName, Workers
from puma.cli.commands._image_cache import CacheFolder, CacheSize, image_cache_of
from puma.cli.commands._shared import (
    Attention,
    Dtype,
    ForeignModel,
    ForeignPrompt,
    Json,
    Layers,
    Model,
    NoResume,
    Paths,
    WorkFolder,
    note,
    print_json,
    print_skips,
)


def register(app: typer.Typer) -> None:
    app.command("embed")(embed)


def embed(
    paths: Paths,
    out: Annotated[Path, typer.Option("--out", "-o", help="The .npz file to write.")],
    instruction: Annotated[str | None, typer.Option(help="Put before every item; for queries.")] = None,
    model: Model = None,
    st: ForeignModel = None,
    st_prompt: ForeignPrompt = None,
    dtype: Dtype = "auto",
    attn: Attention = None,
    layers: Layers = None,
    dimensions: Dimensions = None,
    image_cache: CacheFolder = None,
    image_cache_size: CacheSize = None,
    work: WorkFolder = None,
    no_resume: NoResume = False,
    engine: EngineName = "local",
    address: Address = None,
    workers: Workers = None,
    as_json: Json = False,
) -> None:
    """Embed items and write an .npz file with ids, modalities and vectors (float32 [n, dim], rows of unit length).

    Interrupted, the same command goes on where it was; under torchrun several processes share the embedding, with
    --engine ray the workers of a Ray cluster.

    Example: puma embed ~/Images captions.txt --out vectors.npz
    """
    import numpy as np

    from puma.errors import InputError
    from puma.evaluation.processes import is_first
    from puma.evaluation.stored.resumable import Resumable, Wanted, Work, made_with, opened_store, part_size
    from puma.items.encoder import Skip
    from puma.search.ingest import Record, read_items
    from puma.storage.folders import write_whole

    if out.suffix != ".npz":
        raise InputError(f"--out {out}: the file's name must end in .npz")
    place = Engine(engine, address, workers)
    if st_prompt is not None and instruction is not None:
        raise InputError("give one of --instruction and --st-prompt, got both")
    found = list(read_items(paths))
    skips = [entry for entry in found if isinstance(entry, Skip)]
    records = [entry for entry in found if isinstance(entry, Record)]
    items = [record.item for record in records]
    instruction = st_prompt or instruction
    beside = out.parent / f".{out.name}.work"
    options: dict[str, Any] = {"dtype": dtype, "attn": attn, "layers": layers}
    options["image_cache"] = image_cache_of(image_cache, image_cache_size)
    with place.encoder(model, st, st_prompt, dimensions=dimensions, **options) as encoder:
        size = part_size(encoder)
        values = made_with(encoder, size, out=os.path.abspath(out), instruction=instruction)
        with opened_store(beside, "embed", values, Work(work, not no_resume, note)) as store:
            embedding = Resumable(encoder, store, batch_size=size)
            wanted = Wanted("items", lambda: items, len(items), instruction)
            embedding.share([wanted])
            if not is_first():
                return
            vectors, readable, faults = embedding.embedded(wanted)
            skips += [Skip(records[place].where, reason) for place, reason in faults]
            kept = [record for record, good in zip(records, readable, strict=True) if good]
            buffer = io.BytesIO()
            np.savez(
                buffer,
                ids=np.array([record.id for record in kept], dtype=str),
                modalities=np.array([record.item.modality for record in kept], dtype=str),
                vectors=vectors[readable],
                model=np.array(encoder.fingerprint),
            )
            write_whole(out, buffer.getvalue())
            store.remove()
            with contextlib.suppress(OSError):
                beside.rmdir()
    if as_json:
        listed = [{"where": skip.where, "reason": skip.reason} for skip in skips]
        print_json({"out": str(out), "items": len(kept), "dim": encoder.dim, "skipped": len(skips), "skips": listed})
        return
    print_skips(skips)
    typer.echo(f"{out}: {len(kept)} vectors of length {encoder.dim}, {len(skips)} skipped")
