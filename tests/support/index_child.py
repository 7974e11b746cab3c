"""What other processes do to an index in the tests of kills and of several processes: ``index_child.py JOB PATH ...``.

Here: the jobs. Each prints one line for everything that the index has acknowledged. Small bounds make search indexes,
joins and cleaning happen all the time.
"""

import sys

import numpy as np

from puma.index import Index, maintenance, reader

DIM = 16
BATCH = 20


def shrink() -> None:
    """Bounds at which a small index does what a large one does."""
    reader.FLAT_ROWS = 100
    maintenance.FRAGMENTS = 4
    maintenance.ROWS_A_FRAGMENT = 500
    maintenance.SEGMENTS = 2


def rows_of(prefix: str, batch: int) -> dict:
    """The arguments of one ``add``, the same whoever asks."""
    random = np.random.default_rng([batch, *prefix.encode()])
    vectors = random.normal(size=(BATCH, DIM))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    ids = [f"{prefix}-{batch:05d}-{n:02d}" for n in range(BATCH)]
    return {
        "ids": ids,
        "vectors": vectors,
        "modalities": ["image" if n % 2 else "text" for n in range(BATCH)],
        "payloads": [{"batch": batch, "n": n} for n in range(BATCH)],
        "contents": [f"content of {name}" for name in ids],
        "thumbnails": [f"picture of {name}".encode() if n % 2 else None for n, name in enumerate(ids)],
        "sources": [f"/{prefix}/{batch}/{n}.png" for n in range(BATCH)],
    }


def write(path: str, prefix: str, start: int, end: int) -> None:
    """Add batches; print the number of each when it is safe."""
    index = Index(path, dim=DIM)
    for batch in range(start, end):
        index.add(**rows_of(prefix, batch))
        print(batch, flush=True)


def compact(path: str, times: int) -> None:
    """Compact again and again."""
    index = Index(path)
    for turn in range(times):
        index.compact()
        print(turn, flush=True)


def read(path: str, times: int) -> None:
    """Search and list again and again; print how many rows were seen. They must never become fewer."""
    index = Index(path, create=False)
    query = rows_of("x", 1)["vectors"][:1]
    seen = 0
    for _ in range(times):
        where = {"type": "gte", "key": "n", "value": 10}
        for hits in (index.search(query, 5)[0], index.search(query, 5, "image", where=where)[0]):
            assert len(hits) == 5, hits
            assert len({hit.id for hit in hits}) == 5, hits
        image = hits[0]
        assert index.thumbnail(image.id) == f"picture of {image.id}".encode()
        rows = len(index.page(100_000, vectors=False))
        assert rows >= seen, (rows, seen)
        seen = rows
    print(seen, flush=True)


if __name__ == "__main__":
    shrink()
    job, where, *rest = sys.argv[1:]
    if job == "write":
        write(where, rest[0], int(rest[1]), int(rest[2]))
    elif job == "compact":
        compact(where, int(rest[0]))
    else:
        read(where, int(rest[0]))
