"""Names that belong together, directly or over others."""

from __future__ import annotations


class Groups:
    """Union-find over strings."""

    def __init__(self) -> None:
        self._parent: dict[str, str] = {}

    def find(self, name: str) -> str:
        """The group's representative: its smallest member in order of strings."""
        parent = self._parent.setdefault(name, name)
        while parent != self._parent[parent]:
            self._parent[parent] = self._parent[self._parent[parent]]
            parent = self._parent[parent]
        self._parent[name] = parent
        return parent

    def join(self, one: str, other: str) -> None:
        """Make two groups one."""
        low, high = sorted((self.find(one), self.find(other)))
        self._parent[high] = low
