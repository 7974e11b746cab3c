"""The engine of ``milvus://`` addresses: rows, search and upkeep. Loads no torch.

Reads are strongly consistent: they see every row that any client's write has been acknowledged for. Milvus has no lock
between clients: what one client writes in several requests another may see half, and both may write at once. So the
order of writes (:mod:`puma.index.writer`) and keys made of what is stored leave nothing behind that a repetition of the
same call does not set right.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from puma.errors import StorageError
from puma.index.generations import sealed
from puma.index.interface import NewRow
from puma.index.milvus import verifying
from puma.index.milvus.collections import create, described, load, row_entity
from puma.index.milvus.companions import Sources, Stamps, Thumbnails
from puma.index.milvus.connection import AT_ONCE, Address, Server
from puma.index.milvus.expressions import hexed, one_of, unhexed
from puma.index.milvus.generations import MilvusGenerations
from puma.index.milvus.names import companions_of, sealed_alias
from puma.index.milvus.reader import FLAT_ROWS, MilvusReader
from puma.index.tables import parts_of
from puma.index.writer import RowWriter

REQUEST_BYTES = 16 * 2**20
ROWS_A_REQUEST = 1000


class MilvusEngine(MilvusReader, RowWriter):
    """See :class:`puma.index.interface.Engine`.

    Args:
        server: the server with the index.
        about: what :func:`puma.index.milvus.collections.described` says of it.
    """

    def __init__(self, server: Server, about: dict[str, Any]) -> None:
        super().__init__(server, int(about["dim"]))
        self.fingerprint = about["fingerprint"]
        self._thumbnails, self._sources, self._stamps = Thumbnails(server), Sources(server), Stamps(server)
        load(server, self.name)

    # Writing

    @contextlib.contextmanager
    def _locked(self, upgrade: bool = True) -> Iterator[None]:
        """Milvus has no lock: only whether the rows are still those that count is looked at, before and after."""
        self._refuse_sealed("nothing was written")
        yield
        self._refuse_sealed("what was just written is not in it")

    def _refuse_sealed(self, consequence: str) -> None:
        aliases = self.server.aliases(self.name)
        if aliases is None or sealed_alias(self.name) in aliases:
            raise sealed(self.server.address.shown, consequence)

    def take_companions(self, other: Any, ids: Collection[str]) -> None:
        other._places.forget()  # what others have added just now counts too
        super().take_companions(other, ids)

    def _merge_rows(self, rows: Sequence[NewRow]) -> None:
        entities = [row_entity(row) for row in rows]  # all, before the first is sent: one that cannot be stored raises
        most = max(1, min(ROWS_A_REQUEST, REQUEST_BYTES // (8 * self.dim + 4096)))
        for part in parts_of(entities, most):
            self.server.write(self.name, part)
        self._sampler.forget()

    def _delete_rows(self, ids: Sequence[str]) -> int:
        gone = self.server.drop(self.name, map(hexed, ids))
        self._sampler.forget()
        return gone

    def _held(self, contents: Collection[str]) -> set[str]:
        found: set[str] = set()
        for part in parts_of(sorted(map(hexed, contents)), AT_ONCE):
            for page in self.server.rows(self.name, one_of("content", part), ["content"]):
                found.update(unhexed(row["content"]) for row in page)
        return found

    # Upkeep

    def verify(self) -> list[str]:
        return verifying.faults(self.server, self._thumbnails, self._places)

    def optimize(self) -> None:
        """Finish segments, so that the server indexes what they hold; it joins them by itself."""
        if not self.server.address.is_file:
            self.server.call(lambda: self.server.client.flush(self.name, timeout=10 * self.server.seconds))

    def compact(self) -> dict[str, int]:
        ids: set[str] = set()
        contents: set[str] = set()
        for page in self.server.rows(self.name, "", ["content"]):
            ids.update(unhexed(row["key"]) for row in page)
            contents.update(unhexed(row["content"]) for row in page)
        self._places.drop_ids(self._places.values("id") - ids)
        dropped = {
            "thumbnails_dropped": self._thumbnails.drop(self._thumbnails.values("content") - contents),
            "sources_dropped": self._sources.drop_ids(self._sources.values("id") - ids),
        }
        self._stamps.drop(self._stamps.values("source") - self._sources.values("source"))
        self.optimize()
        if not self.server.address.is_file:
            for name in (self.name, companions_of(self.name)):
                try:
                    self.server.call(lambda name=name: self.server.client.compact(name, timeout=self.server.seconds))  # type: ignore[misc]
                except StorageError as error:  # the server is at it already, or puts it off
                    logging.getLogger(__name__).info("%s", error)
        return dropped

    def stats(self) -> dict[str, Any]:
        return {
            "engine": "milvus",
            "server": self.server.version,
            "search": "ivf_flat" if self._rows_about() > FLAT_ROWS else "exact",
            "indexed_rows": self._rows_about(),
            "thumbnails": self._thumbnails.rows(),
            "sources": self._sources.rows(),
            "places": self._places.rows(),
        }


def open_table(where: Path | str) -> MilvusEngine | None:
    """The engine on an existing index; None where the server has none of this name.

    Raises:
        StorageError: no server answers, or it refuses the token.
        InputError: the address is none, or the collection of this name is no index.
        IndexMismatchError: the index is of a newer format.
        DependencyError: pymilvus is not installed.
    """
    address = Address.parse(str(where))
    if address.is_file and not Path(address.uri).exists():
        return None
    server = Server(address)
    return _opened(server.at(server.current_rows()))


def create_table(where: Path | str, dim: int, fingerprint: str | None) -> MilvusEngine:
    """Make an empty index; if another client was faster, open what it made.

    Raises:
        StorageError, InputError, DependencyError: as :func:`open_table`.
    """
    server = Server(Address.parse(str(where)))
    server = server.at(server.current_rows())
    made = _opened(server)
    if made is None:
        create(server, dim, fingerprint)
        made = _opened(server)
    assert made is not None
    return made


def generations(where: Path | str) -> MilvusGenerations:
    """The models that the index has or had."""
    return MilvusGenerations(Server(Address.parse(str(where))), _opened)


def _opened(server: Server) -> MilvusEngine | None:
    about = described(server)
    return None if about is None else MilvusEngine(server, about)
