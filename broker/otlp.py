"""Spans to an OpenTelemetry collector, over HTTP. The only file that imports opentelemetry.

Finished spans are handed to the library's exporter as they are. Its own tracer is left out: it would invent ids, and
takes ten times as long to note a span.

Source: OpenTelemetry, OTLP/HTTP; semantic conventions for resources.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, TraceFlags

from broker.figures import own_versions
from broker.spans import Span
from broker.tracing import Step
from config.errors import TransientError

__all__ = ["OtlpExporter"]

_TIMEOUT_S = 5.0
"""The library tries again within it."""
_SAMPLED = TraceFlags(TraceFlags.SAMPLED)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_KINDS: dict[Step, SpanKind] = {
    "capture": SpanKind.PRODUCER,
    "score": SpanKind.CONSUMER,
    "escalate": SpanKind.PRODUCER,
    "forward": SpanKind.CONSUMER,
}


class OtlpExporter:
    """Sends spans to a collector.

    Args:
        endpoint: the collector's, without the path.
        site: of this process.
        node: its machine.
        role: its role; the service is called ``vigil-{role}``.
    """

    def __init__(self, endpoint: str, *, site: str, node: str, role: str) -> None:
        # What it says of a collector that is away is told by the tracer, once.
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
        version = own_versions()["vigil"]
        self._exporter = OTLPSpanExporter(f"{endpoint.rstrip('/')}/v1/traces", timeout=_TIMEOUT_S)
        self._scope = InstrumentationScope("vigil", version)
        self._resource = Resource.create(
            {
                "service.name": f"vigil-{role.partition('.')[0]}",
                "service.namespace": "vigil",
                "service.instance.id": f"{node}.{role}",
                "service.version": version,
                "host.name": node,
                "vigil.site": site,
                "vigil.node": node,
                "vigil.role": role,
            }
        )

    def export(self, spans: Sequence[Span]) -> None:
        """Send them.

        Raises:
            TransientError: the collector did not take them.
        """
        if self._exporter.export([self._readable(span) for span in spans]) is not SpanExportResult.SUCCESS:
            raise TransientError("the collector takes no spans: see that tracing.endpoint is its address for OTLP/HTTP")

    def close(self) -> None:
        """Give up what is on its way."""
        self._exporter.shutdown()  # type: ignore[no-untyped-call] # the library's

    def _readable(self, span: Span) -> ReadableSpan:
        return ReadableSpan(
            name=span.step,
            context=_context(span.trace_id, span.span_id),
            parent=_context(span.trace_id, span.parent_id) if span.parent_id else None,
            resource=self._resource,
            attributes=span.attributes,
            kind=_KINDS[span.step],
            start_time=_unix_ns(span.started_at),
            end_time=_unix_ns(max(span.started_at, span.ended_at)),
            instrumentation_scope=self._scope,
        )


def _context(trace_id: int, span_id: int) -> SpanContext:
    return SpanContext(trace_id, span_id, is_remote=False, trace_flags=_SAMPLED)


def _unix_ns(moment: datetime) -> int:
    return (moment - _EPOCH) // _MICROSECOND * 1_000
