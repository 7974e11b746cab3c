"""A Milvus server as the engine sees it: its address, one client, and failures as messages for the user. Loads no torch
and, until a server is called, no pymilvus.
"""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

from puma.errors import InputError, PumaError, StorageError
from puma.index.milvus.clients import client_of
from puma.index.milvus.expressions import one_of
from puma.index.milvus.names import current_alias, is_reserved
from puma.index.milvus.requests import STRONG, level, seconds
from puma.index.milvus.tls import handshake_failure, tls_options
from puma.index.milvus.versions import LEAST, is_too_old, knows_iterators
from puma.index.reads import end_read, time_of_read
from puma.index.tables import parts_of

PORT = 19530
TOKEN = "PUMA_MILVUS_TOKEN"
AT_ONCE = 1000
"""Rows a request, and values an expression."""
PAGE = 4096
"""Rows a query returns at most (a server refuses more than 16,384)."""
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,200}")

T = TypeVar("T")


@dataclass(frozen=True)
class Address:
    """A parsed address.

    Args:
        uri: what the client connects to: a URL, or the file of Milvus Lite.
        database: the server's database; empty for its default one.
        name: the collection's.
        token: ``user:password`` or an API key; never shown.
        shown: the address without secrets, for messages.
    """

    uri: str
    database: str
    name: str
    token: str
    shown: str

    @property
    def is_file(self) -> bool:
        """Whether it is a file of Milvus Lite, without a server of its own."""
        return "://" not in self.uri

    @property
    def is_secure(self) -> bool:
        """Whether it is spoken to over TLS."""
        return self.uri.startswith("https://")

    @classmethod
    def parse(cls, text: str) -> Address:
        """``milvus://[user:password@]host[:port]/[database/]name``, ``milvus+https://...``, or ``milvus-lite:///name``
        with the path of a file that need not exist; it gets the ending ``.db``.

        Raises:
            InputError: it is none of these.
        """
        form = "milvus://HOST:PORT/NAME"
        try:
            parts = urlsplit(text)
            port = parts.port
        except ValueError as error:
            raise InputError(f"index address {text.rpartition('@')[2]!r}: {error}; write {form}") from None
        folders, _, name = parts.path.rpartition("/")
        shown = f"{parts.scheme}://{text.partition('://')[2].rpartition('@')[2]}"
        name = name.removesuffix(".index")
        if not _NAME.fullmatch(name):
            raise InputError(
                f"index address {shown!r}: the name {name!r} must be letters, digits and underscores, and begin with "
                f"no digit, as a collection's does; write {form}"
            )
        if is_reserved(name):
            raise InputError(
                f"index address {shown!r}: the name {name!r} ends like those that 'puma index migrate' gives; choose "
                "another"
            )
        if parts.scheme == "milvus-lite":
            if parts.netloc:
                raise InputError(f"index address {shown!r}: three slashes are needed: milvus-lite:///folder/name")
            return cls(f"{parts.path.removesuffix('.index')}.db", "", name, "", shown)
        database = folders.strip("/")
        if not parts.hostname or "/" in database:
            raise InputError(f"index address {shown!r}: write {form}, or milvus://HOST:PORT/DATABASE/NAME")
        secure = "https" if parts.scheme == "milvus+https" else "http"
        token = os.environ.get(TOKEN, "")
        if parts.username:
            token = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        return cls(f"{secure}://{host}:{port or PORT}", database, name, token, shown)


class Server:
    """One server, by one client that all threads share.

    Raises:
        DependencyError: pymilvus is not installed.
        StorageError: no server answers at the address, its certificate is not trusted, or it refuses the token.
        InputError: the server is too old; or as :func:`puma.index.milvus.tls.tls_options`.
    """

    def __init__(self, address: Address) -> None:
        self.address = address
        self.seconds, self.level = seconds(), level()
        secure = tuple(tls_options(address.shown).items()) if address.is_secure else ()
        self._client = client_of(address.uri, address.token, address.database, self.seconds, secure)
        self.version = self.call(lambda: "lite" if address.is_file else str(self.client.get_server_version()))
        if is_too_old(self.version):
            raise InputError(f"{address.shown}: the server is Milvus {self.version}; {LEAST} or newer is needed")

    @property
    def client(self) -> Any:
        """pymilvus' client; for use inside :meth:`call`."""
        return self._client.get()

    def at(self, name: str, level: str | None = None) -> Server:
        """The same server with another collection, and perhaps another consistency."""
        other = copy.copy(self)
        other.address, other.level = replace(self.address, name=name), level or self.level
        return other

    def target(self, alias: str) -> str | None:
        """The collection of an alias; None where there is no such alias."""

        def look() -> str | None:
            try:
                return str(self.client.describe_alias(alias, timeout=self.seconds)["collection_name"])
            except Exception as error:
                if re.search(r"alias not found|alias \S+ does not exist", str(error)):  # a server, and Milvus Lite
                    return None
                raise

        return self.call(look)

    def current_rows(self) -> str:
        """The collection of the rows that count, of the index whose name this server has."""
        return self.target(current_alias(self.address.name)) or self.address.name

    def aliases(self, collection: str) -> list[str] | None:
        """The aliases of a collection; None where it is gone."""
        if not self.call(lambda: self.client.has_collection(collection, timeout=self.seconds)):
            return None
        return list(self.call(lambda: self.client.list_aliases(collection, timeout=self.seconds))["aliases"])

    def call(self, work: Callable[[], T]) -> T:
        """Run a request; what is wrong becomes a message that names the address."""
        try:
            return work()
        except PumaError:
            raise
        except Exception as error:  # pymilvus raises its own kinds, grpc's, and ValueErrors
            raise self._error(error) from None

    @property
    def is_strong(self) -> bool:
        """Whether a read must see every write that was done before it."""
        return self.level == STRONG

    def consistency(self, several: bool = False) -> dict[str, Any]:
        """Which writes a request must see: the options that pymilvus takes.

        Args:
            several: whether these options are for several requests, or for one that the server makes into several. They
                name a time then, as within :func:`puma.index.reads.one_read`: without it each request would wait.
        """
        if self.is_strong and not self.address.is_file:
            look = partial(self.call, self._client.time)
            now = time_of_read(self._client, look) or (look() if several else None)
            if now is not None:
                return {"consistency_level": "Customized", "guarantee_timestamp": now}
        return {"consistency_level": self.level}

    def rows(self, collection: str, condition: str, fields: Sequence[str], most: int | None = None) -> Iterator[Any]:
        """Rows in the order of their keys, a list at a time: ``key`` and these fields.

        Args:
            condition: an expression; empty for all.
            most: rows at most in all; None for no bound.
        """
        left, last, seen = most, "", self.consistency(several=True)
        while left is None or left > 0:
            after = f'key > "{last}"' if last else 'key >= ""'
            limit = PAGE if left is None else min(PAGE, left)
            whole = f"({condition}) and {after}" if condition else after
            found = self.query(collection, whole, fields, limit, seen)[:left]
            if not found:  # fewer than `limit` need not be the last ones
                return
            yield found
            last = found[-1]["key"]
            left = None if left is None else left - len(found)

    def query(
        self,
        collection: str,
        condition: str,
        fields: Sequence[str],
        limit: int,
        in_order: dict[str, Any] | None = None,
    ) -> list[Any]:
        """Rows that fit: all, where at most ``limit`` do.

        Args:
            in_order: the first ones by key, one at least where there are any, with these options from
                :meth:`consistency`. ``limit`` holds for each of the server's segments, and it stops where one has no
                more: there may be more or fewer than that.
        """
        if in_order is None:
            options = self.consistency()
        else:
            marked = {"iterator": "True"} if knows_iterators(self.version) else {}
            options = {"reduce_stop_for_best": "True", **marked, **in_order}
        return self.call(
            lambda: sorted(
                self.client.query(
                    collection,
                    filter=condition,
                    output_fields=["key", *fields],
                    limit=limit,
                    timeout=self.seconds,
                    **options,
                ),
                key=lambda row: str(row["key"]),
            )
        )

    def count(self, collection: str, condition: str) -> int:
        """How many rows fit."""
        seen = self.consistency()
        found = self.call(
            lambda: self.client.query(
                collection, filter=condition, output_fields=["count(*)"], timeout=self.seconds, **seen
            )
        )
        return int(found[0]["count(*)"])

    def write(self, collection: str, rows: Sequence[dict[str, Any]]) -> None:
        """Insert rows or replace those of the same key, in one request."""
        end_read()
        if rows:
            self.call(lambda: self.client.upsert(collection, list(rows), timeout=self.seconds))

    def drop(self, collection: str, keys: Iterable[str]) -> int:
        """Remove rows by key; how many there were."""
        gone = 0
        for part in parts_of(sorted(set(keys)), AT_ONCE):
            gone += len(self.query(collection, one_of("key", part), [], len(part)))
            end_read()
            self.call(lambda part=part: self.client.delete(collection, ids=part, timeout=self.seconds))  # type: ignore[misc]
        return gone

    def _error(self, error: Exception) -> PumaError:
        text = " ".join(str(getattr(error, "message", "") or error).split())
        low, shown = f"{text} {_causes(error)}".lower(), self.address.shown
        failed = handshake_failure(f"{text} {_causes(error)}") if self.address.is_secure else None
        if failed is not None:
            self._client.give_up()
            return StorageError(f"{shown}: no connection to the Milvus server: {failed}")
        if "unimplemented" in low:
            return InputError(
                f"{shown}: what answers there is no Milvus of {LEAST} or newer, which is needed: it does not know a "
                f"request; upgrade it, or correct the port ({text[:200]})"
            )
        if any(word in low for word in ("unauthenticated", "auth check", "permission deny", "permissiondenied")):
            return StorageError(f"{shown}: the server refuses the user or token; set {TOKEN}=user:password")
        if "database not found" in low:
            return InputError(f"{shown}: the server has no database {self.address.database!r}; make it there first")
        away = ("fail connecting", "unavailable", "deadline", "timeout", "timed out", "refused", "not ready", "closed")
        if any(word in low for word in away) or type(error).__name__ in ("RpcError", "ConnectionNotExistException"):
            self._client.give_up()
            # So ends, at once, a plain connection to a port of TLS.
            tls = " (if it talks TLS, write milvus+https://)" if "socket closed" in low else ""
            return StorageError(
                f"{shown}: no answer from the Milvus server within {self.seconds:g} s; start it or correct the "
                f"address{tls}, then repeat: what was added before is safe ({text[:200]})"
            )
        return StorageError(f"{shown}: Milvus cannot do this ({text[:300]})")


def _causes(error: BaseException, most: int = 5) -> str:
    """What lies behind an error: pymilvus says of a refused token only that it could not connect."""
    found: list[str] = []
    cause = error.__cause__ or error.__context__
    while cause is not None and len(found) < most:  # they may go round in a circle
        found.append(str(cause))
        cause = cause.__cause__ or cause.__context__
    return " ".join(found)
