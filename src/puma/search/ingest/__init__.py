"""Reading folders, files and tables of items, and filling an index from them. Loads no torch."""

from puma.items.digest import content_digest
from puma.search.ingest.options import ReadOptions
from puma.search.ingest.reading import DOCUMENTS, IMAGES, LISTS, TABLES, count_items, read_items
from puma.search.ingest.records import Ignored, Note, Record

__all__ = [
    "DOCUMENTS",
    "IMAGES",
    "LISTS",
    "TABLES",
    "Ignored",
    "Note",
    "ReadOptions",
    "Record",
    "content_digest",
    "count_items",
    "read_items",
]
