// Runs the AI SDK on models that answer from a list, and prints, as JSON, what it says it sent.
//
// Usage: node send.mjs OpenTelemetry|LegacyOpenTelemetry   (endpoint and headers come from the usual OTEL_EXPORTER_OTLP_* variables)
import * as otel from '@ai-sdk/otel';
import { context, trace } from '@opentelemetry/api';
import { AsyncLocalStorageContextManager } from '@opentelemetry/context-async-hooks';
import { OTLPTraceExporter } from '@opentelemetry/exporter-trace-otlp-proto';
import { resourceFromAttributes } from '@opentelemetry/resources';
import { BasicTracerProvider, BatchSpanProcessor, InMemorySpanExporter, SimpleSpanProcessor } from '@opentelemetry/sdk-trace-base';
import { embed, generateText, registerTelemetry, stepCountIs, tool } from 'ai';
import { MockEmbeddingModelV4, MockLanguageModelV4 } from 'ai/test';
import { z } from 'zod';
import { describe } from './report.mjs';

const recorder = new InMemorySpanExporter();
const provider = new BasicTracerProvider({
  resource: resourceFromAttributes({ 'service.name': 'sdk-test' }),
  spanProcessors: [new BatchSpanProcessor(new OTLPTraceExporter()), new SimpleSpanProcessor(recorder)],
});
context.setGlobalContextManager(new AsyncLocalStorageContextManager().enable());
trace.setGlobalTracerProvider(provider);
registerTelemetry(new otel[process.argv[2]]({ runtimeContext: true, embedding: true }));

const usage = {
  inputTokens: { total: 17, noCache: 14, cacheRead: 3, cacheWrite: 0 },
  outputTokens: { total: 5, text: 3, reasoning: 2 },
};
const call = (id, city) => ({ type: 'tool-call', toolCallId: id, toolName: 'get_weather', input: JSON.stringify({ city }) });
const answers = [
  { content: [call('call_7', 'Paris'), call('call_8', 'Atlantis')], finishReason: { unified: 'tool-calls', raw: 'tool_calls' } },
  { content: [{ type: 'text', text: 'Mild. 漢😀' }], finishReason: { unified: 'stop', raw: 'stop' } },
];
const model = new MockLanguageModelV4({
  provider: 'openai.chat',
  modelId: 'gpt-4o-mini',
  doGenerate: async () => ({ ...answers.shift(), usage, warnings: [], response: { modelId: 'gpt-4o-mini-2024-07-18' } }),
});
const embedder = new MockEmbeddingModelV4({
  provider: 'openai.embedding',
  modelId: 'text-embedding-3-small',
  doEmbed: async () => ({ embeddings: [[0.5, 0.25]], usage: { tokens: 4 }, warnings: [] }),
});

const about = {
  runtimeContext: { sessionId: 'thread-7', userId: 'user-7' },
  telemetry: { functionId: 'answer', includeRuntimeContext: { sessionId: true, userId: true } },
};
await generateText({
  ...about,
  model,
  instructions: 'terse',
  prompt: 'How is the weather?',
  temperature: 0.5,
  stopWhen: stepCountIs(3),
  tools: {
    get_weather: tool({
      description: 'The weather of a city.',
      inputSchema: z.object({ city: z.string() }),
      execute: async ({ city }) => {
        if (city === 'Atlantis') throw new TypeError('no such city');
        return { temperature: 17 };
      },
    }),
  },
});
await embed({ ...about, model: embedder, value: 'weather' });

await provider.forceFlush();
process.stdout.write(JSON.stringify(recorder.getFinishedSpans().map(describe)));
await provider.shutdown();
