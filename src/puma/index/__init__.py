"""The index: unit vectors with ids, modalities and payloads in; the nearest ones out. Loads no torch."""

from puma.index.collection import Index
from puma.index.interface import Hit, Place, Row

__all__ = ["Hit", "Index", "Place", "Row"]
