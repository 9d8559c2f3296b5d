"""Traces with the real Langfuse SDK under a trace id of the caller's own: the SDK invents a parent, which no span is."""

from langfuse import Langfuse, get_client

langfuse = get_client()
trace_id = Langfuse.create_trace_id(seed="order 7")
with langfuse.start_as_current_observation(
    as_type="span", name="handle-request", input={"q": "hi"}, trace_context={"trace_id": trace_id}
) as root:
    with langfuse.start_as_current_observation(as_type="generation", name="llm", model="gpt-4o-mini") as call:
        call.update(output="yo")
    root.update(output="done")
langfuse.flush()
print(trace_id)
