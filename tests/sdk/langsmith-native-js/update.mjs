// Changes two runs after they have ended: one when all of it has been sent, one while its end is still queued. Prints their ids.

import { Client, RunTree } from "langsmith";

const client = new Client();
const change = { outputs: { card: "[redacted]" }, tags: ["first", "reviewed"], extra: { metadata: { stage: "two" } } };

const run = async (name) => {
  const tree = new RunTree({
    name, run_type: "chain", inputs: { q: 1 }, client, project_name: "updates", tags: ["first"], metadata: { stage: "one", kept: "yes" },
  });
  await tree.postRun();
  // Or the SDK would make one write of all.
  await client.awaitPendingTraceBatches();
  await tree.end({ card: "4111 1111" });
  await tree.patchRun();
  return tree;
};

const sent = await run("sent");
await client.awaitPendingTraceBatches();
await client.updateRun(sent.id, change);
await client.awaitPendingTraceBatches();

// Without these two the SDK does not queue a change: it would be sent before the end of its run.
const queued = await run("queued");
await client.updateRun(queued.id, { ...change, trace_id: queued.trace_id, dotted_order: queued.dotted_order });
await client.awaitPendingTraceBatches();

console.log(JSON.stringify({ sent: sent.id, queued: queued.id }));
