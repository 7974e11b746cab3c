"""Generations of an index on Milvus: collections of its own for each model, and an alias of those that count. Loads no
torch.

Milvus has no lock that would keep writers out while the alias is moved. Instead the old rows get an alias that seals
them, and a writer calls its write done only if there is none afterwards. A write that was done before is seen by every
strongly consistent read that begins after the sealing; one that was not raises an error for its writer.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

from puma.errors import StorageError
from puma.index.generations import Generation, Generations
from puma.index.interface import Engine
from puma.index.milvus.collections import create, described, note, noted
from puma.index.milvus.connection import Server
from puma.index.milvus.names import companions_of, current_alias, number_of, rows_of_generation, sealed_alias
from puma.index.milvus.requests import STRONG
from puma.index.reads import end_read

FILLING = "filling"
"""The key of the companion that says what is being filled."""


class MilvusGenerations(Generations):
    """Those of one index.

    Args:
        server: the server, with the index's own name.
        opened: opens the engine on the collections of a name; None where there are none.
    """

    def __init__(self, server: Server, opened: Callable[[Server], Engine | None]) -> None:
        super().__init__(server.address.shown)
        # A read that may miss a row would lose it, whatever consistency searches are content with.
        self.index, self.server = server.address.name, server.at(server.address.name, STRONG)
        self._opened = opened
        self._known: dict[int, Generation] = {}

    def current(self) -> Generation:
        number = number_of(self.server.current_rows())
        return Generation(1) if number == 1 else self._generation(number)

    def filling(self) -> Generation | None:
        found = noted(self.server.at(self.server.current_rows()), FILLING)
        return None if found is None else Generation(**json.loads(found))

    def begin(self, model: str, fingerprint: str) -> Generation:
        made = Generation(self.current().number + 1, model, fingerprint)
        note(self.server.at(self.server.current_rows()), FILLING, json.dumps(asdict(made)))
        return made

    def open(self, generation: Generation) -> Engine:
        server = self._server(generation.number)
        engine = self._opened(server)
        if engine is None:
            raise StorageError(f"{self.shown}: the server has no collection {server.address.name!r}")
        return engine

    def make(self, generation: Generation, dim: int) -> Engine:
        create(self._server(generation.number), dim, generation.fingerprint, generation.model)
        return self.open(generation)

    @contextlib.contextmanager
    def closed(self, generation: Generation) -> Iterator[None]:
        rows = rows_of_generation(self.index, generation.number)
        self._seal(rows)
        end_read()
        try:
            if self.current().number != generation.number:
                raise self.superseded()
            yield
        except BaseException:
            if self.current().number == generation.number:
                self._call("drop_alias", sealed_alias(rows))
            raise

    def _seal(self, rows: str) -> None:
        """Nothing is changed where a killed call, or another one, did it before."""
        alias = sealed_alias(rows)
        try:
            self._call("create_alias", rows, alias)
        except StorageError:
            if alias not in (self.server.aliases(rows) or ()):
                raise

    def switch(self, generation: Generation) -> None:
        rows, alias = rows_of_generation(self.index, generation.number), current_alias(self.index)
        before = self.server.current_rows()
        self._call("create_alias" if self.server.target(alias) is None else "alter_alias", rows, alias)
        self.server.drop(companions_of(before), [FILLING])

    def abandon(self) -> None:
        unfinished, rows = self.filling(), self.server.current_rows()
        if unfinished is not None and unfinished.number > self.current().number:
            self._drop(unfinished.number)
        self.server.drop(companions_of(rows), [FILLING])
        if sealed_alias(rows) in (self.server.aliases(rows) or ()):
            self._call("drop_alias", sealed_alias(rows))

    def drop_old(self) -> list[str]:
        return [name for number in range(1, self.current().number) for name in self._drop(number)]

    def _drop(self, number: int) -> list[str]:
        """Remove a generation's collections; their names. The rows go last: while they are there it can be repeated."""
        rows, gone = rows_of_generation(self.index, number), []
        for name in (companions_of(rows), rows):
            if self._call("has_collection", name):
                for alias in self.server.aliases(name) or ():
                    self._call("drop_alias", alias)
                self._call("drop_collection", name)
                gone.append(name)
        return gone

    def _generation(self, number: int) -> Generation:
        if number not in self._known:
            about = described(self._server(number)) or {}
            self._known[number] = Generation(number, about.get("model", ""), about.get("fingerprint") or "")
        return self._known[number]

    def _server(self, number: int) -> Server:
        return self.server.at(rows_of_generation(self.index, number))

    def _call(self, name: str, *arguments: str) -> Any:
        return self.server.call(lambda: getattr(self.server.client, name)(*arguments, timeout=self.server.seconds))
