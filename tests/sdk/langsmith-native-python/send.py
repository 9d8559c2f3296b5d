"""Traces with the real LangSmith SDK and through langchain-core, by LangSmith's own protocol.

Prints the runs as the SDK has them in memory when all is sent, and the feedback and attachments it was given.
"""

import json
import math
import sys

from langchain_core.language_models.fake_chat_models import FakeListChatModel
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableLambda
from langchain_core.tracers import LangChainTracer
from langsmith import traceable
from langsmith.run_helpers import get_current_run_tree
from langsmith.run_trees import get_cached_client
from langsmith.schemas import Attachment

client = get_cached_client()
runs = []
attachments = []
IMAGE = bytes(range(256)) + b"\r\n--boundary\r\n"


def note():
    runs.append(get_current_run_tree())


@traceable(run_type="llm", metadata={"ls_provider": "openai", "ls_model_name": "gpt-4o-mini", "ls_temperature": 0.5}, tags=["model"])
def call_model(messages):
    note()
    return {
        "role": "assistant",
        "content": "Mild. 漢 \u0000",
        "usage_metadata": {
            "input_tokens": 7,
            "output_tokens": 5,
            "total_tokens": 12,
            "input_token_details": {"cache_read": 3},
            "output_token_details": {"reasoning": 2},
        },
    }


@traceable(run_type="tool")
def get_weather(city):
    note()
    raise ValueError("no such city")


@traceable(run_type="retriever")
def look_up(picture: Attachment, question: str):
    note()
    return [{"page_content": question, "type": "Document", "metadata": {"n": math.nan}}]


@traceable(run_type="chain", name="answer", tags=["root"], metadata={"thread_id": "thread-7", "user_id": "user-7"})
def answer(question):
    note()
    try:
        get_weather("Paris")
    except ValueError:
        pass
    look_up(Attachment(mime_type="image/png", data=IMAGE), question)
    attachments.append({"run_id": str(runs[-1].id), "name": "picture", "mime_type": "image/png", "content": IMAGE.hex()})
    return call_model([{"role": "user", "content": question}])


answer("How is the weather?")
root = runs[0]
feedback = client.create_feedback(
    run_id=root.id, key="helpful", score=0.75, value="yes", comment="indeed", trace_id=root.trace_id
)

prompt = ChatPromptTemplate.from_messages([("system", "terse"), ("human", "{question}")])
chain = prompt | FakeListChatModel(responses=["42"]) | RunnableLambda(lambda message: {"text": message.content}, name="read")


class Noting(LangChainTracer):
    """The tracer that LangChain would make by itself, asked what it traces."""

    def _on_run_create(self, run):
        super()._on_run_create(run)
        runs.append(run)


config = {"run_name": "langchain", "tags": ["lc"], "metadata": {"session_id": "lc-7"}, "callbacks": [Noting(client=client)]}
chain.invoke({"question": "why?"}, config=config)
client.flush()


json.dump(
    {
        "runs": [
            {
                "id": str(run.id),
                "trace_id": str(run.trace_id),
                "parent_run_id": str(run.parent_run_id) if run.parent_run_id else None,
                "dotted_order": run.dotted_order,
                "name": run.name,
                "run_type": run.run_type,
                "start_time": run.start_time.isoformat(timespec="microseconds"),
                "end_time": run.end_time.isoformat(timespec="microseconds"),
                "error": run.error,
                "tags": run.tags or [],
                "metadata": {k: v for k, v in (run.extra or {}).get("metadata", {}).items() if isinstance(v, str)},
            }
            for run in runs
        ],
        "feedback": [{"id": str(feedback.id), "run_id": str(root.id), "key": "helpful", "score": 0.75, "value": "yes", "comment": "indeed"}],
        "attachments": attachments,
    },
    sys.stdout,
)
