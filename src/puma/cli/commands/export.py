"""``puma export``: a retriever in the format of another program."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from puma.cli.commands._places import writable
from puma.cli.commands._shared import Json, Layers, load_retriever, model_path, print_json, quiet_libraries
from puma.errors import InputError, require

FORMATS = ("onnx", "vllm")


def register(app: typer.Typer) -> None:
    app.command("export")(export)


def export(
    model: Annotated[
        str,
        typer.Argument(help="A retriever's folder, org/name on the hub, or puma-mini, the model that ships with PUMA."),
    ],
    out: Annotated[Path, typer.Argument(callback=writable, help="The folder to write.")],
    kind: Annotated[
        str,
        typer.Option(
            "--format",
            help="onnx: two graphs that onnxruntime runs without torch and transformers. vllm: a folder that vLLM "
            "serves, with its class names and a chat template.",
        ),
    ],
    int8: Annotated[
        bool,
        typer.Option("--int8", help="With onnx: store weights in 8 bits, a quarter of the size."),
    ] = False,
    text_only: Annotated[
        bool,
        typer.Option(
            "--text-only", help="With onnx: export only the text side. Not every base can export its vision side."
        ),
    ] = False,
    layers: Layers = None,
    replace: Annotated[bool, typer.Option("--replace", help="With onnx: replace an existing folder.")] = False,
    as_json: Json = False,
) -> None:
    """Write a retriever in another program's format. An ONNX folder works with --model, and from Python, like any other
    model.

    Example: puma export puma-mini mini-onnx --format onnx

    Example: puma export my-retriever my-retriever-vllm --format vllm
    """
    if kind not in FORMATS:
        raise InputError(f"--format {kind}: give one of {', '.join(FORMATS)}")
    if kind == "vllm":
        given = {"--int8": int8, "--text-only": text_only, "--layers": layers is not None, "--replace": replace}
        if wrong := [flag for flag, value in given.items() if value]:
            raise InputError(f"{', '.join(wrong)}: only with --format onnx; leave out")
        _for_vllm(model, out, as_json)
        return
    _to_onnx(model, out, as_json, layers=layers, int8=int8, text_only=text_only, replace=replace)


def _for_vllm(model: str, out: Path, as_json: bool) -> None:
    quiet_libraries()
    from puma.retriever.vllm import export_vllm

    export_vllm(model_path(model), out)
    if as_json:
        print_json({"out": str(out), "format": "vllm"})
        return
    typer.echo(f"{out}: vllm serve {out} --runner pooling")


def _to_onnx(model: str, out: Path, as_json: bool, *, layers: int | None, replace: bool, **options: bool) -> None:
    from puma.retriever.onnx.layout import is_exported

    if out.exists() and not replace and (out.is_file() or any(out.iterdir())):
        raise InputError(f"{out}: exists and is not empty; give another folder, or --replace")
    require("puma export --format onnx", "onnx")
    chosen = model_path(model)
    if is_exported(chosen):
        raise InputError(f"{model}: is an ONNX export already; name the model that it was made from")
    retriever: Any = load_retriever(Path(chosen), dtype="fp32", layers=layers)
    from puma.retriever.onnx.exporting import export_onnx

    made = export_onnx(retriever.to("cpu"), out, source=model, replace=replace, **options)
    if as_json:
        cosines = {"text_cosine": made.text_cosine, "image_cosine": made.image_cosine}
        print_json(
            {"out": str(out), "precision": made.precision, "images": made.images, "bytes": made.bytes, **cosines}
        )
        return
    takes = "texts and images" if made.images else "texts only"
    least = min(cosine for cosine in (made.text_cosine, made.image_cosine) if cosine is not None)
    typer.echo(
        f"{out}: {takes}, {made.precision}, {made.bytes / 1e6:,.0f} MB; cosine to the model's own vectors at least "
        f"{least:.6f}"
    )
