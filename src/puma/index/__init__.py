"""The index: unit vectors with ids, modalities and payloads in; the nearest ones out.

Here: the public names. The rules every engine keeps are in :mod:`puma.index.interface`, the class people use in
:mod:`puma.index.collection`, the embedded engine in :mod:`puma.index.lance`, exact search in :mod:`puma.index.exact.small`.
Nothing in this package loads torch.
"""

from puma.index.collection import Index
from puma.index.interface import Hit, Row

__all__ = ["Hit", "Index", "Row"]
