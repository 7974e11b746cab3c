"""The few threads in which everything runs that blocks: reads and writes of indexes, checks of images."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from puma.serve.queue import BusyError, WaitedTooLongError
from puma.serve.settings import ServeSettings

P = ParamSpec("P")
T = TypeVar("T")


class Workers:
    """A pool of threads, with a bound on what waits for them.

    Args:
        settings: its ``workers``, ``max_queue`` and ``timeout_s`` count here.
    """

    def __init__(self, settings: ServeSettings) -> None:
        self.settings = settings
        self._pool = ThreadPoolExecutor(settings.workers, thread_name_prefix="puma-index")
        self._pending = 0

    async def blocking(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run what blocks in one of the threads.

        Raises:
            BusyError: too much is waiting for them. WaitedTooLongError: it took too long; it may still be done.
        """
        if self._pending >= self.settings.max_queue:
            raise BusyError(f"{self._pending} calls are waiting for the indexes; try again later")
        self._pending += 1
        try:
            context = contextvars.copy_context()  # what belongs to the request goes along (puma.index.reads)
            work = asyncio.get_running_loop().run_in_executor(
                self._pool, lambda: context.run(function, *args, **kwargs)
            )
        except BaseException:
            self._pending -= 1
            raise
        work.add_done_callback(self._returned)
        done, _ = await asyncio.wait({work}, timeout=self.settings.timeout_s)
        if not done:
            work.cancel()
            raise WaitedTooLongError(f"no answer within {self.settings.timeout_s:g} s; the service is busy, try later")
        return work.result()

    def close(self) -> None:
        """Finish what was accepted, end the threads."""
        self._pool.shutdown()

    def _returned(self, work: asyncio.Future) -> None:
        self._pending -= 1
        if not work.cancelled():
            work.exception()  # retrieved: the caller may be gone
