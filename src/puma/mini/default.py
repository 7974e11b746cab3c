"""``puma-mini``: the model that commands use when none is named.

Its adapter lies in the package; the model folder is made of it once. Data, recipe and figures are in
docs/model-card-puma-mini.md.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

from puma.errors import InputError, ModelError
from puma.mini.fetch.packages import cache_home, sha256_of
from puma.storage.folders import storage_errors

NAME = "puma-mini"
ADAPTER = Path(__file__).with_name("puma-mini.safetensors")
"""The adapter in the package."""
FORMAT = 1
"""Raised whenever the same adapter and base would give another folder than before."""


def default_model(
    home: str | os.PathLike[str] | None = None,
    *,
    adapter: str | os.PathLike[str] | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Path:
    """The model folder of ``puma-mini``, made on first use and kept in the cache: the plain mini base (fetched by the
    machine's own clients, no images needed) with the adapter's differences added.

    It lies at ``home/models/puma-mini-<digest>`` and appears there by one rename when it is whole. Several processes
    may ask at once. Making it takes about a minute, 2 GB of memory and 0.5 GB of disk; afterwards it is only named.

    Args:
        home: cache folder; :func:`puma.mini.fetch.packages.cache_home` if None.
        adapter: another adapter made for a mini base; :data:`ADAPTER` if None.
        say: called with a message before anything is made; not called if all is there.

    Raises:
        ModelError: there is no adapter, or it is damaged or for no mini base.
        DependencyError, DownloadError, StorageError: as :func:`puma.mini.base.assemble.assemble`.
    """
    path = ADAPTER if adapter is None else Path(adapter)
    if not path.is_file():
        raise ModelError(
            f"{NAME}, the default model, is not in this installation (no {path}): name a retriever folder by --model "
            "or PUMA_MODEL; `puma quickstart` makes one"
        )
    folder = _folder_of(path, home)
    if folder.is_dir():
        return folder
    with storage_errors(f"folder of the default model {folder}"):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.parent / f".{folder.name}.lock"):
            if folder.is_dir():
                return folder
            say(f"making {NAME} in {folder}: once, about a minute ...")
            work = folder.parent / f".{folder.name}.tmp"
            shutil.rmtree(work, ignore_errors=True)  # of a run that was killed: we hold the lock
            try:
                _make(work / "model", path, home)
                for written in (file for file in (work / "model").rglob("*") if file.is_file()):
                    with open(written, "rb") as stream:  # on disk before the name is, should the power fail
                        os.fsync(stream.fileno())
                os.replace(work / "model", folder)
            finally:
                shutil.rmtree(work, ignore_errors=True)
    return folder


def default_model_folder(home: str | os.PathLike[str] | None = None) -> Path | None:
    """Where :func:`default_model` puts it, whether it is there yet or not; None if this installation has none."""
    return _folder_of(ADAPTER, home) if ADAPTER.is_file() else None


def _folder_of(adapter: Path, home: str | os.PathLike[str] | None) -> Path:
    digest = hashlib.sha256(f"{FORMAT} {sha256_of(adapter)}".encode()).hexdigest()
    return (cache_home() if home is None else Path(home)) / "models" / f"{NAME}-{digest[:8]}"


def _make(folder: Path, adapter: Path, home: str | os.PathLike[str] | None) -> None:
    from puma.mini.adapter.file import read_adapter, read_header  # heavy, and not needed where the folder is there
    from puma.mini.base.assemble import assemble
    from puma.mini.base.settings import BaseSettings

    settings = read_header(adapter)["base"].get("settings")
    if not settings:
        raise ModelError(f"adapter {adapter}: made for a base that is no mini base; read it with read_adapter")
    known = {key: value for key, value in settings.items() if key != "image_tokens"}
    try:
        wanted = BaseSettings(**{**known, "strides": tuple(known["strides"])})
    except (TypeError, KeyError, InputError) as error:
        raise ModelError(f"adapter {adapter}: its base cannot be made by this PUMA ({error}); update PUMA") from None
    base = assemble(home=None if home is None else Path(home), settings=wanted)  # no images: the plain base
    read_adapter(adapter, base, device="cpu", home=home).save_pretrained(folder)
