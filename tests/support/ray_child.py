"""A child process in a network and process namespace of its own: a Ray cluster of three nodes that embeds a folder,
while a worker or a node is killed, or from a bucket of an S3 server. Prints what happened as JSON on its last line."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
from pathlib import Path

from puma.items.remote import RayEncoder
from puma.search import Searcher
from puma.storage.object_stores import store_of
from support.encoders import ToyEncoder
from support.engines import BUCKET, S3_ENVIRONMENT, running_s3


class SlowEncoder(ToyEncoder):
    """Takes long enough for its process to be killed at work."""

    def encode(self, items, *, instruction=None):
        time.sleep(0.2)
        return super().encode(items, instruction=instruction)


def workers() -> list[int]:
    """The processes that hold a model."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            line = (folder / "cmdline").read_bytes() if folder.name.isdecimal() else b""
        except OSError:
            continue
        if line.startswith(b"ray::_Worker"):
            found.append(int(folder.name))
    return sorted(found)


def main(fault: str, items: str, index: str) -> None:
    with contextlib.ExitStack() as stack:
        if fault == "bucket":
            endpoint = stack.enter_context(running_s3())
            os.environ.update(S3_ENVIRONMENT | {"AWS_ENDPOINT_URL": endpoint})
            items = uploaded(items)
        embed(fault, items, index)


def uploaded(folder: str) -> str:
    """The folder's files on the S3 server of this machine; their address."""
    import obstore

    for path in Path(folder).iterdir():
        obstore.put(store_of(f"s3://{BUCKET}"), f"items/{path.name}", path.read_bytes())
    return f"s3://{BUCKET}/items"


def embed(fault: str, items: str, index: str) -> None:
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    nodes = [cluster.add_node(num_cpus=2) for _ in range(2)]
    done: list[str] = []

    def break_something(added) -> None:
        if done or added.embedded < 24:
            return
        if fault == "worker":
            os.kill(workers()[0], signal.SIGKILL)
        elif fault == "node":
            cluster.remove_node(nodes[0], allow_graceful=False)
        done.append(fault)

    with RayEncoder(SlowEncoder, address=cluster.address, workers=4) as encoder:
        searcher = Searcher(encoder, index)
        first = searcher.add_paths([items], batch_size=8, progress=False, on_batch=break_something)
        again = searcher.add_paths([items], batch_size=8, progress=False)
        lost = encoder.deaths
    cluster.shutdown()
    print(json.dumps({"first": first.as_dict(), "again": again.as_dict(), "fault": done, "deaths": lost}))


if __name__ == "__main__":
    main(*sys.argv[1:])
