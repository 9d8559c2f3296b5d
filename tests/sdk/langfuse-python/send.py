"""Traces with the real Langfuse SDK, configured by its own variables, and prints, as JSON, what the SDK says it sent."""

import json
import sys

from langfuse import get_client, observe, propagate_attributes
from opentelemetry import trace
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from report import Recorder, describe

langfuse = get_client()
recorder = Recorder()
trace.get_tracer_provider().add_span_processor(SimpleSpanProcessor(recorder))


@observe(as_type="generation")
def call_model(messages):
    langfuse.update_current_generation(
        model="gpt-4o-mini",
        model_parameters={"temperature": 0.5},
        usage_details={"input": 14, "cache_read_input_tokens": 3, "output": 3, "output_reasoning_tokens": 2, "total": 22},
        cost_details={"input": 0.25, "output": 0.5, "total": 0.75},
    )
    return {"role": "assistant", "content": "Mild. 漢😀"}


@observe(as_type="retriever")
def look_up(question):
    return ["a page"]


@observe(as_type="tool")
def get_weather(city):
    raise ValueError("no such city")


@observe(as_type="agent")
def answer(question):
    look_up(question)
    try:
        get_weather("Atlantis")
    except ValueError:
        pass
    return call_model([{"role": "user", "content": question}])


with propagate_attributes(session_id="thread-7", user_id="user-7", tags=["red", "blue"], metadata={"attempt": "2"}):
    answer("How is the weather?")
langfuse.flush()
json.dump([describe(span) for span in recorder.spans], sys.stdout)
