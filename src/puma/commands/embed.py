"""``puma embed``: vectors of files, for use elsewhere."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Annotated

import typer

from puma.commands._shared import Json, Model, Paths, load_retriever, print_json, print_skips


def register(app: typer.Typer) -> None:
    app.command("embed")(embed)


def embed(
    paths: Paths,
    out: Annotated[Path, typer.Option("--out", "-o", help="The .npz file to write.")],
    instruction: Annotated[str | None, typer.Option(help="Put before every item; for queries.")] = None,
    model: Model = None,
    as_json: Json = False,
) -> None:
    """Embed items and write an .npz file with ids, modalities and vectors (float32 [n, dim], rows of unit length).

    Example: puma embed ~/Pictures captions.txt --out vectors.npz
    """
    import numpy as np

    from puma.embedding import Skip, embed_readable
    from puma.errors import InputError
    from puma.folders import write_whole
    from puma.ingest import Record, read_items

    if out.suffix != ".npz":
        raise InputError(f"--out {out}: the file's name must end in .npz")
    found = list(read_items([path.expanduser() for path in paths]))
    skips = [entry for entry in found if isinstance(entry, Skip)]
    records = [entry for entry in found if isinstance(entry, Record)]
    encoder = load_retriever(model)
    items = [record.item for record in records]
    vectors, readable, faults = embed_readable(encoder, items, instruction=instruction, progress="embedding")
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
    if as_json:
        listed = [{"where": skip.where, "reason": skip.reason} for skip in skips]
        print_json({"out": str(out), "items": len(kept), "dim": encoder.dim, "skipped": len(skips), "skips": listed})
        return
    print_skips(skips)
    typer.echo(f"{out}: {len(kept)} vectors of length {encoder.dim}, {len(skips)} skipped")
