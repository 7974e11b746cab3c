"""``puma search``: ask an index with words, an image, or both."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from puma.cli.commands._hits import PathsOnly, Zero, check_output, describe, describe_others, print_paths
from puma.cli.commands._image_memory import ImageMemory, use_image_memory
from puma.cli.commands._shared import (
    Attention,
    Dtype,
    Json,
    Layers,
    Model,
    print_json,
    searcher_of,
)
from puma.cli.commands.index import ModalityList
from puma.cli.printable import printable
from puma.errors import InputError
from puma.items.item import Item
from puma.items.references import image_reference


def register(app: typer.Typer) -> None:
    app.command("search")(search)


def search(
    index: Annotated[
        str,
        typer.Argument(
            metavar="INDEX",
            help="An index's folder or address; or a folder of images, such as the current one (.). PUMA then keeps an "
            "index of it in its cache.",
        ),
    ],
    text: Annotated[str | None, typer.Argument(metavar="[TEXT]", help="The query's words.")] = None,
    image: Annotated[Path | None, typer.Option("--image", "-i", help="The query's image.")] = None,
    k: Annotated[int, typer.Option("-k", min=1, help="How many results to show.")] = 10,
    modality: ModalityList = None,
    where: Annotated[
        list[str] | None,
        typer.Option(
            "--where",
            help="Only items whose fields meet this condition: KEY=VALUE, also != < <= > >=, or a filter as JSON. Can "
            "be repeated; all conditions must hold.",
        ),
    ] = None,
    minus: Annotated[
        list[str] | None,
        typer.Option("--minus", help="Words that describe what results should not be like. Can be repeated."),
    ] = None,
    folder: Annotated[
        str | None, typer.Option("--folder", help="Only images whose files are in this folder or below it.")
    ] = None,
    min_score: Annotated[
        float | None, typer.Option("--min-score", min=-1.0, max=1.0, help="Leave out results with a lower score.")
    ] = None,
    group: Annotated[
        bool, typer.Option("--group", help="Show only the best result of each group of near-duplicates.")
    ] = False,
    drop_weak: Annotated[
        bool,
        typer.Option(
            "--drop-weak",
            help="Leave out weak results: their score is one that this model also gives when nothing fits. Without "
            "this option they are marked (weak).",
        ),
    ] = False,
    offset: Annotated[
        int, typer.Option("--offset", min=0, help="Skip this many of the best results, to get the next page.")
    ] = 0,
    instruction: Annotated[
        str | None, typer.Option(help="Instruction to use instead of the default one; '' for none.")
    ] = None,
    merge: Annotated[
        str,
        typer.Option(
            help="How to order results of several modalities: calibrated, rank, score, or single (one query and one "
            "search for all)."
        ),
    ] = "calibrated",
    model: Model = None,
    dtype: Dtype = "auto",
    attn: Attention = None,
    layers: Layers = None,
    image_memory: ImageMemory = None,
    paths: PathsOnly = False,
    null: Zero = False,
    as_json: Json = False,
) -> None:
    """Find the items that fit a query best.

    Example: puma search my.index "a red fox in snow" -k 5 --modality image

    Example: puma search my.index "the same at night" --image fox.png

    Example: puma search my.index "shoes" --where brand=b3 --where 'price<20' --minus boots

    Example: puma search . "a red fox" --paths
    """
    from puma.cli.commands._folders import folder_searcher, is_plain_folder
    from puma.cli.commands._where import parse_where
    from puma.index import Index
    from puma.index.addresses import scheme_of
    from puma.index.filters import checked_filter
    from puma.index.interface import checked_modality
    from puma.search.cutoffs import cutoffs_of
    from puma.search.finding import searches
    from puma.search.grouping import FETCHED, grouped
    from puma.search.merging import checked_merge

    only_paths = check_output(as_json, paths, null)
    use_image_memory(image_memory)
    query = query_item(text, image)
    for given in modality or ():
        checked_modality(given)
    checked_merge(merge)
    condition = parse_where(where, folder)
    checked_filter(condition)
    if scheme_of(index) is None and is_plain_folder(Path(index)):
        searcher = folder_searcher(Path(index), model, dtype=dtype, attn=attn, layers=layers)
    else:
        searcher = searcher_of(Index(index, create=False), model, dtype=dtype, attn=attn, layers=layers)
    _warn_of_cut(searcher.encoder, query)
    options = {"where": condition, "minus": minus or (), "merge": merge}
    if group:
        found = searcher.search(query, (offset + k) * FETCHED, modality or None, instruction, **options)
        groups = grouped(searcher.index, found)[offset : offset + k]
    else:
        groups = [[hit] for hit in searcher.search(query, k, modality or None, instruction, offset=offset, **options)]
    if min_score is not None:
        groups = [one for one in groups if one[0].score >= min_score]
    cutoffs = cutoffs_of(searcher.encoder, model)
    wanted = searches(searcher.index, modality or None, merge)
    weak = {
        one[0].id: None if cutoffs is None else cutoffs.is_weak_hit(query.modality, wanted, one[0]) for one in groups
    }
    if drop_weak:
        if cutoffs is None:
            raise InputError(
                "--drop-weak: this model's cut-offs are not known; benchmarks/score_cutoffs.py measures them"
            )
        groups = [one for one in groups if not weak[one[0].id]]
    if as_json:
        print_json(
            [
                asdict(one[0])
                | ({"duplicates": [hit.id for hit in one[1:]]} if group else {})
                | ({"weak": weak[one[0].id]} if cutoffs else {})
                for one in groups
            ]
        )
        return
    if only_paths:
        print_paths((one[0].payload for one in groups), null)
    else:
        for rank, (hit, *alike) in enumerate(groups, start=offset + 1):
            more = (f"  (+{len(alike)} alike)" if alike else "") + ("  (weak)" if weak[hit.id] else "")
            typer.echo(f"{rank:3}  {hit.score:7.4f}  {hit.modality:10}  {describe(hit.payload) or hit.id}{more}")
            for line in describe_others(hit.other_payloads):
                typer.echo(line)
    if not groups:
        conditions = [f"--modality {' or '.join(modality)}"] if modality else []
        conditions += [f"--where '{one}'" for one in where or ()]
        conditions += [f"--folder {folder}"] if folder is not None else []
        of = f" for {' and '.join(conditions)}" if conditions else ""
        what = f"no more than {offset} items" if offset else "no items"
        what += " that are not weak" if drop_weak else ""
        what += f" with a score of at least {min_score:g}" if min_score is not None else ""
        typer.echo(printable(f"nothing found: the index has {what}{of}"), err=True)


def _warn_of_cut(encoder: Any, query: Item) -> None:
    """A line on stderr where the model does not read a query's words to their end."""
    counter = getattr(encoder, "text_tokens", None)
    if counter is not None and counter.is_cut(query.text):
        typer.echo(f"note: the query is longer than the {counter.limit} tokens that the model reads", err=True)


def query_item(text: str | None, image: Path | None) -> Item:
    """A query from a command's arguments; its image is opened here, so that a wrong path is reported before the model
    is loaded.

    Raises:
        InputError: neither was given, or the text is an image. ImageError: the image cannot be opened.
    """
    if not (text or "").strip() and image is None:
        raise InputError('nothing to search for: give words, as in puma search INDEX "a red fox", or --image FILE')
    reference = image_reference(text or "")
    if reference in ("data URI", "base64"):
        raise InputError(f"the query's words are an image ({reference}); save it to a file and give --image FILE")
    item = Item(text=text, image=image)
    item.open_image()
    return item
