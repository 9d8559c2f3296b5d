"""Traces a small chain with the real LangSmith SDK in its OpenTelemetry mode, configured by environment variables alone.

Prints the runs as the SDK knows them, and the spans that it says it sent.
"""

import json
import sys

from langsmith import Client, traceable
from langsmith.run_helpers import get_current_run_tree
from opentelemetry import trace
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from report import Recorder, describe

client = Client()
recorder = Recorder()
trace.get_tracer_provider().add_span_processor(SimpleSpanProcessor(recorder))
sent = []


def note():
    run = get_current_run_tree()
    sent.append({"name": run.name, "run_type": run.run_type})


@traceable(run_type="llm", metadata={"ls_provider": "openai", "ls_model_name": "gpt-4o-mini"}, client=client)
def call_model(messages):
    note()
    return {"role": "assistant", "content": "Mild."}


@traceable(run_type="tool", client=client)
def get_weather(city):
    note()
    return {"temperature": 17}


@traceable(run_type="chain", name="answer", client=client)
def answer(question):
    note()
    get_weather("Paris")
    return call_model([{"role": "user", "content": question}])


for i in range(int(sys.argv[1])):
    answer(f"How is the weather? {i}")
client.flush()
trace.get_tracer_provider().force_flush()
json.dump({"runs": sent, "spans": [describe(span) for span in recorder.spans]}, sys.stdout)
