"""Runs a LangChain chain under OpenInference's instrumentation and prints, as JSON, what the SDK says it sent.

Endpoint and headers come from the usual OTEL_EXPORTER_OTLP_* variables.
"""

import json
import sys

from langchain_core.documents import Document
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import tool
from openinference.instrumentation import using_attributes
from openinference.instrumentation.langchain import LangChainInstrumentor
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor
from report import Recorder, describe

recorder = Recorder()
provider = TracerProvider(resource=Resource.create({"service.name": "sdk-test", "openinference.project.name": "weather"}))
provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
provider.add_span_processor(SimpleSpanProcessor(recorder))
LangChainInstrumentor().instrument(tracer_provider=provider)


class Model(GenericFakeChatModel):
    """Answers from a list, and says who it is as a real one does."""

    @property
    def _identifying_params(self):
        return {"model_name": "gpt-4o-mini", "temperature": 0.5}

    def _get_ls_params(self, stop=None, **kwargs):
        return {"ls_provider": "openai", "ls_model_name": "gpt-4o-mini", "ls_model_type": "chat", "ls_temperature": 0.5}


class Library(BaseRetriever):
    """Finds one document, whatever is asked."""

    def _get_relevant_documents(self, query, *, run_manager):
        return [Document(page_content=f"about {query} 漢😀", metadata={"page": 7})]


@tool
def get_weather(city: str) -> str:
    """The weather of a city."""
    if city == "Atlantis":
        raise ValueError("no such city")
    return f"mild in {city}"


usage = {
    "input_tokens": 17,
    "output_tokens": 5,
    "total_tokens": 22,
    "input_token_details": {"cache_read": 3},
    "output_token_details": {"reasoning": 2},
}
call = {"name": "get_weather", "args": {"city": "Paris"}, "id": "call_7"}
model = Model(messages=iter([AIMessage(content="Let me see.", tool_calls=[call], usage_metadata=usage)]))
prompt = ChatPromptTemplate.from_messages([("system", "terse"), ("human", "{question} {documents}")])
library = Library()


def answer(question):
    documents = library.invoke(question)
    message = (prompt | model).invoke({"question": question, "documents": documents[0].page_content})
    try:
        get_weather.invoke({"city": "Atlantis"})
    except ValueError:
        pass
    return get_weather.invoke(message.tool_calls[0]["args"])


with using_attributes(session_id="thread-7", user_id="user-7", tags=["red", "blue"], metadata={"attempt": 2}):
    RunnableLambda(answer, name="answer").invoke("How is the weather?")

if not provider.force_flush():
    sys.exit("the SDK could not send everything")
provider.shutdown()
json.dump([describe(span) for span in recorder.spans], sys.stdout)
