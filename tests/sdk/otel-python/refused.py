"""Calls the trace service with a plain gRPC client and prints, as JSON, what it is told.

Usage: refused.py URL KEY
"""

import json
import sys

import grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import TraceServiceStub
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span

url, key = sys.argv[1:]
channel = grpc.insecure_channel(url.removeprefix("http://"))
spans = [
    Span(trace_id=b"1" * 16, span_id=b"2" * 8, name="good"),
    Span(trace_id=b"1", span_id=b"3" * 8, name="bad"),
]
request = ExportTraceServiceRequest(resource_spans=[ResourceSpans(scope_spans=[ScopeSpans(spans=spans)])])


def told(call):
    try:
        partial = call().partial_success
        return ["OK", partial.rejected_spans, partial.error_message]
    except grpc.RpcError as error:
        return [error.code().name, error.details()]


def export(*metadata):
    return lambda: TraceServiceStub(channel).Export(request, metadata=metadata, timeout=10)


other = channel.unary_unary("/opentelemetry.proto.collector.profiles.v1development.ProfilesService/Export")
json.dump(
    {
        "no key": told(export()),
        "wrong key": told(export(("x-api-key", "tb_nope"))),
        "other method": told(lambda: other(b"", timeout=10)),
        "bad span": told(export(("authorization", f"Bearer {key}"))),
    },
    sys.stdout,
)
