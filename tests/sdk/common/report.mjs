// What an OpenTelemetry SDK says it sent, for the scripts beside this directory.
import { SpanKind, SpanStatusCode } from '@opentelemetry/api';

const nanos = ([seconds, nanoseconds]) => String(BigInt(seconds) * 1_000_000_000n + BigInt(nanoseconds));

export const describe = (span) => ({
  trace_id: span.spanContext().traceId,
  span_id: span.spanContext().spanId,
  parent_span_id: span.parentSpanContext?.spanId ?? '0'.repeat(16),
  name: span.name,
  kind: SpanKind[span.kind].toLowerCase(),
  status: span.status.code === SpanStatusCode.ERROR ? 'error' : 'ok',
  status_message: span.status.message ?? '',
  start: nanos(span.startTime),
  end: nanos(span.endTime),
  attributes: span.attributes,
  events: span.events.map((e) => ({ name: e.name, time: nanos(e.time), attributes: e.attributes ?? {} })),
  links: [],
  resource: span.resource.attributes,
  scope: [span.instrumentationScope.name, span.instrumentationScope.version ?? ''],
});
