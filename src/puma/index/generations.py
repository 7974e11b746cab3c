"""Generations of an index: the rows of one model beside those of the next, and which of them counts. Loads no torch.

``puma index migrate`` fills a new one beside the one that is searched. Which one counts changes in one step, so whoever
opens the index meets the old one or the new one, whole.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from dataclasses import dataclass

from puma.errors import StorageError
from puma.index.interface import Engine


@dataclass(frozen=True)
class Generation:
    """One of them.

    Args:
        number: 1 for what lies at the index's address itself.
        model: what to load to search it: a folder, or a name on the hub; empty where that is not known.
        fingerprint: of that model.
    """

    number: int
    model: str = ""
    fingerprint: str = ""


class Generations(ABC):
    """Those of one index.

    Args:
        shown: the index's address, without secrets.
    """

    def __init__(self, shown: str) -> None:
        self.shown = shown

    @abstractmethod
    def current(self) -> Generation:
        """The one that counts.

        Raises:
            StorageError: what names it cannot be read.
        """

    @abstractmethod
    def filling(self) -> Generation | None:
        """The one that a migration is filling; None for none."""

    @abstractmethod
    def begin(self, model: str, fingerprint: str) -> Generation:
        """Note which one is being filled, and with which model."""

    @abstractmethod
    def open(self, generation: Generation) -> Engine:
        """Its rows.

        Raises:
            StorageError: they cannot be read.
        """

    @abstractmethod
    def make(self, generation: Generation, dim: int) -> Engine:
        """Its rows, empty at first; those that an earlier call has made are opened."""

    @abstractmethod
    def closed(self, generation: Generation) -> AbstractContextManager[None]:
        """While this is open no other writer's write to a generation is acknowledged that reads in here do not see.

        Raises:
            StorageError: it does not count any more.
        """

    @abstractmethod
    def switch(self, generation: Generation) -> None:
        """From here on this one counts."""

    @abstractmethod
    def abandon(self) -> None:
        """Drop what a migration has filled so far."""

    @abstractmethod
    def drop_old(self) -> list[str]:
        """Remove all generations before the current one; the names of what was removed."""

    def superseded(self) -> StorageError:
        """What a migration raises when another one has changed the model before it."""
        return StorageError(f"{self.shown}: another migration has changed the model meanwhile; nothing was changed")


def sealed(shown: str, consequence: str) -> StorageError:
    """What a writer raises where its rows do not count any more, or are being closed.

    Args:
        shown: the index's address.
        consequence: what became of the write.
    """
    return StorageError(
        f"{shown}: was changed to another model meanwhile, or is being changed now; {consequence}. Open it again, with "
        "that model"
    )
