"""Each request to the service is one read of the indexes, whichever thread reads for it."""

from __future__ import annotations

import asyncio
import itertools

from puma.index.reads import time_of_read
from puma.serve.reading import OneReadEach
from puma.serve.settings import ServeSettings
from puma.serve.workers import Workers


def test_what_a_request_reads_in_several_threads_is_of_one_time():
    clock, times, workers = itertools.count(), [], Workers(ServeSettings(workers=2))

    def look():
        return time_of_read("server", lambda: next(clock))

    async def app(scope, receive, send):
        both = asyncio.gather(workers.blocking(look), workers.blocking(look))
        times.append([look(), *await both])

    async def run():
        layer = OneReadEach(app)
        for kind in ("http", "http", "lifespan"):
            await layer({"type": kind}, None, None)

    asyncio.run(run())
    workers.close()
    assert times == [[0, 0, 0], [1, 1, 1], [None, None, None]]
