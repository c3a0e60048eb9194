"""A hub request becomes the body of a call to /responses."""

from __future__ import annotations

import json
from typing import Any

import pytest

from broker.errors import InferenceError
from broker.translate.chat_request import parse_chat
from broker.v1 import content_pb2, generation_pb2
from tests.broker.translate.hub import asked
from workers import registry
from workers.provider import Call
from workers.standins import CALL_A_TOOL


def call(request: generation_pb2.Request, model: str = "m", provider: str = "openai") -> Call:
    at = registry.provider(provider).serving(request, model)
    return at.dialect.call(request, model, at)


def body(request: generation_pb2.Request, model: str = "m", provider: str = "openai") -> Any:
    return json.loads(call(request, model, provider).body)


def chat(**fields: Any) -> generation_pb2.Request:
    messages = [{"role": "user", "content": "Hi"}]
    return parse_chat(json.dumps({"model": "m", "messages": messages, **fields}).encode())


BASE = {"model": "m", "input": [{"role": "user", "content": "Hello!"}], "store": False}
FUNCTION = {"type": "function", "name": "f", "description": "d", "parameters": {}, "strict": True}
SCHEMA = {"type": "json_schema", "name": "n", "schema": {"type": "object"}, "strict": True}

# Fields of a Responses body that reach the provider as they are.
SAME: list[dict[str, Any]] = [
    {"instructions": "Be kind."},
    {"temperature": 0.5, "top_p": 0.5},
    {"max_output_tokens": 20, "max_tool_calls": 2},
    {"truncation": "auto", "parallel_tool_calls": False},
    {"tools": [FUNCTION], "tool_choice": {"type": "function", "name": "f"}},
    {"tools": [{"type": "custom", "name": "c", "format": {"type": "text"}}]},
    {"tools": [{"type": "web_search", "filters": {"allowed_domains": ["a.b"]}}]},
    {"tools": [{**FUNCTION, "defer_loading": True}]},
    {"tool_choice": "required", "tools": [FUNCTION]},
    {"tool_choice": {"type": "web_search"}, "tools": [{"type": "web_search"}]},
    {
        "tools": [FUNCTION],
        "tool_choice": {
            "type": "allowed_tools",
            "mode": "required",
            "tools": [{"type": "function", "name": "f"}],
        },
    },
    {"text": {"format": SCHEMA, "verbosity": "low"}},
    {"text": {"format": {"type": "json_object"}}},
    {"reasoning": {"effort": "max", "summary": "auto", "context": "all_turns"}},
    {"include": ["web_search_call.action.sources"]},
    {"include": ["message.output_text.logprobs"], "top_logprobs": 2},
    {"prompt": {"id": "pmpt_1", "version": "2"}},
    {"context_management": [{"type": "compaction", "compact_threshold": 9}]},
    {"metadata": {"a": "b"}, "user": "u", "safety_identifier": "s", "service_tier": "flex"},
    {"prompt_cache_key": "k", "prompt_cache_retention": "24h"},
    {"moderation": {"model": "x"}},
    {"stream": True, "stream_options": {"include_obfuscation": False}},
]


@pytest.mark.parametrize("fields", SAME, ids="+".join)
def test_a_field_reaches_the_provider_as_the_caller_sent_it(fields: dict[str, Any]) -> None:
    made = call(asked(**fields))
    assert json.loads(made.body) == BASE | fields
    assert made.path == "/responses"
    assert made.dropped == ()


IMAGE = {"type": "input_image", "image_url": "https://a.b/c.png", "detail": "low"}
FILE = {"type": "input_file", "filename": "a.txt", "file_data": "data:text/plain;base64,aGk="}
USER = {"role": "user", "content": "Hi"}
# Input items that go out as they came, but for ids and statuses.
ITEMS: list[list[dict[str, Any]]] = [
    [USER],
    [{"role": "system", "content": "a"}, {"role": "developer", "content": "b"}, USER],
    [{"role": "user", "content": [{"type": "input_text", "text": "a"}, IMAGE, FILE]}],
    [{"role": "user", "content": [{"type": "input_image", "file_id": "file-1"}]}],
    [{"role": "user", "content": [{"type": "input_file", "file_url": "https://a.b/c.pdf"}]}],
    [USER, {"role": "assistant", "content": "Yes?"}, USER],
    [USER, {"role": "assistant", "content": "Wait.", "phase": "commentary"}, USER],
    [USER, {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]}, USER],
    [
        USER,
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
        {"type": "function_call", "call_id": "d", "name": "f", "arguments": "{bad"},
        {"type": "function_call_output", "call_id": "c", "output": "ok"},
        {
            "type": "function_call_output",
            "call_id": "d",
            "output": [{"type": "input_text", "text": "see"}, IMAGE],
        },
    ],
    [
        USER,
        {"type": "custom_tool_call", "call_id": "c", "name": "s", "input": "select 1"},
        {"type": "custom_tool_call_output", "call_id": "c", "output": "1"},
    ],
    [
        USER,
        {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gAAA"},
        {"role": "assistant", "content": "Yes."},
        {"type": "web_search_call", "id": "ws_1", "status": "completed"},
        {"role": "assistant", "content": "Rain."},
    ],
    [USER, {"type": "compaction", "id": "cmp_1", "encrypted_content": "x"}],
    [
        USER,
        {"type": "image_generation_call", "id": "ig_1", "result": "aGk=", "status": "completed"},
    ],
    [
        {"type": "computer_call", "id": "cu_1", "call_id": "c", "action": {"type": "click"}},
        {"type": "computer_call_output", "call_id": "c", "output": {"type": "x"}},
    ],
]


@pytest.mark.parametrize("items", ITEMS)
def test_input_items_go_out_as_they_came(items: list[dict[str, Any]]) -> None:
    assert body(asked(input=items))["input"] == items


def test_nothing_is_looked_up_or_kept_at_the_provider() -> None:
    sent = body(asked(previous_response_id="resp_1", store=True, background=True))
    assert sent == BASE
    assert body(asked(conversation="conv_1")) == BASE


def test_reasoning_without_encrypted_content_stays_here() -> None:
    items = [{"type": "reasoning", "id": "rs_1", "summary": []}, {"role": "user", "content": "a"}]
    assert body(asked(input=items))["input"] == items[1:]


def test_a_model_that_reasons_is_asked_for_its_state() -> None:
    state = ["reasoning.encrypted_content"]
    assert body(asked(), "gpt-5")["include"] == state
    assert body(asked(include=state), "gpt-5")["include"] == state
    assert "include" not in body(asked(), "gpt-4o")
    assert "include" not in body(asked(), "gpt-5.2")
    assert body(asked(reasoning={"effort": "low"}), "gpt-5.2")["include"] == state


def test_a_chat_request_that_needs_it_is_written_in_this_format() -> None:
    search = {"type": "web_search"}
    function = {"type": "function", "function": {"name": "f"}}
    sent = body(
        chat(
            tools=[search, function],
            messages=[
                {"role": "system", "content": "Be kind."},
                {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
            ],
            max_tokens=20,
            reasoning_effort="low",
            logprobs=True,
            top_logprobs=1,
        )
    )
    assert sent == {
        "model": "m",
        "input": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}],
        "store": False,
        "tools": [
            search,
            {
                "type": "function",
                "name": "f",
                "parameters": {"type": "object", "properties": {}},
                # Chat's functions are not strict unless they say so.
                "strict": False,
            },
        ],
        "max_output_tokens": 20,
        "reasoning": {"effort": "low"},
        "include": ["message.output_text.logprobs"],
        "top_logprobs": 1,
    }


NEEDED: list[tuple[str, generation_pb2.Request, str, bool]] = [
    ("openai", asked(), "gpt-4o", True),
    ("openai", chat(), "gpt-4o", False),
    ("openai", chat(), "o1-pro", True),
    ("openai", chat(), "gpt-5-pro-2025-10-06", True),
    ("openai", chat(), "gpt-5.3-codex", True),
    ("openai", chat(), "gpt-5", False),
    ("openai", chat(tools=[{"type": "web_search"}]), "gpt-5", True),
    ("azure", asked(), "my-deployment", True),
    ("azure", asked(), "Mistral-Large-3", False),
    ("azure", chat(), "gpt-5-codex", True),
    ("xai", asked(), "grok-4.5", True),
    ("xai", chat(), "grok-4.5", False),
    ("deepseek", asked(), "deepseek-v4-pro", True),
    ("openrouter", asked(), "openai/gpt-5.2", True),
    ("openrouter", chat(tools=[{"type": "openrouter:web_search"}]), "openai/gpt-5.2", False),
    ("groq", chat(tools=[{"type": "browser_search"}]), "openai/gpt-oss-20b", False),
    ("groq", asked(), "openai/gpt-oss-20b", False),
    ("groq", asked(tools=[{"type": "browser_search"}]), "openai/gpt-oss-20b", True),
    ("groq", asked(include=["message.output_text.logprobs"]), "openai/gpt-oss-20b", False),
    ("groq", asked(reasoning={"summary": "auto"}), "openai/gpt-oss-20b", True),
    ("mistral", asked(), "mistral-large", False),
]


@pytest.mark.parametrize(("provider", "request_", "model", "native"), NEEDED)
def test_a_request_goes_to_the_format_that_can_carry_it(
    provider: str, request_: generation_pb2.Request, model: str, native: bool
) -> None:
    assert call(request_, model, provider).path.startswith("/responses") == native or (
        provider == "azure" and ("/responses" in call(request_, model, provider).path) == native
    )


def test_reasoning_of_servers_without_state_goes_back_as_text() -> None:
    thought = {
        "type": "reasoning",
        "summary": [],
        "content": [{"type": "reasoning_text", "text": "hm"}],
    }
    items = [{"role": "user", "content": "a"}, thought, {"role": "assistant", "content": "b"}]
    request = asked(input=items)
    assert body(request, "deepseek-v4-pro", "deepseek")["input"] == items
    assert body(request)["input"] == [items[0], items[2]]


def test_what_a_provider_cannot_take_is_left_out_and_reported() -> None:
    made = call(asked(metadata={"a": "b"}, user="u"), "deepseek-v4-pro", "deepseek")
    assert made.dropped == ("user", "metadata")
    assert not {"metadata", "user"} & json.loads(made.body).keys()


@pytest.mark.parametrize(
    ("choice", "names"), [("required", ["f", "g"]), ({"type": "function", "name": "g"}, ["g"])]
)
def test_a_model_that_cannot_be_made_to_call_a_tool_is_asked_to(
    choice: Any, names: list[str]
) -> None:
    tools = [FUNCTION, {**FUNCTION, "name": "g"}]
    request = asked(tools=tools, tool_choice=choice, instructions="Be kind.")
    made = body(request, "deepseek-v4-pro", "deepseek")
    assert [tool["name"] for tool in made["tools"]] == names
    assert made["instructions"] == f"Be kind.\n\n{CALL_A_TOOL}"
    # There is no state to bring along.
    assert not made.keys() & {"tool_choice", "include"}
    assert body(request)["tool_choice"] == choice


@pytest.mark.parametrize("provider", ["openai", "deepseek"])
def test_no_message_is_continued_there(provider: str) -> None:
    request = asked()
    request.generate.messages.add(role=content_pb2.ROLE_ASSISTANT, continued=True)
    with pytest.raises(InferenceError, match="does not continue"):
        call(request, "m", provider)
