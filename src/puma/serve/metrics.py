"""What the service counts, in Prometheus' format; no label has values that a client can invent.

What is counted for each model has the label ``model``: the model's fingerprint, as ``/indexes`` and ``/v1/models`` give
it.
"""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

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
        self._batches = Histogram(
            "puma_batch_items", "Items of a forward pass.", ("model",), buckets=_SIZES, registry=registry
        )
        self._encoder = Counter(
            "puma_encoder_seconds", "Time the model's encoder has worked.", ("model",), registry=registry
        )
        self._items = Counter("puma_items_embedded", "Items embedded.", ("modality",), registry=registry)
        self._searches = Histogram(
            "puma_index_search_seconds", "Searches of an index, waiting for a thread included.",
            buckets=_QUICK, registry=registry,
        )  # fmt: skip

    def watch_queues(self, depths: Callable[[], Mapping[str, int]]) -> None:
        """Ask this for the items that wait, by model, whenever the metrics are read. To be called once."""
        self.registry.register(_Queues(depths))

    def of_model(self, model: str) -> ModelMetrics:
        """What counts the batches of the model with this fingerprint."""
        return ModelMetrics(self, model)

    def batch(self, model: str, modalities: Sequence[str], seconds: float) -> None:
        """Items of these modalities went through the model's encoder together."""
        self._batches.labels(model).observe(len(modalities))
        self._encoder.labels(model).inc(seconds)
        for modality, count in Tally(modalities).items():
            self._items.labels(modality).inc(count)

    def forget(self, model: str) -> None:
        """Drop what was counted for the model with this fingerprint."""
        for metric in (self._batches, self._encoder):
            metric.remove(model)

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


@dataclass(frozen=True)
class ModelMetrics:
    """Counts the batches of one model.

    Args:
        metrics: of the service.
        model: its fingerprint.
    """

    metrics: Metrics
    model: str

    def batch(self, modalities: Sequence[str], seconds: float) -> None:
        """Items of these modalities went through the encoder together."""
        self.metrics.batch(self.model, modalities, seconds)


class _Queues(Collector):
    """Items that wait, of the models that are held when it is asked."""

    def __init__(self, depths: Callable[[], Mapping[str, int]]) -> None:
        self._depths = depths

    def collect(self) -> Iterator[GaugeMetricFamily]:
        family = GaugeMetricFamily("puma_queue_items", "Items that wait for the model's encoder.", labels=("model",))
        for model, depth in self._depths().items():
            family.add_metric([model], depth)
        yield family
