"""Finding a model's folder: a path here, or a hub name whose files the hub's cache keeps."""

from __future__ import annotations

import os
import re
from pathlib import Path

from puma.errors import InputError, ModelError, first_line

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_WANTED_FILES = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]


def model_folder(
    name: str | os.PathLike[str], *, what: str = "model", revision: str | None = None, token: str | None = None
) -> Path:
    """The folder of a model: the path itself, or where the hub's cache keeps a hub name's files, fetched if need be.

    Args:
        name: a folder with a config.json, or a hub name ``org/name``. What exists as a path is a path.
        what: the argument's name, for messages.
        revision: branch, tag or commit on the hub.
        token: of the hub; None takes the one that ``hf auth login`` or ``HF_TOKEN`` gave.

    Raises:
        InputError: the path is no model folder, and no hub name either.
        ModelError: the hub does not have it, or cannot be reached.
    """
    path = Path(name)
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise InputError(f"{what} {str(name)!r}: no model folder (no config.json in it)")
        return path
    text = os.fspath(name)
    if path.exists() or not _HUB_NAME.fullmatch(text):
        raise InputError(f"{what} {text!r}: no such model folder (no config.json in it), and no hub name (org/name)")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(text, revision=revision, token=token, allow_patterns=_WANTED_FILES))
    except Exception as error:  # the hub's client raises its own errors, those of its HTTP client, and OSError
        raise ModelError(
            f"{what} {text!r} is neither a model folder here nor one that can be fetched: {first_line(error)}"
        ) from None
