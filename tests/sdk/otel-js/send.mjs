// Sends spans with the real OpenTelemetry SDK and prints, as JSON, what the SDK says it sent.
//
// Usage: node send.mjs http|proto|grpc COUNT   (endpoint and headers come from the usual OTEL_EXPORTER_OTLP_* variables)
import { SpanKind, SpanStatusCode, context, trace } from '@opentelemetry/api';
import { resourceFromAttributes } from '@opentelemetry/resources';
import { BasicTracerProvider, BatchSpanProcessor, InMemorySpanExporter, SimpleSpanProcessor } from '@opentelemetry/sdk-trace-base';
import { describe } from './report.mjs';

const [protocol, count] = process.argv.slice(2);
const { OTLPTraceExporter } = await import(`@opentelemetry/exporter-trace-otlp-${protocol}`);
const recorder = new InMemorySpanExporter();
const provider = new BasicTracerProvider({
  resource: resourceFromAttributes({ 'service.name': 'sdk-test', 'deployment.region': 'eu' }),
  spanProcessors: [new BatchSpanProcessor(new OTLPTraceExporter()), new SimpleSpanProcessor(recorder)],
});
const tracer = provider.getTracer('sdk.test', '1.2.3');

for (let i = 0; i < Number(count); i++) {
  const root = tracer.startSpan(`agent ${i}`, { kind: SpanKind.SERVER, attributes: { 'gen_ai.operation.name': 'invoke_agent' } });
  const inRoot = trace.setSpan(context.active(), root);
  const llm = tracer.startSpan('chat', { kind: SpanKind.CLIENT }, inRoot);
  llm.setAttributes({
    'gen_ai.operation.name': 'chat',
    'gen_ai.provider.name': 'openai',
    'gen_ai.request.model': 'gpt-4o-mini',
    'gen_ai.usage.input_tokens': 40 + i,
    'gen_ai.usage.output_tokens': 2,
    'gen_ai.request.temperature': 0.5,
    'gen_ai.input.messages': JSON.stringify([{ role: 'user', content: `über ${i} 漢😀` }]),
    flag: true,
    list: ['a', 'b'],
    quote: 'a "quoted"\nline',
    empty: '',
    negative: -7,
  });
  llm.addEvent('token', { index: 1 });
  llm.end();
  const broken = tracer.startSpan('broken', {}, inRoot);
  broken.recordException(new Error('no such thing'));
  broken.setStatus({ code: SpanStatusCode.ERROR, message: 'it broke' });
  broken.end();
  root.end();
}

await provider.forceFlush();
process.stdout.write(JSON.stringify(recorder.getFinishedSpans().map(describe)));
await provider.shutdown();
