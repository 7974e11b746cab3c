"""``--engine``, ``--address``, ``--workers``: where a model runs, in this process or in the actors of a Ray cluster."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from puma.cli.commands._dimensions import encoder_of_length
from puma.cli.commands._shared import chosen_model, load_encoder
from puma.errors import InputError
from puma.items.limits import image_memory, set_image_memory

ENGINES = ("local", "ray")
EngineName = Annotated[
    str, typer.Option("--engine", help="Where to embed. local: this process. ray: workers of a Ray cluster.")
]
Address = Annotated[
    str | None,
    typer.Option(
        "--address",
        metavar="HOST:PORT",
        help="With --engine ray: address of the cluster's head, or auto. Default: RAY_ADDRESS, else only this machine.",
    ),
]
Workers = Annotated[
    int | None,
    typer.Option("--workers", min=1, help="With --engine ray: how many workers load a model. Default: as many as fit."),
]


@dataclass(frozen=True)
class Engine:
    """The three flags.

    Raises:
        InputError: another engine's name, or an address or workers without a cluster.
    """

    name: str = "local"
    address: str | None = None
    workers: int | None = None

    def __post_init__(self) -> None:
        if self.name not in ENGINES:
            raise InputError(f"engine must be one of {', '.join(ENGINES)}, got {self.name!r}")
        for flag, value in (("address", self.address), ("workers", self.workers)):
            if self.name != "ray" and value is not None:
                raise InputError(f"--{flag} {value}: goes with --engine ray")

    @property
    def remote(self) -> bool:
        """Whether the model runs elsewhere."""
        return self.name == "ray"

    @contextlib.contextmanager
    def encoder(
        self,
        model: Path | None,
        st: str | None = None,
        st_prompt: str | None = None,
        *,
        dimensions: int | None = None,
        index_dim: int | None = None,
        **options: Any,
    ) -> Iterator[Any]:
        """The model, as :func:`puma.cli.commands._shared.load_encoder` loads it, for the time of a ``with`` statement.

        Args:
            dimensions: cut vectors to this length; None for whole ones.
            index_dim: with ``dimensions`` None, of an index that holds vectors cut to this length.
        """
        if self.remote and st is None:  # the workers have an environment of their own, and run in another folder
            model = Path(chosen_model(model))
            model = model.absolute() if model.exists() else model
        load = functools.partial(load_cut, model, st, st_prompt, dimensions, index_dim, image_memory(), **options)
        if not self.remote:
            yield load()
            return
        from puma.evaluation.stored.resumable import encoder_settings
        from puma.items.remote import RayEncoder

        with RayEncoder(load, address=self.address, workers=self.workers, describe=encoder_settings) as encoder:
            yield encoder

    @contextlib.contextmanager
    def cluster(self) -> Iterator[Any]:
        """The connected ray module, for the time of a ``with`` statement."""
        from puma.items.ray_cluster import connected

        ray = connected(self.address or os.environ.get("RAY_ADDRESS") or None)
        try:
            yield ray
        finally:
            ray.shutdown()


def load_cut(
    model: Path | None,
    st: str | None,
    st_prompt: str | None,
    dimensions: int | None,
    index_dim: int | None,
    memory: int,
    **options: Any,
) -> Any:
    """A model with its vectors cut as :meth:`Engine.encoder` describes it. Runs in the workers, too.

    Args:
        memory: bytes that decoding one image may take in the process of the model.
    """
    from puma.items.dimensions import of_length, trained_dimensions

    set_image_memory(memory)
    whole = load_encoder(model, st, st_prompt, **options)
    if dimensions is None and index_dim is not None and index_dim in trained_dimensions(whole):
        return of_length(whole, index_dim)
    return encoder_of_length(whole, dimensions)
