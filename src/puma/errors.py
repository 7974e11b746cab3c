"""Every error that PUMA raises on purpose. What is not in this tree is a defect in PUMA, not a message to its user.

::

    PumaError
    ├── InputError (also a ValueError)    an argument, a flag, a query: the caller can mend it
    │   ├── ImageError                    one image that cannot or must not be decoded
    │   ├── ConfigError                   a recipe or a training configuration, all faults together
    │   └── DataError                     a data set's file: names the file and the line
    ├── ModelError                        a model folder that is unfinished, unsuitable, or not what it says
    ├── IndexMismatchError                vectors of another model than the index was made with
    ├── DependencyError                   a program or a Python package that is not installed
    ├── DownloadError                     no network, no such package, wrong checksum
    └── StorageError                      a full disk, a folder that cannot be written, a store that refuses

Each message names the thing, its value and the remedy. The command line prints it without a traceback and exits with
``exit_code``: 2 for what the user can mend in the command, 1 for what lies with the machine.

:data:`EXTRAS` tells which optional packages each extra of the installation brings; :func:`require` checks for them.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec

DISTRIBUTION = "puma-retrieval"
"""The package's name for pip."""
_TRAIN = ("accelerate", "datasets", "peft", "sentence_transformers")
EXTRAS = {
    "serve": ("fastapi", "fastapi_offline", "httptools", "prometheus_client", "python_multipart", "uvicorn"),
    "train": _TRAIN,
    "mini": (*_TRAIN, "resvg_py", "scipy"),
    "plot": ("matplotlib",),
    "onnx": ("onnx", "onnxruntime", "onnxscript"),
    "pdf": ("pypdfium2",),
    "heic": ("pillow_heif",),
    "smolvlm": ("num2words",),
    "quantised": ("accelerate", "bitsandbytes"),
    "mteb": ("mteb",),
    "langchain": ("langchain_core",),
    "llama-index": ("llama_index",),
    "ray": ("ray",),
    "milvus": ("pymilvus",),
    "object-store": ("obstore",),
}
"""The modules that each extra of the installation must bring, as ``pyproject.toml`` declares them."""


NEEDS_WEIGHTS = ("torch", "torchvision", "transformers", "gguf", "huggingface_hub")
"""Base packages that an installation without torch (docs/export.md) does without."""


class PumaError(Exception):
    """The root of everything raised on purpose."""

    exit_code = 1


class InputError(PumaError, ValueError):
    """An argument's value is not usable."""

    exit_code = 2


class ImageError(InputError):
    """An image is missing, unreadable, or beyond the safety limits."""


class ConfigError(InputError):
    """A configuration has faults; the message lists all of them."""


class DataError(InputError):
    """A data file does not follow its layout; the message names file and line."""


class ModelError(PumaError, ValueError):
    """A model or model folder cannot be used for what was asked."""

    exit_code = 2


class IndexMismatchError(InputError):
    """An index was made by another model, or holds another kind of vector."""


class DependencyError(PumaError):
    """A program or package that this step needs is not installed."""


class DownloadError(PumaError):
    """A package could not be fetched, or is not the one expected."""


class StorageError(PumaError):
    """The disk is full, a folder cannot be written, or a server or an object store cannot be used."""


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its class's name."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def install_command(extra: str) -> str:
    """The command that installs an extra: ``pip install 'puma-retrieval[serve]'``.

    Args:
        extra: a key of :data:`EXTRAS`.
    """
    if extra not in EXTRAS:
        raise KeyError(f"extra {extra!r}: pyproject.toml and EXTRAS have {', '.join(EXTRAS)}")
    return f"pip install '{DISTRIBUTION}[{extra}]'"


def require(purpose: str, extra: str, *modules: str) -> None:
    """Check that optional packages are installed, without importing them.

    Args:
        purpose: what needs them; begins the message.
        extra: the key of :data:`EXTRAS` that brings them.
        modules: those needed; all of the extra's if none is given.

    Raises:
        DependencyError: some cannot be found; the message names them and the command that installs them.
    """
    missing = [name for name in modules or EXTRAS[extra] if not is_installed(name)]
    if missing:
        verb = "is" if len(missing) == 1 else "are"
        raise DependencyError(
            f"{purpose} needs {', '.join(missing)}, which {verb} not installed: {install_command(extra)}"
        )


def extra_of(module: str) -> str | None:
    """The extra that brings a module (dotted names too); the first in :data:`EXTRAS` of several, None if none does."""
    top = module.split(".")[0]
    return next((extra for extra, modules in EXTRAS.items() if top in modules), None)


def is_installed(name: str) -> bool:
    """Whether a module can be found; it is not imported."""
    return sys.modules[name] is not None if name in sys.modules else find_spec(name) is not None
