"""A folder in an object store (S3, Google Cloud, Azure) as the tables of an index use it. Loads no torch.

LanceDB commits a table's new version by a conditional put, so two writers never tear one table. What belongs together
in several tables is kept apart by a lease: an object that is made only if it is not there, and renewed while it is
held. A writer that was killed leaves it behind; whoever waits takes it over when it has not been renewed for
:data:`LEASE_SECONDS` by the waiting machine's own clock, so clocks need not agree.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from puma.errors import PumaError, StorageError
from puma.storage import object_stores
from puma.storage.object_stores import store_of

LEASE_SECONDS = 60.0
DELETED_AT_ONCE = 1000

T = TypeVar("T")
_log = logging.getLogger(__name__)


def storage_options() -> dict[str, str]:
    """LanceDB's options: an error within seconds, instead of minutes of retries."""
    return {
        "connect_timeout": f"{object_stores.CONNECT_SECONDS}s",
        "request_timeout": f"{object_stores.REQUEST_SECONDS}s",
        "client_max_retries": str(object_stores.RETRIES),
        "client_retry_timeout": str(object_stores.RETRY_SECONDS),
        "allow_http": str(object_stores.without_tls()).lower(),
    }


class RemoteFolder:
    """All objects below ``scheme://bucket/name``. Credentials and endpoint come from the cloud's usual environment
    variables (``AWS_ACCESS_KEY_ID``, ``AWS_ENDPOINT_URL``, ...).

    Args:
        url: without a slash at its end.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")

    def __str__(self) -> str:
        return self.url

    __fspath__ = __str__

    def read(self, name: str) -> tuple[bytes, Any] | None:
        """An object's bytes and its tag; None where there is none."""
        import obstore

        def work(store: Any) -> tuple[bytes, Any] | None:
            try:
                found = obstore.get(store, name)
                return bytes(found.bytes()), found.meta["e_tag"]
            except FileNotFoundError:
                return None

        return self._requested(work)

    def write(self, name: str, data: bytes) -> None:
        """Make or replace an object."""
        import obstore

        self._requested(lambda store: obstore.put(store, name, data))

    def replace(self, name: str, data: bytes, tag: Any) -> bool:
        """Make an object, or replace the one with this tag, in one step; False where another is there now.

        Args:
            tag: as :meth:`read` gave it; None if there must be no such object yet.
        """
        import obstore
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        mode: Any = "create" if tag is None else {"e_tag": tag}

        def work(store: Any) -> bool:
            try:
                obstore.put(store, name, data, mode=mode)
            except (AlreadyExistsError, PreconditionError, FileNotFoundError):
                found = self.read(name)  # it may be ours, of a request whose answer was lost
                return found is not None and found[0] == data
            return True

        return self._requested(work)

    def remove(self, name: str) -> None:
        """Remove an object if there is one."""
        import obstore

        def work(store: Any) -> None:
            with contextlib.suppress(FileNotFoundError):
                obstore.delete(store, name)

        self._requested(work)

    def remove_below(self, name: str) -> None:
        """Remove all objects below a name."""
        import obstore

        names = list(self._names(name))
        for start in range(0, len(names), DELETED_AT_ONCE):
            part = names[start : start + DELETED_AT_ONCE]
            self._requested(lambda store, part=part: obstore.delete(store, part))  # type: ignore[misc]

    def names(self) -> set[str]:
        """What objects' names begin with, up to the first slash."""
        return {name.partition("/")[0] for name in self._names(None)}

    def is_dir(self) -> bool:
        """Always: an object store has no folders that could be missing."""
        return True

    def exists(self, table: str) -> bool:
        """Whether a table was ever finished there."""
        return any(True for _ in self._names(f"{table}.lance/_versions"))

    def others(self, *known: str) -> list[str]:
        """The first names there beside these tables and the leases."""
        return sorted(name for name in self.names() - set(known) if not name.startswith("."))[:3]

    def size(self) -> int:
        """Bytes of all objects."""
        return self._requested(lambda store: sum(int(one["size"]) for page in store.list() for one in page))

    @contextlib.contextmanager
    def locked(self, name: str, wait: float) -> Iterator[bool]:
        """Hold the lease of this name; yields False where another holds it and ``wait`` is 0.

        Raises:
            StorageError: it did not come free in ``wait`` seconds, or another writer took it while it was held.
        """
        lease = _Lease(self, name)
        if not lease.acquire(wait):
            if not wait:
                yield False
                return
            long = f"another process has been writing this index for {wait:.0f} seconds"
            raise StorageError(f"{self}: {long}; repeat when it has finished")
        try:
            yield True
        finally:
            lease.release()
        if lease.lost:
            raise StorageError(f"{self}: another writer came in between; repeat, which sets right what is torn")

    def _names(self, prefix: str | None) -> Iterator[str]:
        pages = self._requested(lambda store: iter(store.list(prefix)))
        while (page := self._requested(lambda _store: next(pages, None))) is not None:
            for one in page:
                name = str(one["path"])
                yield name

    def _requested(self, work: Callable[[Any], T]) -> T:
        try:
            return work(store_of(self.url))
        except PumaError:
            raise
        except Exception as error:
            if object_stores.is_store_error(error):
                raise object_stores.unusable(self, error) from None
            raise


class _Lease:
    """One holding of a lease. Its object holds a mark of its own, by which a renewal whose answer was lost is known."""

    def __init__(self, folder: RemoteFolder, name: str) -> None:
        self.folder, self.name = folder, name
        self.lost = False
        """Whether another writer took it while it was held."""
        self._mark, self._puts = f"{os.getpid()} {uuid.uuid4().hex}".encode(), 0
        self._tag: Any = None
        self._ended = threading.Event()
        self._renewing: threading.Thread | None = None

    def acquire(self, wait: float) -> bool:
        end = time.monotonic() + wait
        seen: Any = None
        since = time.monotonic()
        while True:
            dead = seen is not None and time.monotonic() - since > LEASE_SECONDS
            made = self.folder._requested(functools.partial(self._put, {"e_tag": seen} if dead else "create"))
            if made is not None:
                self._tag = made
                self._renewing = threading.Thread(target=self._renew, daemon=True, name="puma-lease")
                self._renewing.start()
                return True
            if time.monotonic() >= end:
                return False
            tag = self.folder._requested(self._present)
            if tag != seen:
                seen, since = tag, time.monotonic()
            time.sleep(min(0.2, max(0.0, end - time.monotonic())))

    def release(self) -> None:
        import obstore

        self._ended.set()
        if self._renewing is not None:
            self._renewing.join()
        # One that was taken over belongs to another now. If this fails, it is taken over when its time is up.
        with contextlib.suppress(Exception):
            store = store_of(self.folder.url)
            if not self.lost and self._present(store) == self._tag:
                obstore.delete(store, self.name)

    def _present(self, store: Any) -> Any:
        """The tag of the object that is there; None for none."""
        import obstore

        try:
            return obstore.head(store, self.name)["e_tag"]
        except FileNotFoundError:
            return None

    def _put(self, mode: Any, store: Any) -> Any:
        """The new tag; None where another was faster."""
        import obstore
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        # Another content each time: some stores make the tag of it, and waiting writers look for its change.
        self._puts += 1
        content = self._mark + b" %d" % self._puts
        try:
            return obstore.put(store, self.name, content, mode=mode)["e_tag"]
        except (AlreadyExistsError, PreconditionError, FileNotFoundError):
            return None

    def _own(self, store: Any) -> Any:
        """The tag of the object that is there, if it is this holding's; else None."""
        import obstore

        try:
            found = obstore.get(store, self.name)
            return found.meta["e_tag"] if bytes(found.bytes()).startswith(self._mark) else None
        except FileNotFoundError:
            return None

    def _renew(self) -> None:
        while not self._ended.wait(LEASE_SECONDS / 3):
            store = store_of(self.folder.url)
            try:
                # A renewal whose answer was lost has changed the tag all the same.
                made = self._put({"e_tag": self._tag}, store) or self._own(store)
            except Exception as error:  # the store is away for a moment: the next turn tries again
                _log.warning("%s: the lease %s was not renewed: %s", self.folder, self.name, error)
                continue
            if made is None:
                self.lost = True
                return
            self._tag = made
