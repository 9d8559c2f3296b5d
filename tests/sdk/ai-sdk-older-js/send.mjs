// Runs an older AI SDK with the providers of its time, whose answers are written here, and prints, as JSON, what it says it sent.
//
// Usage: node send.mjs 4|5|6   (endpoint and headers come from the usual OTEL_EXPORTER_OTLP_* variables)
import { context } from '@opentelemetry/api';
import { AsyncLocalStorageContextManager } from '@opentelemetry/context-async-hooks';
import { OTLPTraceExporter } from '@opentelemetry/exporter-trace-otlp-proto';
import { resourceFromAttributes } from '@opentelemetry/resources';
import { BasicTracerProvider, BatchSpanProcessor, InMemorySpanExporter, SimpleSpanProcessor } from '@opentelemetry/sdk-trace-base';
import { describe } from './report.mjs';

const version = process.argv[2];
const { generateText } = await import(`ai-${version}`);
const { createAnthropic } = await import(`anthropic-of-ai-${version}`);
const { createAzure } = await import(`azure-of-ai-${version}`);

const recorder = new InMemorySpanExporter();
const provider = new BasicTracerProvider({
  resource: resourceFromAttributes({ 'service.name': `ai-${version}` }),
  spanProcessors: [new BatchSpanProcessor(new OTLPTraceExporter()), new SimpleSpanProcessor(recorder)],
});
context.setGlobalContextManager(new AsyncLocalStorageContextManager().enable());

const answers = (answer) => async () => new Response(JSON.stringify(answer), { headers: { 'content-type': 'application/json' } });
const ask = async (model, functionId) => {
  await generateText({
    model,
    prompt: 'How is the weather?',
    experimental_telemetry: { isEnabled: true, functionId, tracer: provider.getTracer('ai') },
  });
};

const azure = createAzure({
  apiKey: 'none',
  resourceName: 'none',
  fetch: answers({
    id: 'chatcmpl-7',
    object: 'chat.completion',
    created: 1,
    model: 'gpt-4o-mini-2024-07-18',
    choices: [{ index: 0, finish_reason: 'stop', message: { role: 'assistant', content: 'Mild.' } }],
    usage: { prompt_tokens: 1000, completion_tokens: 100, total_tokens: 1100 },
  }),
});
await ask((azure.chat ?? azure)('gpt-4o-mini'), 'azure');

const anthropic = createAnthropic({
  apiKey: 'none',
  fetch: answers({
    type: 'message',
    id: 'msg_7',
    model: 'claude-sonnet-4-5-20250929',
    role: 'assistant',
    content: [{ type: 'text', text: 'Mild.' }],
    stop_reason: 'end_turn',
    stop_sequence: null,
    usage: { input_tokens: 500, output_tokens: 90, cache_read_input_tokens: 1000, cache_creation_input_tokens: 200 },
  }),
});
await ask(anthropic('claude-sonnet-4-5'), 'anthropic');

await provider.forceFlush();
process.stdout.write(JSON.stringify(recorder.getFinishedSpans().map(describe)));
await provider.shutdown();
