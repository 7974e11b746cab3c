"""What is remembered of files that were read: size and times, so that unchanged ones need not be read again. Loads no
torch.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

from puma.index.companions import Companion
from puma.index.provenance import FileState, Stamp
from puma.index.tables import STAMPS, reading, stamp_schema, writing


class Stamps(Companion):
    """One row for each source that was read to its end without a fault. The caller holds the write lock around
    everything that writes."""

    name = STAMPS

    def put(self, stamps: Sequence[Stamp]) -> None:
        """Insert or replace, by source."""
        import pyarrow as pa

        latest = {stamp.source: stamp for stamp in stamps}
        if not latest:
            return
        schema = stamp_schema()
        table = self._create(schema)
        rows = list(latest.values())
        columns = {
            "source": list(latest),
            "files": [json.dumps(row.files) for row in rows],
            "ids": [row.ids for row in rows],
            "how": [row.how for row in rows],
        }
        batch = pa.table(columns, schema=schema)
        merge = table.merge_insert("source").when_matched_update_all().when_not_matched_insert_all()
        writing(self.folder, lambda: merge.execute(batch))

    def under(self, paths: Sequence[str]) -> dict[str, Stamp]:
        """By source, of those that are one of these paths or lie below one."""
        found: dict[str, Stamp] = {}
        for condition in self.conditions_under(paths):
            found |= reading(self.folder, lambda condition=condition: self._where(condition))  # type: ignore[misc]
        return found

    def drop(self, sources: Iterable[str]) -> int:
        """Forget these sources; how many there were."""
        return self._drop("source", sources)

    def _where(self, condition: str) -> dict[str, Stamp]:
        rows = (row for part in self.columns(["source", "files", "ids", "how"], condition) for row in part)
        return {
            source: Stamp(source, tuple(FileState(*state) for state in json.loads(files)), ids, how)
            for source, files, ids, how in rows
        }
