"""Several requests to an index's server as one read. Loads no torch.

A server that orders writes by its own clock makes a read wait until it knows all writes up to the read's time. Requests
of one read name the same time, so only the first of them waits. Engines without such a clock need nothing of this.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Hashable, Iterator
from contextvars import ContextVar


class Read:
    """One read: the times of the servers that it has asked so far.

    Attributes:
        over: whether it has ended. Threads and tasks that outlive it may still have it in their context.
    """

    def __init__(self) -> None:
        self.times: dict[Hashable, int] = {}
        self.over = False

    @contextlib.contextmanager
    def going_on(self) -> Iterator[None]:
        """What is read inside belongs to this read, unless it belongs to another one already. For generators, which
        enter it for each of their parts: the caller may write between them."""
        if _active() is not None:
            yield
            return
        token = _READ.set(self)
        try:
            yield
        finally:
            _READ.reset(token)


_READ: ContextVar[Read | None] = ContextVar("puma_read", default=None)


@contextlib.contextmanager
def one_read() -> Iterator[None]:
    """What is read from indexes inside is one read: all of it sees every write that was done before the first request.
    A read inside another one is part of that. Writing inside ends it: what is read after a write sees that write.

    Examples:
        >>> clock = iter([7, 8, 9])
        >>> def now():
        ...     return time_of_read("server", lambda: next(clock))
        >>> with one_read():
        ...     [now(), now()]
        ...     end_read()
        ...     now()
        [7, 7]
        >>> with one_read():
        ...     now()
        8
    """
    read = Read()
    try:
        with read.going_on():
            yield
    finally:
        read.over = True


def end_read() -> None:
    """From here on each request sees all writes that were done before it. Called before every write."""
    read = _READ.get()
    if read is not None:
        read.over = True


def time_of_read(server: Hashable, look: Callable[[], int | None]) -> int | None:
    """The time that all requests of this read to one server name; None outside of a read.

    Args:
        server: which one.
        look: asks the server for its time; None where it does not tell it.
    """
    read = _active()
    if read is None:
        return None
    if server not in read.times:
        now = look()
        if now is None:
            return None
        read.times.setdefault(server, now)  # another thread of the same read may have been faster
    return read.times[server]


def _active() -> Read | None:
    read = _READ.get()
    return None if read is None or read.over else read
