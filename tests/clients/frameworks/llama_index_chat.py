"""LlamaIndex streams chat with a tool for each model named on standard input; a line of JSON each.

Run by the Python of .venv/clients, which `make clients` installs.
"""

from __future__ import annotations

import json
import os
import sys

from llama_index.core.llms import ChatMessage, MessageRole
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike
from pydantic import BaseModel


def get_weather(location: str, days: int) -> str:
    """The weather of a place."""
    return f"18 degrees in {location} for {days} days"


class Weather(BaseModel):
    """What it is like outside."""

    city: str
    degrees: int


TOOL = FunctionTool.from_defaults(get_weather)


def converse(model: str) -> dict[str, object]:
    llm = OpenAILike(
        model=model,
        api_base=os.environ["OPENAI_BASE_URL"],
        api_key=os.environ["OPENAI_API_KEY"],
        is_chat_model=True,
        is_function_calling_model=True,
        should_use_structured_outputs=True,
        max_retries=0,
    )
    history = [ChatMessage(role=MessageRole.USER, content="Hello there!")]
    *_, asking = llm.stream_chat_with_tools([TOOL], chat_history=history)
    calls = llm.get_tool_calls_from_response(asking)
    results = [
        ChatMessage(
            role=MessageRole.TOOL,
            content=str(TOOL(**call.tool_kwargs)),
            additional_kwargs={"tool_call_id": call.tool_id},
        )
        for call in calls
    ]
    pieces = [
        answer.delta or ""
        for answer in llm.stream_chat_with_tools(
            [TOOL], chat_history=[*history, asking.message, *results]
        )
    ]
    found = llm.as_structured_llm(Weather).complete("Hello there!")
    return {
        "asked": [call.tool_kwargs for call in calls],
        "pieces": len(pieces),
        "said": "".join(pieces),
        "object": json.loads(found.text),
        "tokens": None,
    }


for name in json.load(sys.stdin):
    print(json.dumps({"model": name, "way": "chat", **converse(name)}), flush=True)
