"""One run with LangSmith's SDK. Needs TRACEBILITY_INGEST_URL and TRACEBILITY_API_KEY."""

import os

os.environ["LANGSMITH_TRACING"] = "true"
os.environ["LANGSMITH_ENDPOINT"] = os.environ["TRACEBILITY_INGEST_URL"]
os.environ["LANGSMITH_API_KEY"] = os.environ["TRACEBILITY_API_KEY"]
os.environ["LANGSMITH_PROJECT"] = "example"

from langsmith import Client, traceable  # noqa: E402 (reads the environment when it is imported)

client = Client()


@traceable(run_type="chain", client=client)
def answer(question: str) -> str:
    return f"You asked: {question}"


print(answer("Where do my traces go?"))
client.flush()
