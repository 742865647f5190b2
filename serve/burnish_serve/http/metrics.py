"""What an operator sees at ``/metrics``, in the format of Prometheus.

>>> metrics = Metrics()  # doctest: +SKIP
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
TOKENS = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)
SHARES = (0.01, 0.05, 0.1, 0.2, 0.3, 0.5)
CONTENT_TYPE = CONTENT_TYPE_LATEST
# Where several workers keep their figures for each other; prometheus_client reads it when it is imported.
SHARED = "PROMETHEUS_MULTIPROC_DIR"


class Metrics:
    """The figures of one server."""

    def __init__(self) -> None:
        own = self.registry = CollectorRegistry()
        self.requests = Counter("burnish_requests", "Requests by route and status", ["route", "status"], registry=own)
        self.refusals = Counter("burnish_refusals", "Requests that were not answered", ["code"], registry=own)
        self.seconds = _histogram("burnish_request_seconds", "Seconds of a request", ["route"], SECONDS, own)
        self.waiting = Gauge(
            "burnish_waiting_rows",
            "Rows that wait to be computed",
            ["model"],
            registry=own,
            multiprocess_mode="livesum",
        )
        self.ready = Gauge(
            "burnish_model_ready", "Whether the model answers", ["model"], registry=own, multiprocess_mode="livemin"
        )
        names = ["model", "task", "variant", "provider"]
        self.info = Gauge("burnish_model_info", "What runs", names, registry=own, multiprocess_mode="livemax")
        self._parts = _histogram("burnish_stage_seconds", "Seconds of a part", ["model", "stage"], SECONDS, own)
        self._tokens = _histogram("burnish_batch_tokens", "Tokens of a batch", ["model"], TOKENS, own)
        self._padding = _histogram("burnish_batch_padding", "Share of padding in a batch", ["model"], SHARES, own)

    def of(self, model: str) -> Batched:
        """Return what takes note of a model's batches."""
        stages = {stage: self._parts.labels(model, stage) for stage in ("queue", "tokenize", "infer")}
        return Batched(stages, self._tokens.labels(model), self._padding.labels(model), self.waiting.labels(model))

    def text(self) -> bytes:
        """Return all figures, of all workers where there are several."""
        if SHARED not in os.environ:
            return generate_latest(self.registry)
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]  # the package has no types there
        return generate_latest(registry)


class Batched:
    """Takes note of a model's batches; see `burnish_serve.http.batches.Watch`."""

    def __init__(self, stages: dict[str, Histogram], tokens: Histogram, padding: Histogram, waiting: Gauge) -> None:
        self._stages = stages
        self._waiting = waiting
        self._tokens = tokens
        self._padding = padding

    def batch(
        self, *, waited: Sequence[float], tokenize: float, infer: float, tokens: int, padding: float, waiting: int
    ) -> None:
        """Take note of a batch."""
        self._waiting.set(waiting)
        for seconds in waited:
            self._stages["queue"].observe(seconds)
        self._stages["tokenize"].observe(tokenize)
        self._stages["infer"].observe(infer)
        self._tokens.observe(tokens)
        self._padding.observe(padding)


def _histogram(
    name: str, text: str, labels: Sequence[str], buckets: Sequence[float], registry: CollectorRegistry
) -> Histogram:
    return Histogram(name, text, labels, buckets=buckets, registry=registry)
