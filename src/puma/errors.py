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
    └── StorageError                      a full disk, a folder that cannot be written

Each message names the thing, its value and the remedy. The command line prints it without a traceback and exits with
``exit_code``: 2 for what the user can mend in the command, 1 for what lies with the machine.
"""

from __future__ import annotations


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
    """The disk is full, or a folder cannot be written."""


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its class's name."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
