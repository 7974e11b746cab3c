"""Reading what people keep their items in, and filling an index from it.

Here: the public names. What a record is: :mod:`puma.ingest.records`. Paths in, records out: :mod:`puma.ingest.reading`
(folders, pictures, text files, JSONL, CSV, M-BEIR pools), :mod:`puma.ingest.tables` (Parquet),
:mod:`puma.ingest.documents` (PDF pages). Records embedded and stored, batch after batch: :mod:`puma.ingest.filling`;
what a removed file takes with it: :mod:`puma.ingest.syncing`. Nothing in this package loads torch.
"""

from puma.ingest.reading import DOCUMENTS, LISTS, PICTURES, TABLES, count_items, read_items
from puma.ingest.records import Ignored, Record, content_digest

__all__ = [
    "DOCUMENTS",
    "LISTS",
    "PICTURES",
    "TABLES",
    "Ignored",
    "Record",
    "content_digest",
    "count_items",
    "read_items",
]
