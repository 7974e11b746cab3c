"""Finding a model's folder: a path here, or a hub name whose files the hub's cache keeps."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from puma.errors import InputError, ModelError, first_line
from puma.pruning.cards import CARD, HUB_NAME

ADAPTER_CONFIG = "adapter_config.json"
"""The file by which peft knows an adapter's folder."""
_GRAPHS = ["puma_*.onnx", "puma_*.onnx.data"]
"""Those that PUMA exports, not the ones that other projects' models have beside their weights."""
_WANTED_FILES = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja", *_GRAPHS]


def is_adapter_folder(path: str | os.PathLike[str]) -> bool:
    """Whether a folder holds an adapter and no model of its own."""
    folder = Path(path)
    return (folder / ADAPTER_CONFIG).is_file() and not any(folder.glob("model*.safetensors"))


def holds(name: str | os.PathLike[str], file: str) -> bool:
    """Whether a model, a folder here or a hub name, has a file; of the hub this file alone is fetched.

    False also where the hub cannot be reached: the error is raised when the model is loaded.
    """
    hub_name = _hub_name(name)
    if hub_name is None:
        return (Path(name) / file).is_file()
    from huggingface_hub import hf_hub_download

    try:
        hf_hub_download(hub_name, file)
    except Exception:  # the hub's client raises its own errors, those of its HTTP client, and OSError
        return False
    return True


def model_folder(
    name: str | os.PathLike[str], *, what: str = "model", revision: str | None = None, token: str | None = None
) -> Path:
    """The folder of a model: the path itself, or where the hub's cache keeps a hub name's files, fetched if need be.

    With ``HF_HUB_OFFLINE=1`` nothing is fetched: what the cache has is used, else it is an error.

    Args:
        name: a folder with a config.json, or a hub name ``org/name``. What exists as a path is a path.
        what: the argument's name, for messages.
        revision: branch, tag or commit on the hub.
        token: of the hub; None takes the one that ``hf auth login`` or ``HF_TOKEN`` gave.

    Raises:
        InputError: the path is no model folder, and no hub name either; a revision of a folder here.
        ModelError: the hub does not have it, or cannot be reached.
    """
    path = Path(name)
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise InputError(f"{what} {str(name)!r}: no model folder (no config.json in it)")
        if revision is not None:
            raise InputError(
                f"revision={revision!r}: goes with a name on the hub, and {what} {str(name)!r} is a folder here; leave "
                "it out, or work elsewhere than beside that folder"
            )
        return path
    text = _hub_name(name)
    if text is None:
        raise InputError(
            f"{what} {_written(name)!r}: no such model folder (no config.json in it), and no hub name (org/name)"
        )
    from huggingface_hub import constants, hf_hub_download, snapshot_download

    try:
        folder = Path(snapshot_download(text, revision=revision, token=token, allow_patterns=_WANTED_FILES))
    except Exception as error:  # the hub's client raises its own errors, those of its HTTP client, and OSError
        if constants.HF_HUB_OFFLINE:
            which = text if revision is None else f"{text} at {revision}"
            raise ModelError(
                f"{what} {text!r}: {which} is neither a model folder here nor in the hub's cache "
                f"({constants.HF_HUB_CACHE}), and HF_HUB_OFFLINE is set; unset it to fetch the model"
            ) from None
        raise ModelError(
            f"{what} {text!r} is neither a model folder here nor one that can be fetched: {first_line(error)}"
        ) from None
    # By itself: a cache that lacks it is whole without it. It names the licence, of what is made of the model too.
    with contextlib.suppress(Exception):
        hf_hub_download(text, CARD, revision=folder.name, token=token)
    return folder


def _hub_name(name: str | os.PathLike[str]) -> str | None:
    """A name on the hub; None for what exists as a path, or cannot be such a name."""
    text = _written(name)
    return None if Path(name).exists() or not HUB_NAME.fullmatch(text) else text


def _written(name: str | os.PathLike[str]) -> str:
    return name if isinstance(name, str) else Path(name).as_posix()
