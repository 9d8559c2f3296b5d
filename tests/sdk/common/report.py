"""What an OpenTelemetry SDK says it sent, for the scripts beside this directory."""

from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.trace import StatusCode


class Recorder(SpanExporter):
    """Keeps what the SDK hands to exporters."""

    def __init__(self):
        self.spans = []

    def export(self, spans):
        self.spans.extend(spans)
        return SpanExportResult.SUCCESS


def describe(span):
    return {
        "trace_id": f"{span.context.trace_id:032x}",
        "span_id": f"{span.context.span_id:016x}",
        "parent_span_id": f"{span.parent.span_id:016x}" if span.parent else "0" * 16,
        "name": span.name,
        "kind": span.kind.name.lower(),
        "status": "error" if span.status.status_code == StatusCode.ERROR else "ok",
        "status_message": span.status.description or "",
        "start": span.start_time,
        "end": span.end_time,
        "attributes": dict(span.attributes),
        "events": [{"name": e.name, "time": e.timestamp, "attributes": dict(e.attributes or {})} for e in span.events],
        "links": [
            {
                "trace_id": f"{l.context.trace_id:032x}",
                "span_id": f"{l.context.span_id:016x}",
                "attributes": dict(l.attributes or {}),
            }
            for l in span.links
        ],
        "resource": dict(span.resource.attributes),
        "scope": [span.instrumentation_scope.name, span.instrumentation_scope.version or ""],
    }
