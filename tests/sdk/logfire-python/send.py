"""Runs a Pydantic AI agent under Logfire and prints, as JSON, what the SDK says it sent.

Endpoint and headers come from the usual OTEL_EXPORTER_OTLP_* variables.
"""

import json
import sys

import logfire
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from pydantic_ai import Agent
from pydantic_ai.models.test import TestModel
from report import Recorder, describe

recorder = Recorder()
logfire.configure(
    send_to_logfire=False,
    console=False,
    service_name="sdk-test",
    inspect_arguments=False,
    additional_span_processors=[SimpleSpanProcessor(recorder)],
)
logfire.instrument_pydantic_ai()

agent = Agent(TestModel(custom_output_text="Mild. 漢😀"), name="weather", instructions="terse", model_settings={"temperature": 0.5})


@agent.tool_plain
def get_weather(city: str) -> str:
    return f"mild in {city}"


with logfire.span("answer {question}", question="How is the weather?", _tags=["red", "blue"]):
    agent.run_sync("How is the weather?", conversation_id="thread-7")
    logfire.info("answered", user="user-7")
    try:
        with logfire.span("look up"):
            raise ValueError("no such city")
    except ValueError:
        pass

if not logfire.force_flush():
    sys.exit("the SDK could not send everything")
json.dump([describe(span) for span in recorder.spans], sys.stdout)
