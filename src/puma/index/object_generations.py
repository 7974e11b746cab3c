"""Generations of an index in an object store.

They lie as in a folder: the first at the index's address, later ones below it in ``gen-2``, ``gen-3``, and so on, and
``current.json`` names the one that opens. It is replaced by a conditional put, in one step.

A lease may be lost while it is held, so the change does not rest on it. As on Milvus the old rows are sealed, here by
an object, and a writer calls its write done only if there is no seal afterwards. A write that was done before is seen
by every read that begins after the sealing, since stores are strongly consistent. The seal stays when the rows are
gone: whoever still had them open must not write. Loads no torch.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

from puma.index.generation_notes import CURRENT, FILLING, name_of, noted_generation, number_of
from puma.index.generations import Generation, Generations, sealed
from puma.index.interface import Engine
from puma.index.remote import RemoteFolder


class GenerationFolder(RemoteFolder):
    """Where the tables of one generation are.

    Args:
        root: the index's folder.
        number: the generation's.
    """

    def __init__(self, root: RemoteFolder, number: int) -> None:
        super().__init__(root.url if number == 1 else f"{root.url}/{name_of(number)}")
        self.root, self.number = root, number

    @property
    def seal(self) -> str:
        """The name, in the root, of the object that closes this generation."""
        return f".sealed-{self.number}"

    def refuse_sealed(self, consequence: str) -> None:
        """Raise StorageError where the generation does not count any more, or is being closed."""
        if self.root.read(self.seal) is not None:
            raise sealed(str(self.root), consequence)


def current(root: RemoteFolder) -> Generation:
    """The generation that counts.

    Raises:
        StorageError: the object that names it cannot be read.
    """
    return _read(root, CURRENT)[0] or Generation(1)


class ObjectGenerations(Generations):
    """Those of an index in an object store.

    Args:
        root: the index's folder.
        opened: opens the tables in a folder.
        created: makes or opens those of a folder, with vectors of a length and a model's fingerprint.
    """

    def __init__(
        self,
        root: RemoteFolder,
        opened: Callable[[RemoteFolder], Engine],
        created: Callable[[RemoteFolder, int, str | None], Engine],
    ) -> None:
        super().__init__(str(root))
        self.root, self._opened, self._created = root, opened, created
        self._tag: Any = None

    def current(self) -> Generation:
        return current(self.root)

    def filling(self) -> Generation | None:
        return _read(self.root, FILLING)[0]

    def begin(self, model: str, fingerprint: str) -> Generation:
        made = Generation(self.current().number + 1, model, fingerprint)
        self.root.write(FILLING, _written(made))
        return made

    def open(self, generation: Generation) -> Engine:
        return self._opened(self._folder(generation.number))

    def make(self, generation: Generation, dim: int) -> Engine:
        return self._created(self._folder(generation.number), dim, generation.fingerprint)

    @contextlib.contextmanager
    def closed(self, generation: Generation) -> Iterator[None]:
        self.root.write(self._folder(generation.number).seal, b"")
        try:
            found, self._tag = _read(self.root, CURRENT)
            if (found or Generation(1)).number != generation.number:
                raise self.superseded()
            yield
        except BaseException:
            if self.current().number == generation.number:
                self.root.remove(self._folder(generation.number).seal)
            raise

    def switch(self, generation: Generation) -> None:
        if not self.root.replace(CURRENT, _written(generation), self._tag):
            raise self.superseded()
        self.root.remove(FILLING)

    def abandon(self) -> None:
        unfinished, used = self.filling(), self.current()
        if unfinished is not None and unfinished.number > used.number:
            self.root.remove_below(name_of(unfinished.number))
        self.root.remove(FILLING)
        self.root.remove(self._folder(used.number).seal)

    def drop_old(self) -> list[str]:
        newest, names = self.current(), sorted(self.root.names())
        gone = [] if newest.number == 1 else [name for name in names if name.endswith(".lance")]
        gone += [name for name in names if 1 < number_of(name) < newest.number]
        for name in gone:
            self.root.remove_below(name)
        return gone

    def _folder(self, number: int) -> GenerationFolder:
        return GenerationFolder(self.root, number)


def _written(generation: Generation) -> bytes:
    return json.dumps(asdict(generation)).encode()


def _read(root: RemoteFolder, name: str) -> tuple[Generation | None, Any]:
    """What an object says, and its tag; None for both where there is none."""
    found = root.read(name)
    return (None, None) if found is None else (noted_generation(found[0], f"{root}/{name}"), found[1])
