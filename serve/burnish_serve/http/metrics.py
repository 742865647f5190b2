"""What an operator sees at ``/metrics``, in the format of Prometheus.

>>> metrics = Metrics()  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Sequence

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
TOKENS = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)
SHARES = (0.01, 0.05, 0.1, 0.2, 0.3, 0.5)
CONTENT_TYPE = CONTENT_TYPE_LATEST


class Metrics:
    """The figures of one server."""

    def __init__(self) -> None:
        own = self.registry = CollectorRegistry()
        self.requests = Counter("burnish_requests", "Requests by route and status", ["route", "status"], registry=own)
        self.refusals = Counter("burnish_refusals", "Requests that were not answered", ["code"], registry=own)
        self.seconds = _histogram("burnish_request_seconds", "Seconds of a request", ["route"], SECONDS, own)
        self.waiting = Gauge("burnish_waiting_rows", "Rows that wait to be computed", ["model"], registry=own)
        self.ready = Gauge("burnish_model_ready", "Whether the model answers", ["model"], registry=own)
        names = ["model", "task", "variant", "provider"]
        self.info = Gauge("burnish_model_info", "What runs", names, registry=own)
        self._parts = _histogram("burnish_stage_seconds", "Seconds of a part", ["model", "stage"], SECONDS, own)
        self._tokens = _histogram("burnish_batch_tokens", "Tokens of a batch", ["model"], TOKENS, own)
        self._padding = _histogram("burnish_batch_padding", "Share of padding in a batch", ["model"], SHARES, own)

    def of(self, model: str) -> Batched:
        """Return what takes note of a model's batches."""
        stages = {stage: self._parts.labels(model, stage) for stage in ("queue", "tokenize", "infer")}
        return Batched(stages, self._tokens.labels(model), self._padding.labels(model))

    def text(self) -> bytes:
        """Return all figures."""
        return generate_latest(self.registry)


class Batched:
    """Takes note of a model's batches; see `burnish_serve.http.batches.Watch`."""

    def __init__(self, stages: dict[str, Histogram], tokens: Histogram, padding: Histogram) -> None:
        self._stages = stages
        self._tokens = tokens
        self._padding = padding

    def batch(self, *, waited: Sequence[float], tokenize: float, infer: float, tokens: int, padding: float) -> None:
        """Take note of a batch."""
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
