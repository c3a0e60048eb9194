from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from broker.errors import InferenceError
from broker.v1.content_pb2 import Part
from tests.workers.anthropic_hub import (
    ADAPTIVE,
    ANTHROPIC,
    BUDGET,
    OLD,
    C,
    G,
    assistant,
    body,
    call,
    called,
    dropped,
    refusal,
    request,
    result,
    system,
    thought,
    tool,
    user,
)

# --- where it goes -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("base_url", "path"),
    [
        ("https://api.anthropic.com", "/v1/messages"),
        ("http://localhost:9900", "/v1/messages"),
        ("http://localhost:9900/v1", "/messages"),
        ("http://localhost:9900/v1/", "/messages"),
        ("https://gateway/anthropic", "/v1/messages"),
    ],
)
def test_the_version_stands_once_in_the_address(base_url: str, path: str) -> None:
    moved = replace(ANTHROPIC, base_url=base_url)
    assert ANTHROPIC.dialect.call(request(), BUDGET, moved).path == path


def test_the_key_goes_in_its_own_header_and_the_version_is_the_one_with_sampling() -> None:
    assert (ANTHROPIC.auth_header, ANTHROPIC.auth_prefix) == ("x-api-key", "")
    assert call(request()).headers["anthropic-version"] == "2023-06-01"


def test_the_callers_headers_go_along_but_never_stand_in_for_ours() -> None:
    asked = request()
    for name in ("X-Custom", "Anthropic-Beta", "X-Api-Key", "Anthropic-Version", "Host", "Cookie"):
        asked.platform.extra_headers[name] = "theirs"
    headers = call(asked).headers
    assert headers["x-custom"] == "theirs"
    assert headers["anthropic-beta"] == "theirs"
    assert headers["anthropic-version"] == "2023-06-01"
    assert not {"x-api-key", "host", "cookie"} & {name.lower() for name in headers}


def test_beta_features_of_the_caller_and_of_the_content_are_listed_once() -> None:
    asked = request(
        user(Part(file=C.File(file_id="file_1"))),
        extra={"betas": ["b-2025-01-01"], "mcp_servers": [{"type": "url"}]},
    )
    asked.platform.extra_headers["anthropic-beta"] = "a, mcp-client-2025-11-20"
    assert call(asked).headers["anthropic-beta"].split(",") == [
        "a",
        "mcp-client-2025-11-20",
        "b-2025-01-01",
        "files-api-2025-04-14",
    ]


# --- parameters --------------------------------------------------------------------------------

FORMAT = G.ResponseFormat
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer", "minimum": 1}}}
JSON_SCHEMA = FORMAT(
    kind=FORMAT.KIND_JSON_SCHEMA, name="out put", schema=json.dumps(SCHEMA).encode()
)
CLOSED = {
    "type": "object",
    "properties": {"a": {"type": "integer", "description": "{minimum: 1}"}},
    "additionalProperties": False,
}
effort = G.ReasoningOptions

ABSENT = object()
# (model, fields of the request, path in the body, value there)
# fmt: off
CELLS: list[tuple[str, dict[str, Any], str, Any]] = [
    (BUDGET, {"max_tokens": 7}, "max_tokens", 7),
    (BUDGET, {"max_tokens": 7, "max_output_tokens": 9}, "max_tokens", 9),
    (BUDGET, {"max_tokens": 10**6}, "max_tokens", 64_000),
    (BUDGET, {}, "max_tokens", 64_000),
    (ADAPTIVE, {}, "max_tokens", 128_000),
    ("claude-sonnet-4-20250514", {}, "max_tokens", 4096),
    ("claude-3-opus-20240229", {"max_tokens": 8192}, "max_tokens", 4096),
    ("somebody-elses-model", {}, "max_tokens", 4096),
    ("somebody-elses-model", {"max_tokens": 10**6}, "max_tokens", 10**6),
    (BUDGET, {"temperature": 0.3}, "temperature", 0.3),
    (BUDGET, {"temperature": 1.9}, "temperature", 1.0),
    (BUDGET, {"temperature": 0.0}, "temperature", 0.0),
    (BUDGET, {}, "temperature", ABSENT),
    (BUDGET, {"top_p": 0.5}, "top_p", 0.5),
    (BUDGET, {"stop": ["a", "b"]}, "stop_sequences", ["a", "b"]),
    (BUDGET, {"stream": True}, "stream", True),
    (BUDGET, {"stream": False}, "stream", ABSENT),
    (BUDGET, {"user": "u-1"}, "metadata", {"user_id": "u-1"}),
    (BUDGET, {"safety_identifier": "u-1"}, "metadata", {"user_id": "u-1"}),
    (BUDGET, {"metadata": {"user_id": "u-1"}}, "metadata", {"user_id": "u-1"}),
    (BUDGET, {"service_tier": "default"}, "service_tier", "standard_only"),
    (BUDGET, {"service_tier": "auto"}, "service_tier", "auto"),
    (BUDGET, {"extra": {"top_k": 5}}, "top_k", 5),
    (BUDGET, {"extra": {"container": "c"}}, "container", "c"),
    (BUDGET, {"extra": {"cache_control": {"type": "ephemeral"}}}, "cache_control.type", "ephemeral"),
    (BUDGET, {"tools": [tool()]}, "tools", [{"name": "f", "input_schema": {"type": "object", "properties": {}}}]),
    (BUDGET, {"tools": [tool(parameters={"properties": {}})]}, "tools.0.input_schema.type", "object"),
    (BUDGET, {"tools": [tool(parameters=SCHEMA)]}, "tools.0.input_schema", SCHEMA),
    (BUDGET, {"tools": [tool(description="d")]}, "tools.0.description", "d"),
    (BUDGET, {"tools": [tool(parameters=SCHEMA, strict=True)]}, "tools.0.input_schema", CLOSED),
    (BUDGET, {"tools": [tool(parameters=SCHEMA, strict=True)]}, "tools.0.strict", True),
    (OLD, {"tools": [tool(parameters=SCHEMA, strict=True)]}, "tools.0.strict", ABSENT),
    (OLD, {"tools": [tool(parameters=SCHEMA, strict=True)]}, "tools.0.input_schema", SCHEMA),
    (BUDGET, {"tools": [tool(), tool("g")]}, "tool_choice", ABSENT),
    (BUDGET, {"tools": [tool()], "parallel_tool_calls": False}, "tool_choice", {"type": "auto", "disable_parallel_tool_use": True}),
    (BUDGET, {"tools": [tool()], "parallel_tool_calls": True}, "tool_choice", ABSENT),
    (BUDGET, {"parallel_tool_calls": False}, "tool_choice", ABSENT),
    (BUDGET, {"response_format": JSON_SCHEMA}, "output_config.format", {"type": "json_schema", "schema": CLOSED}),
    (BUDGET, {"response_format": JSON_SCHEMA}, "tools", ABSENT),
    (OLD, {"response_format": JSON_SCHEMA}, "output_config", ABSENT),
    (OLD, {"response_format": JSON_SCHEMA}, "tools.0.input_schema", SCHEMA),
    (OLD, {"response_format": JSON_SCHEMA}, "tool_choice", {"type": "tool", "name": "out_put", "disable_parallel_tool_use": True}),
    (OLD, {"response_format": JSON_SCHEMA, "tools": [tool("out_put")]}, "tools.1.name", "out_put_answer"),
    (OLD, {"response_format": JSON_SCHEMA, "tools": [tool()]}, "tool_choice", {"type": "any"}),
    (BUDGET, {"response_format": FORMAT(kind=FORMAT.KIND_TEXT)}, "output_config", ABSENT),
    (BUDGET, {"response_format": FORMAT(kind=FORMAT.KIND_JSON_OBJECT)}, "output_config", ABSENT),
    # Thinking: what the family takes, and budgets that fit.
    (BUDGET, {}, "thinking", ABSENT),
    (BUDGET, {"reasoning": effort(effort="none")}, "thinking", ABSENT),
    (BUDGET, {"reasoning": effort(effort="medium")}, "thinking", {"type": "enabled", "budget_tokens": 8192}),
    (BUDGET, {"reasoning": effort(effort="minimal")}, "thinking.budget_tokens", 1024),
    (BUDGET, {"reasoning": effort(effort="high"), "max_tokens": 4096}, "thinking.budget_tokens", 3072),
    (BUDGET, {"reasoning": effort(effort="high"), "max_tokens": 4096}, "max_tokens", 4096),
    (BUDGET, {"reasoning": effort(effort="high"), "max_tokens": 1100}, "thinking.budget_tokens", 1024),
    (BUDGET, {"reasoning": effort(effort="high"), "max_tokens": 1024}, "thinking", ABSENT),
    ("claude-3-7-sonnet-latest", {"reasoning": effort(effort="high")}, "max_tokens", 16_384 + 4096),
    ("claude-opus-4-1", {"reasoning": effort(effort="max")}, "thinking.budget_tokens", 24_000),
    ("claude-opus-4-5", {"reasoning": effort(effort="xhigh")}, "output_config.effort", "high"),
    ("claude-opus-4-5", {"reasoning": effort(effort="low")}, "thinking.type", "enabled"),
    ("claude-sonnet-4-6", {"reasoning": effort(effort="xhigh")}, "output_config.effort", "max"),
    ("claude-sonnet-4-6", {"reasoning": effort(effort="low")}, "thinking", {"type": "adaptive"}),
    ("claude-opus-4-7", {"reasoning": effort(effort="xhigh")}, "output_config.effort", "xhigh"),
    ("claude-opus-4-7", {"reasoning": effort(effort="minimal")}, "output_config.effort", "low"),
    ("claude-opus-4-7", {"reasoning": effort(effort="low")}, "thinking", {"type": "adaptive", "display": "summarized"}),
    ("claude-opus-4-7", {}, "thinking", ABSENT),
    ("claude-opus-5", {}, "thinking", {"type": "disabled"}),
    ("claude-opus-5", {"reasoning": effort(effort="none")}, "thinking", {"type": "disabled"}),
    ("claude-opus-5", {"extra": {"output_config": {"effort": "max"}}}, "thinking", ABSENT),
    ("claude-sonnet-5-5", {}, "thinking", {"type": "between_tools"}),
    ("claude-opus-5-5", {}, "thinking", ABSENT),
    ("claude-opus-5-5", {}, "output_config", ABSENT),
    ("claude-opus-5-5", {"reasoning": effort(effort="none")}, "output_config.effort", "low"),
    ("claude-fable-5", {"reasoning": effort(effort="max")}, "output_config.effort", "max"),
    (OLD, {"reasoning": effort(effort="high")}, "thinking", ABSENT),
    # Claude's own way to ask for it wins, and may leave the limit to us.
    (BUDGET, {"extra": {"thinking": {"type": "enabled", "budget_tokens": 63_000}}}, "max_tokens", 64_000),
    ("claude-sonnet-4-0", {"extra": {"thinking": {"type": "enabled", "budget_tokens": 5000}}}, "max_tokens", 9096),
    (ADAPTIVE, {"extra": {"thinking": {"type": "disabled"}}, "reasoning": effort(effort="low")}, "thinking", {"type": "disabled"}),
    (ADAPTIVE, {"extra": {"output_config": {"effort": "max", "task_budget": {"type": "tokens"}}}, "reasoning": effort(effort="low")}, "output_config", {"effort": "max", "task_budget": {"type": "tokens"}}),
    # Hosted tools.
    (BUDGET, {"tools": [G.Tool(hosted=G.HostedTool(type="web_fetch_20250910", json=b'{"type":"web_fetch_20250910","name":"web_fetch","max_uses":2}'))]}, "tools.0", {"type": "web_fetch_20250910", "name": "web_fetch", "max_uses": 2}),
    (BUDGET, {"tools": [G.Tool(hosted=G.HostedTool(type="web_search_preview", json=b'{"type":"web_search_preview","user_location":{"type":"approximate","city":"Oslo"}}'))]}, "tools.0", {"type": "web_search_20250305", "name": "web_search", "user_location": {"type": "approximate", "city": "Oslo"}}),
    (BUDGET, {"web_search_options": b'{"user_location":{"type":"approximate","approximate":{"city":"Oslo"}}}'}, "tools.0.user_location", {"type": "approximate", "city": "Oslo"}),
    (BUDGET, {"tools": [G.Tool(custom=G.CustomTool(name="run", description="d"))]}, "tools.0.input_schema.required", ["input"]),
    (BUDGET, {"tools": [G.Tool(function=G.FunctionTool(name="f"), extra={"function.defer_loading": b"true"}, cache_control=b'{"type":"ephemeral"}')]}, "tools.0", {"name": "f", "input_schema": {"type": "object", "properties": {}}, "defer_loading": True, "cache_control": {"type": "ephemeral"}}),
]
# fmt: on


@pytest.mark.parametrize(("model", "fields", "path", "value"), CELLS)
def test_a_parameter_is_found_where_claude_wants_it(
    model: str, fields: dict[str, Any], path: str, value: Any
) -> None:
    found = body(request(**fields), model)
    for step in path.split("."):
        if isinstance(found, list):
            found = found[int(step)]
        else:
            found = found.get(step, ABSENT) if found is not ABSENT else ABSENT
    assert found is ABSENT if value is ABSENT else found == value


CHOICE = G.ToolChoice
CHOICES: list[tuple[CHOICE, Any]] = [
    (CHOICE(mode=CHOICE.MODE_AUTO), {"type": "auto"}),
    (CHOICE(mode=CHOICE.MODE_NONE), {"type": "none"}),
    (CHOICE(mode=CHOICE.MODE_REQUIRED), {"type": "any"}),
    (CHOICE(mode=CHOICE.MODE_NAMED, names=["g"]), {"type": "tool", "name": "g"}),
    (CHOICE(mode=CHOICE.MODE_ALLOWED, names=["g"]), {"type": "auto"}),
    (CHOICE(mode=CHOICE.MODE_ALLOWED, names=["g"], required=True), {"type": "any"}),
    (
        CHOICE(mode=CHOICE.MODE_HOSTED, hosted=b'{"type":"web_search_preview"}'),
        {"type": "tool", "name": "web_search"},
    ),
]


@pytest.mark.parametrize(("choice", "sent"), CHOICES)
def test_every_tool_choice_has_its_counterpart(choice: CHOICE, sent: Any) -> None:
    asked = request(tools=[tool(), tool("g")], tool_choice=choice)
    assert body(asked)["tool_choice"] == sent
    offered = [t["name"] for t in body(asked)["tools"]]
    assert offered == (["g"] if choice.mode == CHOICE.MODE_ALLOWED else ["f", "g"])
    assert not dropped(asked)


@pytest.mark.parametrize("mode", [CHOICE.MODE_REQUIRED, CHOICE.MODE_NAMED])
def test_a_model_that_cannot_be_forced_is_told_and_the_caller_too(mode: Any) -> None:
    asked = request(tools=[tool(), tool("g")], tool_choice=CHOICE(mode=mode, names=["g"]))
    call_ = call(asked, "claude-opus-5-5")
    sent = json.loads(call_.body)
    assert sent["tool_choice"] == {"type": "auto"}
    assert "calling a tool" in sent["system"][0]["text"]
    named = mode == CHOICE.MODE_NAMED
    assert [t["name"] for t in sent["tools"]] == (["g"] if named else ["f", "g"])
    assert call_.dropped == ("tool_choice",)


def test_tools_that_only_the_history_calls_are_defined_but_not_offered() -> None:
    asked = request(user("q"), assistant(called("1"), called("2", name="g")), result("1", "r"))
    sent = body(asked)
    assert [t["name"] for t in sent["tools"]] == ["f", "g"]
    assert sent["tool_choice"] == {"type": "none"}
    asked.generate.tools.append(tool("h"))
    assert [t["name"] for t in body(asked)["tools"]] == ["h"]
    assert "tool_choice" not in body(asked)


def test_a_tool_that_stands_for_a_schema_has_a_name_that_claude_takes() -> None:
    shape = G.ResponseFormat(
        kind=G.ResponseFormat.KIND_JSON_SCHEMA, name="long" * 16, schema=b'{"type":"object"}'
    )
    short = ("long" * 16)[:40]
    asked = request(tools=[tool(short)], response_format=shape)
    names = [one["name"] for one in body(asked, OLD)["tools"]]
    assert names == [short, f"{short}_answer"]
    assert all(len(name) <= 64 for name in names)


def test_ids_of_calls_stay_as_they_are_however_long() -> None:
    long = "call_" + "x" * 300
    asked = request(user("hi"), assistant(called(long)), result(long), tools=[tool()])
    _, turn, answer = body(asked)["messages"]
    assert turn["content"][0]["id"] == answer["content"][0]["tool_use_id"] == long


def test_json_without_a_schema_is_asked_for_in_words() -> None:
    asked = request(system("s"), user("q"), response_format=FORMAT(kind=FORMAT.KIND_JSON_OBJECT))
    told = body(asked)["system"]
    assert told[0] == {"type": "text", "text": "s"}
    assert "JSON object" in told[1]["text"]
    assert not dropped(asked)


THINKING: dict[str, Any] = {"reasoning": effort(effort="high")}
OPEN_LOOP = [user("q"), assistant(called("1")), result("1", "r")]


@pytest.mark.parametrize(
    "asked",
    [
        pytest.param(
            lambda **more: request(
                tools=[tool()], tool_choice=CHOICE(mode=CHOICE.MODE_REQUIRED), **more
            ),
            id="forced tool",
        ),
        pytest.param(lambda **more: request(*OPEN_LOOP, **more), id="history without thinking"),
        pytest.param(lambda **more: request(user("q"), assistant("a"), **more), id="prefill"),
    ],
)
def test_a_budget_yields_to_what_it_may_not_be_combined_with(
    asked: Callable[..., G.Request],
) -> None:
    explicit = {"extra": {"thinking": {"type": "enabled", "budget_tokens": 2000}}}
    for fields, name in ((THINKING, "reasoning_effort"), (explicit, "thinking")):
        assert "thinking" not in body(asked(**fields))
        assert dropped(asked(**fields)) == {name}
        # Adaptive thinking minds none of it.
        if name == "reasoning_effort":
            assert body(asked(**fields), ADAPTIVE)["thinking"]["type"] == "adaptive"


def test_a_budget_goes_on_where_the_history_has_the_thinking() -> None:
    asked = request(user("q"), assistant(thought("t"), called("1")), result("1", "r"), **THINKING)
    assert body(asked)["thinking"]["type"] == "enabled"
    assert not dropped(asked)


# (model, fields, what is dropped)
# fmt: off
DROPS: list[tuple[str, dict[str, Any], set[str]]] = [
    (BUDGET, {"presence_penalty": 0.5}, {"presence_penalty"}),
    (BUDGET, {"frequency_penalty": 0.5}, {"frequency_penalty"}),
    (BUDGET, {"presence_penalty": 0.0, "frequency_penalty": 0.0}, set()),
    (BUDGET, {"seed": 0}, {"seed"}),
    (BUDGET, {"logit_bias": {"1": 2}}, {"logit_bias"}),
    (BUDGET, {"logprobs": True, "top_logprobs": 2}, {"logprobs", "top_logprobs"}),
    (BUDGET, {"logprobs": False, "n": 1, "modalities": ["text"]}, set()),
    (BUDGET, {"prediction": b"{}"}, {"prediction"}),
    (BUDGET, {"verbosity": "low"}, {"verbosity"}),
    (BUDGET, {"store": True}, {"store"}),
    (BUDGET, {"store": False}, set()),
    (BUDGET, {"metadata": {"a": "b"}}, {"metadata"}),
    (BUDGET, {"prompt_cache_key": "k"}, {"prompt_cache_key"}),
    (BUDGET, {"prompt_cache_retention": "24h"}, {"prompt_cache_retention"}),
    (BUDGET, {"max_tool_calls": 1}, {"max_tool_calls"}),
    (BUDGET, {"audio": G.AudioOptions(format="wav")}, {"audio"}),
    (BUDGET, {"service_tier": "flex"}, {"service_tier"}),
    (BUDGET, {"user": "ann@example.org"}, {"user"}),
    (BUDGET, {"user": "+47 123 45 678"}, {"user"}),
    (BUDGET, {"user": "u", "safety_identifier": "s"}, {"safety_identifier"}),
    (BUDGET, {"stop": ["a", " "]}, {"stop"}),
    (BUDGET, {"extra": {"min_p": 0.1}}, {"min_p"}),
    (BUDGET, {"tool_choice": CHOICE(mode=CHOICE.MODE_REQUIRED)}, {"tool_choice"}),
    (BUDGET, {"tool_choice": CHOICE(mode=CHOICE.MODE_AUTO)}, set()),
    # Sampling by family, and while it thinks.
    (BUDGET, {"temperature": 0.5, "top_p": 0.5}, {"top_p"}),
    (BUDGET, {"temperature": 1.0, "top_p": 0.5}, set()),
    (BUDGET, {"temperature": 0.5, "top_p": 1.0}, set()),
    (OLD, {"temperature": 0.5, "top_p": 0.5}, set()),
    (BUDGET, {"temperature": 0.5, **THINKING}, {"temperature"}),
    (BUDGET, {"temperature": 1.0, **THINKING}, set()),
    (BUDGET, {"top_p": 0.5, **THINKING}, {"top_p"}),
    (BUDGET, {"top_p": 0.97, **THINKING}, set()),
    (BUDGET, {"extra": {"top_k": 5}, **THINKING}, {"top_k"}),
    (ADAPTIVE, {"temperature": 0.5, "top_p": 0.5, "extra": {"top_k": 5}}, {"temperature", "top_p", "top_k"}),
    (ADAPTIVE, {"temperature": 1.0, "top_p": 1.0}, set()),
    ("claude-haiku-5-5", {"temperature": 0.0}, {"temperature"}),
    # Reasoning that cannot be had, or cannot be had off.
    (OLD, THINKING, {"reasoning_effort"}),
    (OLD, {"reasoning": effort(effort="none")}, set()),
    (BUDGET, {**THINKING, "max_tokens": 100}, {"reasoning_effort"}),
    ("claude-opus-4-5", {**THINKING, "max_tokens": 100}, set()),
    ("claude-opus-5-5", {"reasoning": effort(effort="none")}, {"reasoning_effort"}),
    ("claude-opus-5", {"reasoning": effort(effort="none")}, set()),
    # Strict tools: only where they compile.
    (OLD, {"tools": [tool(strict=True)]}, {"tools[].function.strict"}),
    (BUDGET, {"tools": [tool(f"f{i}", strict=True) for i in range(20)]}, set()),
    (BUDGET, {"tools": [tool(f"f{i}", strict=True) for i in range(21)]}, {"tools[].function.strict"}),
]
# fmt: on


@pytest.mark.parametrize(("model", "fields", "names"), DROPS)
def test_what_claude_lacks_is_left_out_and_reported(
    model: str, fields: dict[str, Any], names: set[str]
) -> None:
    asked = request(**fields)
    assert dropped(asked, model) == names
    sent = body(asked, model)
    assert not names & (sent.keys() - {"tool_choice"})
    # Without leave to drop, all of it is named in one refusal.
    asked.platform.drop_params = False
    if names:
        error = refusal(asked, model)
        assert error.reason == "unsupported_parameter"
        assert error.param in names
        assert all(name in error.message for name in names)
    else:
        call(asked, model)


def test_a_body_nested_too_deep_to_write_is_the_callers_fault() -> None:
    deep = b'{"a":' * 900 + b"1" + b"}" * 900
    asked = request(user("q"), assistant(called("1", deep.decode())), result("1", "r"))
    assert refusal(asked).reason == "invalid_request"
    format_ = FORMAT(
        kind=FORMAT.KIND_JSON_SCHEMA, name="s", schema=b'{"items":' * 900 + b"{}" + b"}" * 900
    )
    assert refusal(request(response_format=format_)).reason == "invalid_request"


def test_a_large_image_reaches_the_body_whole() -> None:
    data = bytes(20 * 1024 * 1024)
    image = Part(image=C.Image(inline=C.InlineData(media_type="image/png", data=data)))
    sent = body(request(user(image)))
    assert len(sent["messages"][0]["content"][0]["source"]["data"]) == 4 * -(-len(data) // 3)


def test_a_message_is_continued_by_models_that_do_and_else_refused() -> None:
    said = assistant("Once upon")
    said.continued = True
    sent = body(request(user("q"), said), BUDGET)["messages"]
    assert sent[-1] == {"role": "assistant", "content": [{"type": "text", "text": "Once upon"}]}
    with pytest.raises(InferenceError, match="does not continue"):
        body(request(user("q"), said), ADAPTIVE)
