"""Reading what people keep their items in, and filling an index from it.

Here: the public names. What a record is: :mod:`puma.search.ingest.records`. Paths in, records out: :mod:`puma.search.ingest.reading`
(folders, images, text files, JSONL, CSV, M-BEIR pools), :mod:`puma.search.ingest.tables` (Parquet),
:mod:`puma.search.ingest.documents` (PDF pages). Records embedded and stored, batch after batch: :mod:`puma.search.ingest.filling`;
what a removed file takes with it: :mod:`puma.search.ingest.syncing`. Nothing in this package loads torch.
"""

from puma.search.ingest.reading import DOCUMENTS, IMAGES, LISTS, TABLES, count_items, read_items
from puma.search.ingest.records import Ignored, Record, content_digest

__all__ = [
    "DOCUMENTS",
    "IMAGES",
    "LISTS",
    "TABLES",
    "Ignored",
    "Record",
    "content_digest",
    "count_items",
    "read_items",
]
