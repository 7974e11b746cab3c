"""An object store in this process (obstore's own), for tests of what is read from one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from puma.items import objects
from puma.storage import object_files

ROOT = "s3://bucket"


class Bucket:
    """``s3://bucket``, whose requests for contents are noted in ``got``, those for versions in ``asked``."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import obstore
        from obstore.store import MemoryStore

        self.store = MemoryStore()
        self.got: list[str] = []
        self.asked: list[str] = []
        for module in (objects, object_files):
            monkeypatch.setattr(module, "store_of", self.store_of)
        get, head = obstore.get, obstore.head
        monkeypatch.setattr(obstore, "get", lambda store, key, **more: self.got.append(key) or get(store, key, **more))
        monkeypatch.setattr(obstore, "head", lambda store, key: self.asked.append(key) or head(store, key))

    def store_of(self, url: str) -> Any:
        assert url == ROOT, url
        return self.store

    def upload(self, folder: Path, key: str) -> str:
        """All files below a folder, below a key; returns its address."""
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                self.put(f"{key}/{path.relative_to(folder).as_posix()}", path.read_bytes())
        return f"{ROOT}/{key}"

    def put(self, key: str, data: bytes) -> None:
        import obstore

        obstore.put(self.store, key, data)

    def delete(self, key: str) -> None:
        import obstore

        obstore.delete(self.store, key)
