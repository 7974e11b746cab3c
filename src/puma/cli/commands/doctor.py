"""``puma doctor``: checks a benchmark's folder in M-BEIR's layout, alone or against a model's image processor; or
whether other programs give a model's vectors.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from puma.cli.commands._shared import Json, load_retriever, model_path, print_json
from puma.errors import InputError

if TYPE_CHECKING:
    from puma.data.findings import Findings


def register(app: typer.Typer) -> None:
    app.command("doctor")(doctor)


def doctor(
    mbeir: Annotated[
        Path | None, typer.Option("--mbeir", metavar="DIR", help="The folder to check: M-BEIR, or data in its layout.")
    ] = None,
    split: Annotated[
        list[str] | None,
        typer.Option(help="Check only this split: train, val or test; can be repeated. Default: all three."),
    ] = None,
    images: Annotated[
        str,
        typer.Option(
            help="How many images to open: a number, all, or none. With none their files are not looked up either; "
            "otherwise every file is looked up."
        ),
    ] = "1000",
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            metavar="M",
            help="Also try this model's image processor on the opened images (folder or hub name).",
        ),
    ] = None,
    parity: Annotated[
        str | None,
        typer.Option(
            "--parity",
            metavar="MODEL",
            help="Instead: check that other programs give the same vectors for this retriever.",
        ),
    ] = None,
    server: Annotated[
        str | None,
        typer.Option(
            help="With --parity: also compare a running server such as vLLM, for example http://localhost:8000."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Check a benchmark folder: list every missing or malformed file, line and image.

    If the folder has any of M-BEIR's data sets, it must have all files that M-BEIR publishes; --split narrows that.
    Large files are streamed. The exit code is 0 if there are no faults, 1 if there are, 2 if it is no such folder.

    With --model, an image that this model's processor refuses is a fault. Images that it would distort are noted.

    With --parity, a retriever's vectors are compared with those of sentence-transformers from the same folder, and
    with those of --server. The worst cosine of each kind of item is printed; below 0.999 the exit code is 1. The
    server's token is read from PUMA_TOKEN.

    Example: puma doctor --mbeir M-BEIR --split test --images 5000

    Example: puma doctor --parity my-retriever --server http://localhost:8000
    """
    from puma.data.validation import examine

    if parity is not None:
        if mbeir is not None:
            raise InputError("give one of --mbeir and --parity, got both")
        _compare(parity, server, as_json)
        return
    if server is not None:
        raise InputError("--server goes with --parity: it is compared with that model")
    if mbeir is None:
        raise InputError("nothing to check: give a benchmark's folder by --mbeir, or a retriever by --parity")
    wanted: str | int = int(images) if images.isdigit() else images
    trial = None
    if model is not None:
        from puma.retriever.images.trying import ImageTrial

        trial = ImageTrial(model)
    findings = examine(
        mbeir, splits=split or None, images=wanted, say=lambda line: typer.echo(line, err=True), try_on_model=trial
    )
    if as_json:
        print_json(findings.as_json())
    else:
        _tell(findings)
    if findings.total:
        raise typer.Exit(1)


def _compare(model: str, server: str | None, as_json: bool) -> None:
    folder = model_path(model)
    retriever = load_retriever(Path(folder), dtype="fp32")
    from puma.retriever.parity import LEAST, compare

    found = compare(retriever, folder, server)
    if as_json:
        print_json(
            {"least": LEAST, "passed": all(own.passed for own in found), "worst": [asdict(own) for own in found]}
        )
    else:
        for own in found:
            verdict = "same" if own.passed else f"below {LEAST}"
            typer.echo(f"{own.program}  {own.modality:10}  {own.worst:.6f}  {verdict} (worst: {own.case})")
    if not all(own.passed for own in found):
        raise typer.Exit(1)


def _tell(findings: Findings) -> None:
    shown = Counter((fault.file, fault.kind) for fault in findings.faults)
    by_file: dict[str, list[str]] = {}
    for fault in sorted(findings.faults):
        place = f"line {fault.line}: " if fault.line else ""
        by_file.setdefault(fault.file, []).append(f"  {fault.kind}: {place}{fault.message}")
    for file, faults in by_file.items():
        typer.echo(file)
        for line in faults:
            typer.echo(line)
        for (name, kind), count in shown.items():
            more = findings.count_in(name, kind) - count
            if name == file and more:
                typer.echo(f"  {kind}: ... and {more:,} more")
    for note in findings.notes:
        typer.echo(f"note: {note}")
    looked = f"{findings.files:,} files, {findings.records:,} records, {findings.images:,} images looked up"
    typer.echo(f"{findings.root}: {looked}, {findings.opened:,} opened")
    counted = ", ".join(f"{kind} {count:,}" for kind, count in sorted(findings.counts.items()))
    typer.echo(f"faults: {findings.total:,} ({counted})" if findings.total else "no faults")
