"""LangChain streams chat with a tool for each model named on standard input; a line of JSON each.

Run by the Python of .venv/clients, which `make clients` installs.
"""

from __future__ import annotations

import json
import sys

from langchain_core.messages import AIMessageChunk, HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel


@tool  # type: ignore[untyped-decorator]
def get_weather(location: str, days: int) -> str:
    """The weather of a place."""
    return f"18 degrees in {location} for {days} days"


class Weather(BaseModel):
    """What it is like outside."""

    city: str
    degrees: int


def converse(model: str, *, responses: bool) -> dict[str, object]:
    chat = ChatOpenAI(model=model, max_retries=0, stream_usage=True, use_responses_api=responses)
    history = [HumanMessage("Hello there!")]
    asking = None
    for chunk in chat.bind_tools([get_weather]).stream(history):
        asking = chunk if asking is None else asking + chunk
    assert isinstance(asking, AIMessageChunk)
    asked = [call["args"] for call in asking.tool_calls]
    results = [
        ToolMessage(get_weather.invoke(call["args"]), tool_call_id=call["id"])
        for call in asking.tool_calls
    ]
    pieces = [
        chunk.text for chunk in chat.bind_tools([get_weather]).stream([*history, asking, *results])
    ]
    found = chat.with_structured_output(Weather, method="json_schema").invoke("Hello there!")
    return {
        "asked": asked,
        "pieces": len(pieces),
        "said": "".join(pieces),
        "object": found.model_dump(),
        "tokens": (asking.usage_metadata or {}).get("total_tokens"),
    }


for name in json.load(sys.stdin):
    for way in ("chat", "responses"):
        told = converse(name, responses=way == "responses")
        print(json.dumps({"model": name, "way": way, **told}), flush=True)
