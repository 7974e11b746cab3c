"""What the service counts, in Prometheus' format; no label has values that a client can invent."""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Callable, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

MEDIA_TYPE = CONTENT_TYPE_LATEST
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_SECONDS = (0.005, 0.01, 0.02, 0.04, 0.08, 0.15, 0.3, 0.6, 1.25, 2.5, 5, 10, 30)
_QUICK = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 5)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """The counters of one service, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self._requests = Counter(
            "puma_http_requests", "Requests answered.", ("method", "route", "status"), registry=registry
        )
        self._latency = Histogram(
            "puma_http_request_seconds", "From a request's head to its answer's end.", ("route",),
            buckets=_SECONDS, registry=registry,
        )  # fmt: skip
        self._batches = Histogram("puma_batch_items", "Items of a forward pass.", buckets=_SIZES, registry=registry)
        self._encoder = Counter("puma_encoder_seconds", "Time the encoder has worked.", registry=registry)
        self._items = Counter("puma_items_embedded", "Items embedded.", ("modality",), registry=registry)
        self._searches = Histogram(
            "puma_index_search_seconds", "Searches of an index, waiting for a thread included.",
            buckets=_QUICK, registry=registry,
        )  # fmt: skip
        self._queue = Gauge("puma_queue_items", "Items that wait for the encoder.", registry=registry)

    def watch_queue(self, depth: Callable[[], int]) -> None:
        """Ask this for the queue's depth whenever the metrics are read."""
        self._queue.set_function(depth)

    def batch(self, modalities: Sequence[str], seconds: float) -> None:
        """Items of these modalities went through the encoder together."""
        self._batches.observe(len(modalities))
        self._encoder.inc(seconds)
        for modality, count in Tally(modalities).items():
            self._items.labels(modality).inc(count)

    def searched(self, seconds: float) -> None:
        """An index was searched."""
        self._searches.observe(seconds)

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        """A request was answered. ``route`` is the path as the application declares it, not as it was requested."""
        self._requests.labels(method if method in METHODS else "other", route, str(status)).inc()
        self._latency.labels(route).observe(seconds)

    def text(self) -> bytes:
        """All of them, as Prometheus reads them."""
        return generate_latest(self.registry)
