"""``puma serve``: indexes and a model as a service over HTTP, with a page."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import threading
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from puma.cli.commands._image_cache import CacheFolder, CacheSize, image_cache_of
from puma.cli.commands._image_memory import ImageMemory, use_image_memory
from puma.cli.commands._shared import (
    DEFAULT_MODEL,
    Attention,
    Dtype,
    Layers,
    Model,
    chosen_model,
    load_retriever,
)
from puma.errors import ConfigError, InputError, require

if TYPE_CHECKING:
    from fastapi import FastAPI

    from puma.index import Index
    from puma.serve.settings import ServeSettings

_ORIGIN = re.compile(r"https?://[^/\s?#@]+|\*")
_HOST = re.compile(r"[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]|\*")
_LOOPBACK = re.compile(r"localhost|127(\.[0-9]{1,3}){3}|::1|::ffff:127(\.[0-9]{1,3}){3}")
_SHORT_TOKEN = 16


def register(app: typer.Typer) -> None:
    app.command("serve")(serve)


def serve(
    indexes: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[INDEX]...", help="Folders or addresses of indexes. Without any, only embeddings are served."
        ),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on. Any other than this machine's own needs a token.")
    ] = ("127.0.0.1"),
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 picks a free one.")] = 8000,
    model: Model = None,
    dtype: Dtype = "auto",
    attn: Attention = None,
    layers: Layers = None,
    token_file: Annotated[
        Path | None, typer.Option(help="File with the token that clients must send. Or set PUMA_TOKEN.")
    ] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Allow other machines without a token: anyone can use the service.")
    ] = False,
    read_only: Annotated[bool, typer.Option("--read-only", help="Refuse to add or delete items over HTTP.")] = False,
    originals: Annotated[
        bool | None,
        typer.Option(
            "--originals/--no-originals",
            help="Give clients the items' file paths and the files themselves. Default: only if nobody but this "
            "machine has access (no other --host, no --allow-host, no --cors-origin).",
        ),
    ] = None,
    cors_origin: Annotated[
        list[str] | None, typer.Option(help="A web origin whose pages may call the service; can be repeated.")
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(help="Another host name of this service, for example behind a proxy; can be repeated."),
    ] = None,
    model_name: Annotated[
        list[str] | None, typer.Option(help="Name of the model in /v1/models; can be repeated.")
    ] = None,
    max_batch: Annotated[int, typer.Option(min=1, help="Most items per forward pass.")] = 64,
    max_wait_ms: Annotated[
        float, typer.Option(min=0, help="How many milliseconds an item waits for others to join its batch.")
    ] = 4.0,
    max_queue: Annotated[
        int, typer.Option(min=1, help="Most items that wait; beyond that clients get status 429.")
    ] = 1024,
    timeout: Annotated[
        float, typer.Option(min=0.001, help="Seconds that a request may wait; after that it gets status 503.")
    ] = 30.0,
    image_cache: CacheFolder = None,
    image_cache_size: CacheSize = None,
    image_memory: ImageMemory = None,
    access_log: Annotated[bool, typer.Option("--access-log", help="Log each request on stderr.")] = False,
) -> None:
    """Serve indexes over HTTP: a search page at /, embeddings in the formats of OpenAI and Cohere, API docs at /docs.

    Example: puma serve my.index

    Example: PUMA_TOKEN=$(openssl rand -hex 24) puma serve my.index --host 0.0.0.0
    """
    from puma.serve.settings import ServeSettings

    require("puma serve", "serve")
    use_image_memory(image_memory)
    opened = named_indexes(indexes or [], writable=not read_only)
    loopback = _LOOPBACK.fullmatch(host.lower()) is not None
    token = _token(token_file)
    if not loopback and token is None and not insecure:
        raise InputError(
            f"--host {host}: others could use this service; give it a token (PUMA_TOKEN or --token-file), "
            "or give --insecure to allow it"
        )
    origins = [_matching(_ORIGIN, "--cors-origin", origin.rstrip("/"), "https://name") for origin in cors_origin or []]
    if "*" in origins and token is None and not insecure:
        raise InputError("--cors-origin '*': every web page could use this service; give it a token or --insecure")
    settings = ServeSettings(
        token=token,
        hosts=(
            *_hosts(host, loopback, token),
            *(_matching(_HOST, "--allow-host", h, "a name") for h in allow_host or []),
        ),
        cors_origins=tuple(origins),
        model_names=tuple(model_name or [_name_of(model)]),
        originals=loopback and not allow_host and not origins if originals is None else originals,
        writable=not read_only,
        max_batch=max_batch,
        max_batch_images=max(1, max_batch // 4),
        max_wait_ms=max_wait_ms,
        max_queue=max_queue,
        timeout_s=timeout,
        access_log=access_log,
    )
    loading: dict[str, Any] = {"dtype": dtype, "attn": attn, "layers": layers}
    loading["image_cache"] = image_cache_of(image_cache, image_cache_size)
    raise typer.Exit(_run(opened, host, port, model, loading, settings))


def named_indexes(addresses: list[str], *, writable: bool) -> dict[str, Index]:
    """Indexes by the names they are served under: ``my.index`` as ``my``. They are opened, which needs no model.

    Raises:
        InputError: two have one name, or one does not exist (a single one that may be written to is made when the first
            item is added). StorageError: there is no permission to make it.
    """
    from puma.index import Index
    from puma.index.addresses import expanded, name_of, scheme_of
    from puma.storage.folders import check_place

    named: dict[str, Index] = {}
    for address in map(expanded, addresses):
        name = name_of(address)
        if name in named:
            raise InputError(
                f"{address} and {named[name].address} would both be served as {name!r}; rename one of them"
            )
        new = writable and len(addresses) == 1
        if new and scheme_of(address) is None:
            check_place(address, "INDEX")
        named[name] = Index(address, create=new)
    return named


def _run(
    indexes: dict[str, Index],
    host: str,
    port: int,
    model: Path | None,
    options: dict[str, Any],
    settings: ServeSettings,
) -> int:
    from puma.serve.binding import address_of, bound_socket

    imports = threading.Thread(
        target=_import_service, args=[bool(indexes)], daemon=True
    )  # while torch loads, which is longest

    # torch's threads wait busily after each batch; the index's search, which comes then, needs the cores (2 of 35 ms).
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")
    bound = bound_socket(host, port)
    try:
        imports.start()
        app = _app(indexes, model, options, settings, imports)
        asyncio.run(app.state.service.warm())  # here, where a model that does not work is reported in one line
        from puma.serve.server import run

        if settings.access_log:
            _log_requests()
        what = ", ".join(f"{name} ({len(index):,} items)" for name, index in indexes.items()) or "embeddings"
        line = f"PUMA serves {what} with {settings.model_names[0]} on {address_of(bound, host)}"
        return run(app, bound, ready=lambda: print(line, flush=True))
    finally:
        bound.close()


def _app(
    indexes: dict[str, Index],
    model: Path | None,
    options: dict[str, Any],
    settings: ServeSettings,
    imports: threading.Thread,
) -> FastAPI:
    """The application; nothing else holds its models, so that one which no index has any more is freed."""
    retriever = load_retriever(model, **options)
    imports.join()
    from puma.items.dimensions import whole_encoder
    from puma.search.cutoffs import cutoffs_of
    from puma.serve import create_app
    from puma.serve.following import noted_model, searchers_of

    load = partial(load_retriever, **options)
    searchers = searchers_of(retriever, indexes, load)
    for name, searcher in searchers.items():
        if whole_encoder(searcher.encoder) is not retriever:
            typer.echo(f"{name}: served with the model of its last migration, {noted_model(indexes[name])}", err=True)
    cutoffs = cutoffs_of(retriever, model)
    return create_app(searchers, encoder=retriever, settings=settings, cutoffs=cutoffs, load=load)


def _import_service(with_index: bool) -> None:
    with contextlib.suppress(Exception):  # what is wrong is reported where they are imported for good
        if with_index:
            from puma.index.lancedb_import import import_lancedb

            import_lancedb()
        import puma.serve.app
        import puma.serve.server  # noqa: F401


def _token(file: Path | None) -> str | None:
    if file is None:
        origin, given = "PUMA_TOKEN", os.environ.get("PUMA_TOKEN")
    else:
        origin = f"--token-file {file}"
        try:
            given = file.expanduser().read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{origin}: cannot be read ({getattr(error, 'strerror', None) or 'not text'})") from None
    if given is None:
        return None
    token = given.strip()
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise InputError(
            f"{origin}: must hold one token of letters, digits and signs; `openssl rand -hex 24` makes one"
        )
    if len(token) < _SHORT_TOKEN:
        typer.echo(f"warning: {origin}: a token of {len(token)} characters can be guessed; use 32", err=True)
    return token


def _hosts(host: str, loopback: bool, token: str | None) -> tuple[str, ...]:
    """What the Host header may say. With a token nothing is gained by making a browser call us by a foreign name."""
    from puma.serve.settings import ANY_ADDRESS, ANY_HOST

    own = ("localhost", "127.0.0.1", "[::1]")
    bound = f"[{host}]" if ":" in host else host
    if loopback:
        return (*own, bound)
    return (ANY_HOST,) if token is not None else (*own, bound, ANY_ADDRESS)


def _matching(pattern: re.Pattern[str], flag: str, value: str, like: str) -> str:
    if not pattern.fullmatch(value):
        raise ConfigError(f"{flag} {value!r}: must look like {like}")
    return value


def _name_of(model: Path | None) -> str:
    chosen = str(chosen_model(model))
    return DEFAULT_MODEL if chosen == DEFAULT_MODEL else Path(chosen).expanduser().absolute().name


def _log_requests() -> None:
    import logging

    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    logger: Any = logging.getLogger("puma.serve.access")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
