"""The address a service listens at, bound before anything slow is done. Loads no torch, no FastAPI."""

from __future__ import annotations

import os
import socket

from puma.errors import InputError, PumaError


class PortTakenError(PumaError):
    """The address cannot be had: another program listens there, or it is not this machine's."""


def bound_socket(host: str, port: int) -> socket.socket:
    """A socket bound to this address, not yet listening. Port 0 picks a free one.

    Raises:
        InputError: no such host. PortTakenError: it cannot be bound.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (socket.gaierror, UnicodeError):
        raise InputError(f"--host {host!r}: no such host; 127.0.0.1 serves this machine only") from None
    made = socket.socket(family, kind, protocol)
    try:
        if os.name == "posix":  # elsewhere it would let two programs have one port
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(address)
    except OSError as error:
        made.close()
        where = f"{host} port {port}"
        raise PortTakenError(
            f"{where}: {error.strerror}; choose another with --port (0 picks a free one) or --host"
        ) from None
    return made


def address_of(bound: socket.socket, host: str) -> str:
    """The address to type into a browser."""
    port = bound.getsockname()[1]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"
