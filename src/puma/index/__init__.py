"""The index: unit vectors with ids, modalities and payloads in; the nearest ones out. Loads no torch."""

from puma.index.collection import Index
from puma.index.interface import Hit, Row
from puma.index.provenance import FileState, Place, Stamp

__all__ = ["FileState", "Hit", "Index", "Place", "Row", "Stamp"]
