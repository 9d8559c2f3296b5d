"""Runs a decorated workflow under OpenLLMetry (traceloop-sdk) and prints, as JSON, what the SDK says it sent.

Endpoint and headers come from TRACELOOP_BASE_URL and TRACELOOP_HEADERS. The model is a server in this process.
"""

import contextlib
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry import trace
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from report import Recorder, describe
from traceloop.sdk import Traceloop
from traceloop.sdk.decorators import agent, task, tool, workflow
from traceloop.sdk.instruments import Instruments


class Model(BaseHTTPRequestHandler):
    """Answers every chat with a call of a tool, as OpenAI would."""

    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        call = {"id": "call_7", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Paris"}'}}
        message = {"role": "assistant", "content": "Let me see. 漢😀", "tool_calls": [call]}
        body = json.dumps(
            {
                "id": "chatcmpl-7",
                "object": "chat.completion",
                "created": 1,
                "model": "gpt-4o-mini-2024-07-18",
                "choices": [{"index": 0, "finish_reason": "tool_calls", "message": message}],
                "usage": {
                    "prompt_tokens": 17,
                    "completion_tokens": 5,
                    "total_tokens": 22,
                    "prompt_tokens_details": {"cached_tokens": 3},
                    "completion_tokens_details": {"reasoning_tokens": 2},
                },
            }
        ).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Model)
threading.Thread(target=server.serve_forever, daemon=True).start()

# The SDK prints what it does.
with contextlib.redirect_stdout(sys.stderr):
    Traceloop.init(app_name="sdk-test", instruments={Instruments.OPENAI})
recorder = Recorder()
trace.get_tracer_provider().add_span_processor(SimpleSpanProcessor(recorder))

from openai import OpenAI  # noqa: E402

model = OpenAI(base_url=f"http://127.0.0.1:{server.server_port}/v1", api_key="none")


@tool(name="get_weather")
def get_weather(city):
    if city == "Atlantis":
        raise ValueError("no such city")
    return {"temperature": 17}


@task(name="ask")
def ask(question):
    messages = [{"role": "system", "content": "terse"}, {"role": "user", "content": question}]
    reply = model.chat.completions.create(model="gpt-4o-mini", temperature=0.5, messages=messages)
    return reply.choices[0].message.tool_calls[0].function.arguments


@agent(name="planner")
def plan(question):
    arguments = json.loads(ask(question))
    try:
        get_weather("Atlantis")
    except ValueError:
        pass
    return get_weather(**arguments)


@workflow(name="answer")
def answer(question):
    return plan(question)


Traceloop.set_association_properties({"session_id": "thread-7", "user_id": "user-7", "attempt": 2})
answer("How is the weather?")
if not trace.get_tracer_provider().force_flush():
    sys.exit("the SDK could not send everything")
json.dump([describe(span) for span in recorder.spans], sys.stdout)
sys.stdout.flush()
