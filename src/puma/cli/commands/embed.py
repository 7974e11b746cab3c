"""``puma embed``: vectors of files, for use elsewhere."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from puma.cli.commands._columns import ImageColumn, TextColumn
from puma.cli.commands._dimensions import Dimensions
from puma.cli.commands._engine import Address, Engine, EngineName, Workers
from puma.cli.commands._image_cache import CacheFolder, CacheSize, image_cache_of
from puma.cli.commands._image_memory import ImageMemory, use_image_memory
from puma.cli.commands._places import writable
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
    out: Annotated[Path, typer.Option("--out", "-o", callback=writable, help="The .npz file to write.")],
    instruction: Annotated[
        str | None, typer.Option(help="Instruction put before every item; only queries have one.")
    ] = None,
    text_column: TextColumn = None,
    image_column: ImageColumn = None,
    model: Model = None,
    st: ForeignModel = None,
    st_prompt: ForeignPrompt = None,
    dtype: Dtype = "auto",
    attn: Attention = None,
    layers: Layers = None,
    dimensions: Dimensions = None,
    image_cache: CacheFolder = None,
    image_cache_size: CacheSize = None,
    image_memory: ImageMemory = None,
    work: WorkFolder = None,
    no_resume: NoResume = False,
    engine: EngineName = "local",
    address: Address = None,
    workers: Workers = None,
    as_json: Json = False,
) -> None:
    """Embed items and write an .npz file with ids, modalities and vectors (float32 [n, dim], rows of unit length).

    To continue after an interruption, give the same command again. The work can be shared: by several processes under
    torchrun, or by the workers of a Ray cluster with --engine ray.

    Example: puma embed ~/Images captions.txt --out vectors.npz
    """
    import numpy as np

    from puma.cli.commands._room import check_room, known_length
    from puma.errors import InputError
    from puma.evaluation.processes import is_first
    from puma.evaluation.stored.resumable import Work, made_with, opened_store, part_size
    from puma.evaluation.stored.streamed import embed_stream
    from puma.items.encoder import Skip
    from puma.items.item import Item
    from puma.items.objects import object_path
    from puma.search.ingest import Record, count_items, read_items
    from puma.search.ingest.options import ReadOptions
    from puma.storage.folders import write_whole

    if out.suffix != ".npz":
        raise InputError(f"--out {out}: the file's name must end in .npz")
    use_image_memory(image_memory)
    place = Engine(engine, address, workers)
    if st_prompt is not None and instruction is not None:
        raise InputError("give one of --instruction and --st-prompt, got both")
    reading = ReadOptions(text_column, image_column)
    found = read_items(paths, reading, with_files=True)
    total = (
        None if any(map(object_path, paths)) else count_items(paths, reading)
    )  # in a store it costs requests of its own
    skips: list[Skip] = []
    kept: list[tuple[str, str, str]] = []  # id, modality and place of each item

    def items() -> Iterator[tuple[Item, str]]:
        for entry in found:
            if isinstance(entry, Skip):
                skips.append(entry)
            elif isinstance(entry, Record):
                kept.append((entry.id, entry.item.modality, entry.where))
                yield entry.loaded_item, entry.content

    instruction = st_prompt or instruction
    beside = out.parent / f".{out.name}.work"
    options: dict[str, Any] = {"dtype": dtype, "attn": attn, "layers": layers}
    options["image_cache"] = image_cache_of(image_cache, image_cache_size)
    length = known_length(model, st, dimensions)
    if total and length:
        check_room(total, length, out, work or beside)
    with place.encoder(model, st, st_prompt, dimensions=dimensions, **options) as encoder:
        if total and not length:
            check_room(total, encoder.dim, out, work or beside)
        size = part_size(encoder)
        values = made_with(encoder, size, out=os.path.abspath(out), instruction=instruction)
        with opened_store(beside, "embed", values, Work(work, not no_resume, note)) as store:
            done = embed_stream(encoder, store, "items", items(), part_size=size, instruction=instruction, total=total)
            if not is_first():
                return
            vectors, readable, faults = done
            skips += [Skip(kept[place][2], reason) for place, reason in faults]
            kept = [one for one, good in zip(kept, readable, strict=True) if good]
            buffer = io.BytesIO()
            np.savez(
                buffer,
                ids=np.array([name for name, _, _ in kept], dtype=str),
                modalities=np.array([modality for _, modality, _ in kept], dtype=str),
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
