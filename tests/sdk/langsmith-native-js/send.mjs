// Traces with the real LangSmith SDK, by LangSmith's own protocol. Prints the runs as the SDK has them in memory when all is
// sent, and the feedback and attachments it was given.

import { Client } from "langsmith";
import { getCurrentRunTree, traceable } from "langsmith/traceable";

const client = new Client();
const runs = [];
const attachments = [];
const image = Uint8Array.from({ length: 256 }, (_, i) => i);
const note = () => runs.push(getCurrentRunTree());

const callModel = traceable(
  async (messages) => {
    note();
    return {
      role: "assistant",
      content: "Mild. 漢 \u0000 \ud83d",
      usage_metadata: {
        input_tokens: 7,
        output_tokens: 5,
        total_tokens: 12,
        input_token_details: { cache_read: 3 },
        output_token_details: { reasoning: 2 },
      },
    };
  },
  { name: "call_model", run_type: "llm", client, tags: ["model"],
    metadata: { ls_provider: "openai", ls_model_name: "gpt-4o-mini", ls_temperature: 0.5 } },
);

const getWeather = traceable(
  async (city) => {
    note();
    throw new TypeError("no such city");
  },
  { name: "get_weather", run_type: "tool", client },
);

const lookUp = traceable(
  async ({ question }) => {
    note();
    return [{ page_content: question }];
  },
  { name: "look_up", run_type: "retriever", client,
    extractAttachments: ({ picture, ...rest }) => [{ picture: ["image/png", picture] }, rest] },
);

const answer = traceable(
  async (question) => {
    note();
    await getWeather("Paris").catch(() => {});
    await lookUp({ question, picture: image });
    attachments.push({ run_id: runs.at(-1).id, name: "picture", mime_type: "image/png", content: Buffer.from(image).toString("hex") });
    return callModel([{ role: "user", content: question }]);
  },
  { name: "answer", run_type: "chain", client, tags: ["root"], metadata: { thread_id: "thread-7", user_id: "user-7" } },
);

await answer("How is the weather?");
const root = runs[0];
const feedback = await client.createFeedback(root.id, "helpful", { score: 0.75, value: "yes", comment: "indeed" });
await client.awaitPendingTraceBatches();

const strings = (object) => Object.fromEntries(Object.entries(object ?? {}).filter(([, value]) => typeof value === "string"));
console.log(
  JSON.stringify({
    runs: runs.map((run) => ({
      id: run.id,
      trace_id: run.trace_id,
      parent_run_id: run.parent_run?.id ?? null,
      dotted_order: run.dotted_order,
      name: run.name,
      run_type: run.run_type,
      start_time: typeof run.start_time === "number" ? new Date(run.start_time).toISOString() : run.start_time,
      end_time: typeof run.end_time === "number" ? new Date(run.end_time).toISOString() : run.end_time,
      error: run.error ?? null,
      tags: run.tags ?? [],
      metadata: strings(run.extra?.metadata),
    })),
    feedback: [{ id: feedback.id, run_id: root.id, key: "helpful", score: 0.75, value: "yes", comment: "indeed" }],
    attachments,
  }),
);
