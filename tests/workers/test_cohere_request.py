from __future__ import annotations

import json
from typing import Any

import pytest

from broker.errors import InferenceError
from broker.v1.content_pb2 import Message, Part
from tests.workers.anthropic_hub import (
    PDF,
    PNG,
    C,
    G,
    assistant,
    called,
    request,
    result,
    system,
    text,
    tool,
    user,
)
from workers import registry
from workers.provider import Call

COHERE = registry.provider("cohere")
MODEL, REASONING, OLD = "command-a-03-2025", "command-a-reasoning-08-2025", "command-r-08-2024"
ANSWER = G.ResponseFormat(
    kind=G.ResponseFormat.KIND_JSON_SCHEMA, name="person", schema=b'{"properties":{"a":{}}}'
)
OBJECT = G.ResponseFormat(kind=G.ResponseFormat.KIND_JSON_OBJECT)
SCHEMA = {"type": "object", "properties": {"a": {}}}


def call(asked: G.Request, model: str = MODEL) -> Call:
    return COHERE.dialect.call(asked, model, COHERE)


def body(asked: G.Request, model: str = MODEL) -> Any:
    return json.loads(call(asked, model).body)


def refusal(asked: G.Request, model: str = MODEL) -> InferenceError:
    with pytest.raises(InferenceError) as caught:
        call(asked, model)
    return caught.value


def image(**source: Any) -> Part:
    return Part(image=C.Image(detail="low", **source))


def opaque(kind: str, value: Any) -> Part:
    return Part(opaque=C.Opaque(type=kind, json=json.dumps(value).encode(), issuer="openai_chat"))


def choice(mode: str, *names: str, **more: Any) -> G.ToolChoice:
    return G.ToolChoice(mode=G.ToolChoice.Mode.Value(f"MODE_{mode}"), names=names, **more)


DOCUMENT = {"type": "document", "document": {"id": "1", "data": {"title": "t"}}}
INLINE = C.InlineData(media_type="image/png", data=PNG)
CONVERSATIONS: list[tuple[str, list[Message], Any]] = [
    (
        "roles, with developer as system",
        [system("a"), Message(role=C.ROLE_DEVELOPER, parts=[text("b")]), user("q"), system("c")],
        [
            {"role": "system", "content": "a"},
            {"role": "system", "content": "b"},
            {"role": "user", "content": "q"},
            {"role": "system", "content": "c"},
        ],
    ),
    (
        "who of several users speaks stands before the text",
        [user("q", name="ann"), assistant("a")],
        [{"role": "user", "content": "ann: q"}, {"role": "assistant", "content": "a"}],
    ),
    (
        "images by address and inline",
        [user("q", image(url="https://example.com/a.png"), image(inline=INLINE))],
        [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "q"},
                    {
                        "type": "image_url",
                        "image_url": {"url": "https://example.com/a.png", "detail": "low"},
                    },
                    {
                        "type": "image_url",
                        "image_url": {
                            "url": "data:image/png;base64,iVBORw0KGgo=",
                            "detail": "low",
                        },
                    },
                ],
            }
        ],
    ),
    (
        "text files as text",
        [
            user(
                Part(
                    file=C.File(
                        inline=C.InlineData(media_type="text/csv", data=b"a,b"), filename="x.csv"
                    )
                )
            )
        ],
        [{"role": "user", "content": "x.csv:\na,b"}],
    ),
    (
        "calls and results, documents among them",
        [
            user("q"),
            assistant("", called("1", '{"a":1}'), called("2", "")),
            result("1", "one"),
            result("2", opaque("document", DOCUMENT)),
        ],
        [
            {"role": "user", "content": "q"},
            {
                "role": "assistant",
                "tool_calls": [
                    {
                        "id": "1",
                        "type": "function",
                        "function": {"name": "f", "arguments": '{"a":1}'},
                    },
                    {"id": "2", "type": "function", "function": {"name": "f", "arguments": "{}"}},
                ],
            },
            {"role": "tool", "tool_call_id": "1", "content": "one"},
            {"role": "tool", "tool_call_id": "2", "content": [DOCUMENT]},
        ],
    ),
    (
        "a legacy function's call and result get one id",
        [
            user("q"),
            assistant(called("", legacy_function=True)),
            result("", "noon", name="f", legacy_function=True),
        ],
        [
            {"role": "user", "content": "q"},
            {
                "role": "assistant",
                "tool_calls": [
                    {
                        "id": "call",
                        "type": "function",
                        "function": {"name": "f", "arguments": "{}"},
                    }
                ],
            },
            {"role": "tool", "tool_call_id": "call", "content": "noon"},
        ],
    ),
    (
        "a message that says nothing is left out, which Cohere would refuse",
        [user("q"), assistant(""), user("r")],
        [{"role": "user", "content": "q"}, {"role": "user", "content": "r"}],
    ),
]


@pytest.mark.parametrize(
    ("messages", "expected"), [pytest.param(m, e, id=name) for name, m, e in CONVERSATIONS]
)
def test_messages(messages: list[Message], expected: Any) -> None:
    assert body(request(*messages))["messages"] == expected


def thought(value: str, *blobs: C.Blob) -> Part:
    return Part(reasoning=C.Reasoning(text=value, blobs=blobs))


def test_a_plan_goes_back_as_a_plan_and_thoughts_as_thoughts() -> None:
    asked = request(user("q"), assistant(thought("hm"), "a", called("1")), result("1", "x"))
    plan = body(asked)["messages"][1]
    assert (plan["tool_plan"], plan["content"]) == ("hm", "a")
    content = body(asked, REASONING)["messages"][1]["content"]
    assert content == [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "a"}]


def test_thoughts_without_a_call_are_not_sent_to_models_that_have_none() -> None:
    asked = request(user("q"), assistant(thought("hm"), "a"), user("r"))
    assert body(asked)["messages"][1] == {"role": "assistant", "content": "a"}


def test_thoughts_that_another_provider_signed_stay_away() -> None:
    blob = C.Blob(issuer="anthropic_messages", kind="signature", data=b"s")
    asked = request(user("q"), assistant(thought("hm", blob), "a"), user("r"))
    assert body(asked, REASONING)["messages"][1] == {"role": "assistant", "content": "a"}


@pytest.mark.parametrize(
    ("message", "param"),
    [
        (user(Part(file=C.File(inline=C.InlineData(data=PDF)))), "messages[0].content[0]"),
        (user(Part(file=C.File(file_id="f"))), "messages[0].content[0]"),
        (user(Part(audio=C.Audio(inline=C.InlineData(data=b"x")))), "messages[0].content[0]"),
        (system(image(inline=INLINE)), "messages[0]"),
        (result("1", image(inline=INLINE)), "messages[0].content[0]"),
        (user(opaque("video_url", {})), "messages[0].content[0]"),
    ],
    ids=["pdf", "stored file", "audio", "image in a system prompt", "image as a result", "video"],
)
def test_what_cohere_cannot_read_is_refused_where_it_stands(message: Message, param: str) -> None:
    if param == "messages[0].content[0]" and message.parts[0].file.inline.data == PDF:
        message.parts[0].file.inline.media_type = "application/pdf"
    assert refusal(request(message)).param == param


def test_nothing_to_say_is_refused() -> None:
    assert refusal(request(user(""))).param == "messages"


def test_parameters_go_under_coheres_names_and_within_its_bounds() -> None:
    asked = request(
        temperature=1.5,
        top_p=1.0,
        presence_penalty=-1,
        frequency_penalty=2,
        stop=["a"],
        seed=7,
        max_output_tokens=9,
        logprobs=True,
        stream=True,
        extra={"top_k": 3, "safety_mode": "STRICT", "citation_options": {"mode": "OFF"}},
    )
    sent = body(asked)
    del sent["messages"]
    assert sent == {
        "model": MODEL,
        "temperature": 1,
        "p": 0.99,
        "presence_penalty": 0,
        "frequency_penalty": 1,
        "stop_sequences": ["a"],
        "seed": 7,
        "max_tokens": 9,
        "logprobs": True,
        "stream": True,
        "k": 3,
        "safety_mode": "STRICT",
        "citation_options": {"mode": "OFF"},
    }
    assert call(asked).dropped == ()


def test_what_cohere_lacks_is_dropped_and_reported_or_refused() -> None:
    asked = request(user="u", store=True, logit_bias={"1": 1.0}, extra={"min_p": 0.1})
    assert set(call(asked).dropped) == {"user", "store", "logit_bias", "min_p"}
    asked.platform.drop_params = False
    assert refusal(asked).reason == "unsupported_parameter"


def test_the_path_keeps_its_version_once() -> None:
    assert call(request()).path == "/v2/chat"
    from dataclasses import replace

    there = replace(COHERE, base_url="http://x/v2/")
    assert there.dialect.call(request(), MODEL, there).path == "/chat"


@pytest.mark.parametrize(
    ("effort", "limit", "thinking"),
    [
        ("none", None, {"type": "disabled"}),
        ("low", None, {"type": "enabled", "token_budget": 2048}),
        ("xhigh", None, {"type": "enabled", "token_budget": 31_000}),
        ("high", 1000, {"type": "enabled", "token_budget": 750}),
    ],
)
def test_effort_becomes_a_budget_that_leaves_room(effort: str, limit: Any, thinking: Any) -> None:
    limits = {"max_tokens": limit} if limit else {}
    asked = request(reasoning=G.ReasoningOptions(effort=effort), **limits)
    assert body(asked, REASONING)["thinking"] == thinking
    assert "thinking" not in body(asked)
    assert call(asked).dropped == ("reasoning_effort",)


def test_thinking_in_coheres_own_words_wins() -> None:
    own = {"type": "enabled", "token_budget": 5}
    asked = request(reasoning=G.ReasoningOptions(effort="high"), extra={"thinking": own})
    assert body(asked, REASONING)["thinking"] == own


def test_an_unknown_effort_is_refused() -> None:
    asked = request(reasoning=G.ReasoningOptions(effort="huge"))
    assert refusal(asked, REASONING).param == "reasoning_effort"


def test_tools_have_parameters_even_when_they_take_none() -> None:
    custom = G.Tool(custom=G.CustomTool(name="run", description="Runs."))
    sent = body(request(tools=[tool("f", strict=True), custom]))
    functions = [t["function"] for t in sent["tools"]]
    assert functions[0] == {"name": "f", "parameters": {"type": "object", "properties": {}}}
    assert functions[1]["parameters"]["required"] == ["input"]
    assert "strict_tools" not in sent


def test_strict_tools_is_one_switch_for_all() -> None:
    assert body(request(tools=[tool("f", strict=True)]))["strict_tools"] is True
    mixed = request(tools=[tool("f", strict=True), tool("g")])
    assert "strict_tools" not in body(mixed)
    assert call(mixed).dropped == ("tools[].function.strict",)


def test_hosted_tools_are_refused() -> None:
    hosted = G.Tool(hosted=G.HostedTool(type="web_search", json=b"{}"))
    assert refusal(request(tools=[hosted])).param == "tools[0]"


TOOLS = [tool("f"), tool("g")]


@pytest.mark.parametrize(
    ("wanted", "word", "names"),
    [
        (choice("AUTO"), None, ["f", "g"]),
        (choice("NONE"), "NONE", ["f", "g"]),
        (choice("REQUIRED"), "REQUIRED", ["f", "g"]),
        (choice("NAMED", "g"), "REQUIRED", ["g"]),
        (choice("ALLOWED", "g"), None, ["g"]),
        (choice("ALLOWED", "g", required=True), "REQUIRED", ["g"]),
    ],
)
def test_tool_choice(wanted: G.ToolChoice, word: Any, names: list[str]) -> None:
    sent = body(request(tools=TOOLS, tool_choice=wanted))
    assert sent.get("tool_choice") == word
    assert [t["function"]["name"] for t in sent["tools"]] == names


def test_models_without_tool_choice_are_asked_in_words() -> None:
    must = body(
        request(system("be"), user("q"), tools=TOOLS, tool_choice=choice("NAMED", "g")), OLD
    )
    assert [t["function"]["name"] for t in must["tools"]] == ["g"]
    assert "tool_choice" not in must
    assert [m["role"] for m in must["messages"]] == ["system", "system", "user"]
    assert "tools" not in body(request(tools=TOOLS, tool_choice=choice("NONE")), OLD)


def test_a_choice_without_tools_is_lost() -> None:
    asked = request(tool_choice=choice("REQUIRED"))
    assert "tool_choice" not in body(asked)
    assert call(asked).dropped == ("tool_choice",)


def test_a_schema_is_the_answers_format() -> None:
    sent = body(request(response_format=ANSWER))
    assert sent["response_format"] == {"type": "json_object", "json_schema": SCHEMA}


def test_json_mode_mentions_json_where_the_caller_did_not() -> None:
    sent = body(request(user("q"), response_format=OBJECT))
    assert sent["response_format"] == {"type": "json_object"}
    assert "JSON" in sent["messages"][0]["content"]
    assert len(body(request(user("as Json"), response_format=OBJECT))["messages"]) == 1


def test_beside_tools_a_tool_takes_the_structured_answer() -> None:
    sent = body(request(tools=[tool("f")], response_format=ANSWER))
    assert [t["function"]["name"] for t in sent["tools"]] == ["f", "person"]
    assert sent["tools"][1]["function"]["parameters"] == SCHEMA
    assert sent["tool_choice"] == "REQUIRED"
    assert "response_format" not in sent


@pytest.mark.parametrize(
    "asked",
    [
        request(tools=[tool("f")], tool_choice=choice("NONE"), response_format=ANSWER),
        request(response_format=ANSWER, extra={"documents": ["d"]}),
    ],
    ids=["tools that may not be called", "documents"],
)
def test_where_cohere_takes_no_format_the_schema_is_an_instruction(asked: G.Request) -> None:
    sent = body(asked)
    assert "response_format" not in sent
    assert json.dumps(SCHEMA, separators=(",", ":")) in sent["messages"][0]["content"]


def test_a_foreign_format_is_refused() -> None:
    other = G.ResponseFormat(kind=G.ResponseFormat.KIND_OTHER, json=b'{"type":"grammar"}')
    assert refusal(request(response_format=other)).param == "response_format.type"


@pytest.mark.parametrize("fields", [{"n": 2}, {"modalities": ["audio"]}])
def test_what_would_change_the_answer_is_refused(fields: Any) -> None:
    assert refusal(request(**fields)).param == next(iter(fields))
