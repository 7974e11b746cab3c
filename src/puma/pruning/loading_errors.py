"""What transformers raises on a damaged folder or a missing package, as errors that name the folder and the remedy."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator

from puma.errors import InputError, ModelError, extra_of, first_line, install_command

PACKAGES = ("num2words", "bitsandbytes")
"""Packages that a model family needs, and that an extra of the installation brings."""


@contextlib.contextmanager
def loading_errors(what: str, path: str | os.PathLike[str], *, attn: str | None = None) -> Iterator[None]:
    """Within the block transformers is quiet, and what it raises becomes an error that names the folder."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    except (InputError, ModelError, MemoryError):
        raise
    except ImportError as error:
        if attn is not None and "attention" in attn and re.search("flash", str(error), re.IGNORECASE):
            raise InputError(
                f"attn={attn!r} cannot be used here ({first_line(error)}): pip install flash-attn, or give sdpa"
            ) from None
        extra = next((extra_of(name) for name in PACKAGES if name in str(error)), None)
        remedy = f": {install_command(extra)}" if extra else f" ({first_line(error)})"
        raise ModelError(f"{what} {os.fspath(path)!r} needs a package that is not installed{remedy}") from None
    except Exception as error:  # transformers and safetensors raise almost anything on a damaged folder
        raise ModelError(f"{what} {os.fspath(path)!r} cannot be loaded: {first_line(error)}") from None
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
