"""Sends spans with the real OpenTelemetry SDK and prints, as JSON, what the SDK says it sent.

Usage: send.py http|grpc COUNT   (endpoint and headers come from the usual OTEL_EXPORTER_OTLP_* variables)
"""

import json
import sys

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags
from report import Recorder, describe


def exporter(protocol):
    if protocol == "http":
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        return OTLPSpanExporter()
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

    return OTLPSpanExporter(insecure=True)


def main():
    protocol, count = sys.argv[1], int(sys.argv[2])
    recorder = Recorder()
    provider = TracerProvider(resource=Resource.create({"service.name": "sdk-test", "deployment.region": "eu"}))
    provider.add_span_processor(BatchSpanProcessor(exporter(protocol)))
    provider.add_span_processor(SimpleSpanProcessor(recorder))
    tracer = provider.get_tracer("sdk.test", "1.2.3")
    elsewhere = SpanContext(0xABCDEF0123456789ABCDEF0123456789, 0x1122334455667788, True, TraceFlags(1))

    for i in range(count):
        with tracer.start_as_current_span(f"agent {i}", kind=SpanKind.SERVER) as root:
            root.set_attribute("gen_ai.operation.name", "invoke_agent")
            with tracer.start_as_current_span("chat", kind=SpanKind.CLIENT, links=[Link(elsewhere, {"why": "test"})]) as llm:
                llm.set_attributes(
                    {
                        "gen_ai.operation.name": "chat",
                        "gen_ai.provider.name": "openai",
                        "gen_ai.request.model": "gpt-4o-mini",
                        "gen_ai.usage.input_tokens": 40 + i,
                        "gen_ai.usage.output_tokens": 2,
                        "gen_ai.request.temperature": 0.5,
                        "gen_ai.input.messages": json.dumps([{"role": "user", "content": f"über {i} \u6f22\U0001f600"}]),
                        "flag": True,
                        "whole_double": 1.0,
                        "list": ["a", "b"],
                        "numbers": [1, 2],
                        "quote": 'a "quoted"\nline',
                        "empty": "",
                        "negative": -7,
                        "large": 2**53 + 1,
                    }
                )
                llm.add_event("token", {"index": 1})
            with tracer.start_as_current_span("broken") as broken:
                broken.record_exception(ValueError("no such thing"))
                broken.set_status(Status(StatusCode.ERROR, "it broke"))

    if not provider.force_flush():
        sys.exit("the SDK could not send everything")
    provider.shutdown()
    json.dump([describe(span) for span in recorder.spans], sys.stdout)


main()
