"""What each request to a Milvus server is given from the environment: how long it may take, which writes it must see.
Loads no pymilvus.
"""

from __future__ import annotations

import os

from puma.errors import InputError

TIMEOUT, CONSISTENCY = "PUMA_MILVUS_TIMEOUT", "PUMA_MILVUS_CONSISTENCY"
STRONG = "Strong"
LEVELS = (STRONG, "Session", "Bounded", "Eventually")
"""Of consistency, strongest first: the default sees every acknowledged write, and waits for a server's time tick."""
SECONDS = 30.0
"""How long a request may take; :data:`TIMEOUT` in the environment is another number."""


def level() -> str:
    """The consistency of reads.

    Raises:
        InputError: the environment names none.
    """
    given = os.environ.get(CONSISTENCY, STRONG)
    if given not in LEVELS:
        raise InputError(f"{CONSISTENCY}={given!r}: give one of {', '.join(LEVELS)}")
    return given


def seconds() -> float:
    """How long a request may take.

    Raises:
        InputError: the environment gives no number above 0.
    """
    text = os.environ.get(TIMEOUT, "")
    try:
        given = float(text) if text else SECONDS
    except ValueError:
        given = 0.0
    if not 0 < given < 86_400:
        raise InputError(f"{TIMEOUT}={text!r}: give a number of seconds above 0")
    return given
