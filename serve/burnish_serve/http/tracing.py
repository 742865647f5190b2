"""Spans of requests for OpenTelemetry, which is an extra: ``pip install 'burnish[otel]'``.

OpenTelemetry's own middleware makes them, under the ``traceparent`` that a client sends; where they go, and the name of
the service, stand in its own variables, as ``OTEL_EXPORTER_OTLP_ENDPOINT`` and ``OTEL_SERVICE_NAME``.

>>> traced(app)  # doctest: +SKIP
"""

from __future__ import annotations

import os
from typing import Any

from burnish_serve.errors import MissingExtraError


def traced(app: Any) -> Any:
    """Return an ASGI application that sends a span of each request of another.

    Raises:
        MissingExtraError: OpenTelemetry is not installed.
    """
    try:
        from opentelemetry import trace
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise MissingExtraError("sending spans", "otel") from error
    os.environ.setdefault("OTEL_SERVICE_NAME", "burnish")
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    return OpenTelemetryMiddleware(app, excluded_urls="/v2/health,/metrics", exclude_spans=["receive", "send"])
