"""``puma index migrate``: another model for an index, while it is searched."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from puma.cli.commands._image_memory import ImageMemory, use_image_memory
from puma.cli.commands._shared import (
    Attention,
    Dtype,
    IndexAddress,
    Json,
    Model,
    load_retriever,
    model_path,
    print_json,
    print_skips,
)


def migrate(
    index: IndexAddress,
    model: Model = None,
    dtype: Dtype = "auto",
    attn: Attention = None,
    image_memory: ImageMemory = None,
    batch_size: Annotated[int, typer.Option(min=1, help="How many items are embedded and stored at a time.")] = 256,
    leave_out: Annotated[
        bool,
        typer.Option("--leave-out", help="Drop the items that cannot be embedded again because their files are gone."),
    ] = False,
    drop_old: Annotated[
        bool, typer.Option("--drop-old", help="Only remove the vectors of earlier models. Embeds nothing.")
    ] = False,
    abandon: Annotated[
        bool,
        typer.Option("--abandon", help="Only remove what an unfinished migration has stored so far. Embeds nothing."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Embed everything in an index again with another model. Searches work during the migration. A running service
    switches to the new model afterwards.

    To continue after an interruption, give the same command again. The old model's vectors are kept until --drop-old.

    Example: puma index migrate my.index --model my-new-model

    Example: puma index migrate my.index --drop-old
    """
    from puma.errors import InputError
    from puma.index import Index
    from puma.index.addresses import generations_of

    Index(index, create=False)  # there is one
    if drop_old or abandon:
        if model is not None or (drop_old and abandon):
            raise InputError("--drop-old and --abandon embed nothing: give only one of them, and no --model")
        generations = generations_of(index)
        unfinished = generations.filling() if abandon else None
        if abandon:
            generations.abandon()
        gone = generations.drop_old() if drop_old else []
        if as_json:
            print_json({"removed": gone})
        else:
            left = f"removed of earlier models: {', '.join(gone) or 'nothing'}"
            abandoned = "the unfinished migration was removed" if unfinished else "there is no unfinished migration"
            typer.echo(f"{generations.shown}: {left if drop_old else abandoned}")
        return
    if model is None:
        raise InputError("--model: name the new model, as a folder or org/name on the hub")
    from puma.search.migrating import migrate as migrated

    use_image_memory(image_memory)
    path = model_path(model)
    named = os.path.abspath(path) if Path(path).exists() else str(path)
    done = migrated(
        index, load_retriever(model, dtype=dtype, attn=attn), named, batch_size=batch_size, leave_out=leave_out
    )
    if as_json:
        skips = [{"where": skip.where, "reason": skip.reason} for skip in done.skips]
        print_json(
            {
                "embedded": done.embedded,
                "present": done.present,
                "from_thumbnails": done.from_thumbnails,
                "skipped": len(skips),
                "skips": skips,
                "generation": done.generation,
            }
        )
        return
    print_skips(done.skips)
    if done.from_thumbnails:
        typer.echo(
            f"{done.from_thumbnails} images were embedded from their thumbnails: their files are gone or have changed",
            err=True,
        )
    rows = len(Index(index, create=False))
    typer.echo(f"{index}: {done.embedded} embedded, {done.present} there already; {rows} items, now with {named}")
    typer.echo(f"the old vectors are kept until 'puma index migrate {index} --drop-old'", err=True)
