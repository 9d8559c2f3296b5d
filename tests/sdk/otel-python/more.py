"""Calls what the gRPC port serves beside traces with a plain client and prints, as JSON, what it is told.

Usage: more.py URL KEY KEY_OF_ONE_REQUEST_PER_SECOND
"""

import json
import sys

import grpc
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2_grpc import LogsServiceStub
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2_grpc import MetricsServiceStub
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import TraceServiceStub
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord, ResourceLogs, ScopeLogs
from opentelemetry.proto.metrics.v1.metrics_pb2 import (
    Gauge,
    Metric,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span

url, key, slow_key = sys.argv[1:]
channel = grpc.insecure_channel(url.removeprefix("http://"))
with_key = {"metadata": [("x-api-key", key)], "timeout": 10}


def told(call, read):
    try:
        return ["OK", *read(call())]
    except grpc.RpcError as error:
        return [error.code().name, error.details()]


def health(service):
    # HealthCheckRequest { service = 1 } and HealthCheckResponse { status = 1 }, by hand.
    request = bytes([0x0A, len(service)]) + service if service else b""
    check = channel.unary_unary("/grpc.health.v1.Health/Check")
    return told(lambda: check(request, timeout=10), lambda answer: [answer[1] if answer[:1] == b"\x08" else 0])


points = [NumberDataPoint(as_int=1)]
logs = ExportLogsServiceRequest(resource_logs=[ResourceLogs(scope_logs=[ScopeLogs(log_records=[LogRecord(), LogRecord()])])])
metric_list = [Metric(name="a", gauge=Gauge(data_points=points * 2)), Metric(name="b", sum=Sum(data_points=points))]
metrics = ExportMetricsServiceRequest(resource_metrics=[ResourceMetrics(scope_metrics=[ScopeMetrics(metrics=metric_list)])])
spans = [Span(trace_id=b"1" * 16, span_id=b"2" * 8, name="good")]
request = ExportTraceServiceRequest(resource_spans=[ResourceSpans(scope_spans=[ScopeSpans(spans=spans)])])


def throttled():
    export = TraceServiceStub(channel).Export
    for _ in range(20):
        try:
            export(request, metadata=[("x-api-key", slow_key)], timeout=10)
        except grpc.RpcError as error:
            trailers = dict(error.trailing_metadata())
            info = RetryInfo.FromString(trailers["google.rpc.retryinfo-bin"])
            status = Status.FromString(trailers["grpc-status-details-bin"])
            inside = RetryInfo()
            status.details[0].Unpack(inside)
            return [error.code().name, info.retry_delay.seconds, status.code, inside.retry_delay.seconds]
    return ["OK", 0, 0, 0]


deflated = grpc.insecure_channel(url.removeprefix("http://"), compression=grpc.Compression.Deflate)
json.dump(
    {
        "health": health(b""),
        "health of traces": health(b"opentelemetry.proto.collector.trace.v1.TraceService"),
        "health of nothing": health(b"nothing"),
        "logs": told(
            lambda: LogsServiceStub(channel).Export(logs, **with_key),
            lambda answer: [answer.partial_success.rejected_log_records, answer.partial_success.error_message],
        ),
        "metrics": told(
            lambda: MetricsServiceStub(channel).Export(metrics, **with_key),
            lambda answer: [answer.partial_success.rejected_data_points, answer.partial_success.error_message],
        ),
        "deflated": told(lambda: TraceServiceStub(deflated).Export(request, **with_key), lambda answer: [0]),
        "throttled": throttled(),
    },
    sys.stdout,
)
