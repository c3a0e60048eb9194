from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import pytest

from tests.workers.anthropic_hub import (
    G,
    assistant,
    called,
    request,
    result,
    system,
    tool,
    user,
)
from tests.workers.bedrock_hub import (
    ADAPTIVE,
    BEDROCK,
    CLAUDE,
    CLAUDE_4,
    GPT_OSS,
    HIDDEN,
    LLAMA,
    NEWEST,
    NOVA,
    NOVA_2,
    OLD_CLAUDE,
    QWEN,
    body,
    call,
    choice,
    dropped,
    effort,
    refusal,
    signed,
)
from workers.dialects.bedrock_converse.families import FACTS

ANSWER = G.ResponseFormat(
    kind=G.ResponseFormat.KIND_JSON_SCHEMA,
    name="person",
    schema=b'{"properties":{"a":{"type":"integer","minimum":3}}}',
)
OBJECT = G.ResponseFormat(kind=G.ResponseFormat.KIND_JSON_OBJECT)
TOOLS = [tool("f"), tool("g")]
MORE = "additionalModelRequestFields"


def called_before() -> list[Any]:
    return [user("q"), assistant(called("1")), result("1", "x")]


def names(sent: Any) -> list[str]:
    return [t["toolSpec"]["name"] for t in sent.get("toolConfig", {}).get("tools", [])]


@pytest.mark.parametrize(
    ("model", "path"),
    [
        (CLAUDE, "us.anthropic.claude-sonnet-4-5-20250929-v1%3A0"),
        (
            HIDDEN,
            HIDDEN.replace(":", "%3A").replace("/", "%2F"),
        ),
        ("../x?é", "..%2Fx%3F%C3%A9"),
    ],
)
def test_the_path_names_model_and_operation(model: str, path: str) -> None:
    assert call(request(), model).path == f"/model/{path}/converse"
    assert call(request(stream=True), model).path == f"/model/{path}/converse-stream"


@pytest.mark.parametrize(
    ("model", "region", "host"),
    [
        (CLAUDE, "", ""),
        (CLAUDE, "us-east-1", ""),
        (CLAUDE, "eu-west-1", "https://bedrock-runtime.eu-west-1.amazonaws.com"),
        (HIDDEN, "eu-west-1", ""),
        (
            HIDDEN.replace("us-east-1", "ap-south-1"),
            "",
            "https://bedrock-runtime.ap-south-1.amazonaws.com",
        ),
    ],
)
def test_the_callers_region_or_that_of_an_arn_chooses_the_host(
    model: str, region: str, host: str
) -> None:
    asked = request()
    asked.platform.region = region
    assert call(asked, model).base_url == host
    # A host of the operator's own has one region.
    there = replace(BEDROCK, base_url="http://127.0.0.1:9900")
    assert there.dialect.call(asked, model, there).base_url == ""


@pytest.mark.parametrize("region", ["evil.example.com/", "us-east-1.evil.com", "x", "US-EAST-1"])
def test_a_region_is_no_way_to_name_a_host(region: str) -> None:
    asked = request()
    asked.platform.region = region
    assert refusal(asked).param == "region"


def test_parameters_go_into_the_inference_config_within_its_bounds() -> None:
    asked = request(
        temperature=1.7,
        top_p=0.5,
        stop=["a", "b"],
        max_output_tokens=9,
        service_tier="flex",
        metadata={"team": "a b", "bad": "ü"},
        user="u1",
    )
    sent = body(asked, NOVA)
    assert sent["inferenceConfig"] == {
        "temperature": 1,
        "topP": 0.5,
        "stopSequences": ["a", "b"],
        "maxTokens": 9,
    }
    assert sent["serviceTier"] == {"type": "flex"}
    assert sent["requestMetadata"] == {"team": "a b", "user": "u1"}
    assert dropped(asked, NOVA) == {"metadata"}


def test_what_bedrock_lacks_is_dropped_and_reported_or_refused() -> None:
    asked = request(seed=1, logprobs=True, presence_penalty=1, extra={"min_p": 0.1})
    assert dropped(asked) == {"seed", "logprobs", "presence_penalty", "min_p"}
    asked.platform.drop_params = False
    assert refusal(asked).reason == "unsupported_parameter"


@pytest.mark.parametrize("fields", [{"n": 2}, {"modalities": ["audio"]}])
def test_what_would_change_the_answer_is_refused(fields: Any) -> None:
    assert refusal(request(**fields)).param == next(iter(fields))


def test_bedrocks_own_fields_go_on_and_win() -> None:
    guardrail = {"guardrailIdentifier": "g", "guardrailVersion": "1"}
    asked = request(
        temperature=0.1,
        max_tokens=5,
        extra={
            "guardrailConfig": guardrail,
            "performanceConfig": {"latency": "optimized"},
            "inferenceConfig": {"maxTokens": 7},
            "top_k": 3,
            MORE: {"anthropic_beta": ["x"]},
        },
    )
    sent = body(asked)
    assert (sent["guardrailConfig"], sent["performanceConfig"]) == (
        guardrail,
        {"latency": "optimized"},
    )
    assert sent["inferenceConfig"] == {"maxTokens": 7, "temperature": 0.1}
    assert sent[MORE] == {"anthropic_beta": ["x"], "top_k": 3}
    assert dropped(asked) == set()


def test_own_fields_have_to_be_objects() -> None:
    assert refusal(request(extra={MORE: [1]})).param == MORE


@pytest.mark.parametrize(
    ("model", "more"),
    [(CLAUDE, {"top_k": 3}), (NOVA, {"inferenceConfig": {"topK": 3}}), (LLAMA, None)],
)
def test_top_k_is_where_the_model_looks_for_it(model: str, more: Any) -> None:
    asked = request(extra={"top_k": 3})
    assert body(asked, model).get(MORE) == more
    assert dropped(asked, model) == (set() if more else {"top_k"})


# What is asked, and what becomes of it: the model's own fields, the limit, and what is lost.
EFFORTS: list[tuple[str, str, dict[str, Any], Any, Any, set[str]]] = [
    (
        NOVA_2,
        "low",
        {},
        {"reasoningConfig": {"type": "enabled", "maxReasoningEffort": "low"}},
        None,
        set(),
    ),
    (NOVA_2, "none", {}, {"reasoningConfig": {"type": "disabled"}}, None, set()),
    (
        NOVA_2,
        "xhigh",
        {"max_tokens": 5, "temperature": 0.5},
        {"reasoningConfig": {"type": "enabled", "maxReasoningEffort": "high"}},
        None,
        {"max_tokens", "temperature"},
    ),
    (NOVA, "low", {}, None, None, {"reasoning_effort"}),
    (GPT_OSS, "minimal", {}, {"reasoning_effort": "low"}, None, set()),
    (GPT_OSS, "none", {}, None, None, {"reasoning_effort"}),
    ("global.openai.gpt-6-luna", "none", {}, {"reasoning": {"effort": "none"}}, None, set()),
    ("global.openai.gpt-6-astra", "none", {}, None, None, {"reasoning_effort"}),
    ("global.openai.gpt-6.1-sol", "max", {}, {"reasoning": {"effort": "xhigh"}}, None, set()),
    ("global.xai.grok-4.7", "medium", {}, {"reasoning": {"effort": "medium"}}, None, set()),
    (QWEN, "none", {}, {"reasoning_config": "none"}, None, set()),
    (QWEN, "high", {}, {"reasoning_config": "high"}, None, set()),
    ("deepseek.v3.2", "low", {}, {"reasoning_effort": "high"}, None, set()),
    ("us.deepseek.r1-v1:0", "low", {}, None, None, {"reasoning_effort"}),
    ("zai.glm-4.7", "none", {}, {"reasoning_effort": "none"}, None, set()),
    ("global.zai.glm-5.3", "max", {}, {"reasoning_effort": "max"}, None, set()),
    (HIDDEN, "low", {}, None, None, {"reasoning_effort"}),
    (OLD_CLAUDE, "low", {}, None, 4096, {"reasoning_effort"}),
    (CLAUDE, "medium", {}, {"thinking": {"type": "enabled", "budget_tokens": 8192}}, 64_000, set()),
    (
        CLAUDE_4,
        "high",
        {},
        {"thinking": {"type": "enabled", "budget_tokens": 16_384}},
        20_480,
        set(),
    ),
    (
        CLAUDE,
        "high",
        {"max_tokens": 4000},
        {"thinking": {"type": "enabled", "budget_tokens": 3000}},
        4000,
        set(),
    ),
    (CLAUDE, "low", {"max_tokens": 1000}, None, 1000, {"reasoning_effort"}),
    (CLAUDE, "none", {}, None, 64_000, set()),
    (
        CLAUDE,
        "low",
        {"temperature": 0.2, "top_p": 0.5},
        {"thinking": {"type": "enabled", "budget_tokens": 2048}},
        64_000,
        {"temperature"},
    ),
    (
        CLAUDE,
        "low",
        {"tools": TOOLS, "tool_choice": choice("REQUIRED")},
        None,
        64_000,
        {"reasoning_effort"},
    ),
    (
        "us.anthropic.claude-sonnet-4-6",
        "xhigh",
        {},
        {"thinking": {"type": "adaptive"}, "output_config": {"effort": "max"}},
        128_000,
        set(),
    ),
    (
        ADAPTIVE,
        "xhigh",
        {"temperature": 0.2},
        {"thinking": {"type": "adaptive"}, "output_config": {"effort": "xhigh"}},
        128_000,
        {"temperature"},
    ),
    (
        "global.anthropic.claude-haiku-5-5",
        "none",
        {},
        {"thinking": {"type": "disabled"}},
        128_000,
        set(),
    ),
    (
        "global.anthropic.claude-sonnet-5-5",
        "none",
        {},
        {"thinking": {"type": "between_tools"}},
        128_000,
        set(),
    ),
    (NEWEST, "none", {}, {"output_config": {"effort": "low"}}, 128_000, {"reasoning_effort"}),
    (
        "anthropic.claude-saga-9",
        "low",
        {},
        {"thinking": {"type": "adaptive"}, "output_config": {"effort": "low"}},
        32_000,
        set(),
    ),
]


@pytest.mark.parametrize(
    ("model", "word", "fields", "expected"),
    [
        pytest.param(*row[:3], row[3:], id=f"{row[0]}-{row[1]}-{'-'.join(row[2])}")
        for row in EFFORTS
    ],
)
def test_effort_is_asked_for_in_the_models_own_words(
    model: str, word: str, fields: Any, expected: tuple[Any, Any, set[str]]
) -> None:
    asked = request(**effort(word), **fields)
    sent = body(asked, model)
    limit = sent.get("inferenceConfig", {}).get("maxTokens")
    assert (sent.get(MORE), limit, dropped(asked, model)) == expected


@pytest.mark.parametrize(
    ("model", "thinking"),
    [
        (CLAUDE, None),
        (ADAPTIVE, None),
        ("global.anthropic.claude-sonnet-5", {"type": "disabled"}),
        (NEWEST, None),
    ],
)
def test_without_an_effort_claude_does_not_think_where_that_can_be(
    model: str, thinking: Any
) -> None:
    assert body(request(), model).get(MORE, {}).get("thinking") == thinking


def test_thinking_in_claudes_own_words_wins() -> None:
    own = {"type": "enabled", "budget_tokens": 2000}
    asked = request(**effort("high"), extra={"thinking": own}, temperature=0.5)
    assert body(asked)[MORE] == {"thinking": own}
    assert dropped(asked) == {"temperature"}


def test_a_history_without_its_thoughts_is_gone_on_with_without_thinking() -> None:
    lost = request(*called_before(), tools=TOOLS, **effort("low"))
    assert MORE not in body(lost)
    assert dropped(lost) == {"reasoning_effort"}
    kept = request(
        user("q"),
        assistant(signed("hm"), called("1")),
        result("1", "x"),
        tools=TOOLS,
        **effort("low"),
    )
    assert body(kept)[MORE]["thinking"]["type"] == "enabled"


def test_an_unknown_effort_is_refused() -> None:
    assert refusal(request(**effort("huge"))).param == "reasoning_effort"


def test_claude_takes_one_of_temperature_and_top_p_and_no_blank_stop() -> None:
    asked = request(temperature=0.5, top_p=0.5, stop=[" ", "x"], max_tokens=9)
    config = {"temperature": 0.5, "stopSequences": ["x"], "maxTokens": 9}
    assert body(asked)["inferenceConfig"] == config
    assert dropped(asked) == {"top_p", "stop"}


def test_a_limit_above_the_models_is_cut_to_it() -> None:
    assert body(request(max_tokens=10**6))["inferenceConfig"] == {"maxTokens": 64_000}
    assert body(request(max_tokens=10**6), NOVA)["inferenceConfig"] == {"maxTokens": 10**6}


def test_tools_are_specs() -> None:
    custom = G.Tool(custom=G.CustomTool(name="run", description=" "))
    sent = body(request(tools=[tool("f", {"properties": {}}, description="Does."), custom]))
    first, second = (t["toolSpec"] for t in sent["toolConfig"]["tools"])
    schema = {"type": "object", "properties": {}}
    assert first == {"name": "f", "description": "Does.", "inputSchema": {"json": schema}}
    assert second["inputSchema"]["json"]["required"] == ["input"]
    assert "description" not in second


def test_hosted_tools_are_refused() -> None:
    hosted = G.Tool(hosted=G.HostedTool(type="web_search", json=b"{}"))
    assert refusal(request(tools=[hosted])).param == "tools[0]"


CHOICES: list[tuple[str, G.ToolChoice, Any, list[str], bool]] = [
    (CLAUDE, choice("AUTO"), {"auto": {}}, ["f", "g"], False),
    (CLAUDE, choice("REQUIRED"), {"any": {}}, ["f", "g"], False),
    (CLAUDE, choice("NAMED", "g"), {"tool": {"name": "g"}}, ["f", "g"], False),
    (CLAUDE, choice("ALLOWED", "g"), {"auto": {}}, ["g"], False),
    (CLAUDE, choice("ALLOWED", "g", required=True), {"any": {}}, ["g"], False),
    (CLAUDE, choice("NONE"), None, [], False),
    (HIDDEN, choice("REQUIRED"), {"any": {}}, ["f", "g"], False),
    (NEWEST, choice("AUTO"), {"auto": {}}, ["f", "g"], False),
    (NEWEST, choice("REQUIRED"), None, ["f", "g"], True),
    (NEWEST, choice("NAMED", "g"), None, ["g"], True),
    (LLAMA, choice("AUTO"), None, ["f", "g"], False),
    (LLAMA, choice("REQUIRED"), None, ["f", "g"], True),
    (LLAMA, choice("NAMED", "g"), None, ["g"], True),
    (LLAMA, choice("NONE"), None, [], False),
]


@pytest.mark.parametrize(
    ("model", "wanted", "sent_choice", "offered", "told"),
    [pytest.param(*row, id=f"{row[0]}-{row[1].mode}-{row[1].required}") for row in CHOICES],
)
def test_tool_choice(
    model: str, wanted: G.ToolChoice, sent_choice: Any, offered: list[str], told: bool
) -> None:
    asked = request(tools=TOOLS, tool_choice=wanted)
    sent = body(asked, model)
    assert sent.get("toolConfig", {}).get("toolChoice") == sent_choice
    assert names(sent) == offered
    assert ("system" in sent) == told
    assert dropped(asked, model) == set()


def test_no_tool_although_the_history_has_calls() -> None:
    asked = request(*called_before(), tools=TOOLS, tool_choice=choice("NONE"))
    claude, llama = body(asked), body(asked, LLAMA)
    assert names(claude) == names(llama) == ["f", "g"]
    assert claude[MORE] == {"tool_choice": {"type": "none"}}
    assert "toolChoice" not in claude["toolConfig"]
    assert "not call" in llama["system"][0]["text"]


def test_calls_in_the_history_are_defined_when_the_caller_no_longer_does() -> None:
    sent = body(request(*called_before()))
    assert names(sent) == ["f"]
    assert sent[MORE] == {"tool_choice": {"type": "none"}}


@pytest.mark.parametrize(
    ("wanted", "own"),
    [
        (None, {"type": "auto"}),
        (choice("REQUIRED"), {"type": "any"}),
        (choice("NAMED", "g"), {"type": "tool", "name": "g"}),
    ],
)
def test_one_call_at_a_time_is_claudes_own_choice_in_place_of_bedrocks(
    wanted: Any, own: Any
) -> None:
    fields = {"tool_choice": wanted} if wanted else {}
    asked = request(tools=TOOLS, parallel_tool_calls=False, **fields)
    sent = body(asked)
    assert sent[MORE] == {"tool_choice": own | {"disable_parallel_tool_use": True}}
    assert "toolChoice" not in sent["toolConfig"]
    assert dropped(asked, NOVA) == {"parallel_tool_calls"}


def test_strict_tools_are_closed_where_the_model_takes_them() -> None:
    strict = tool("f", {"type": "object", "properties": {"a": {"type": "string"}}}, strict=True)
    spec = body(request(tools=[strict]))["toolConfig"]["tools"][0]["toolSpec"]
    assert spec["strict"] is True
    assert spec["inputSchema"]["json"]["additionalProperties"] is False
    lax = request(tools=[strict])
    assert "strict" not in body(lax, LLAMA)["toolConfig"]["tools"][0]["toolSpec"]
    assert dropped(lax, LLAMA) == {"tools[].function.strict"}


def test_a_schema_is_the_form_of_the_answer_as_text() -> None:
    sent = body(request(response_format=ANSWER))["outputConfig"]["textFormat"]
    assert sent["type"] == "json_schema"
    wanted = sent["structure"]["jsonSchema"]
    assert wanted["name"] == "person"
    schema = json.loads(wanted["schema"])
    assert schema["additionalProperties"] is False
    assert "minimum" not in schema["properties"]["a"]


def test_a_tool_takes_the_structured_answer_where_there_is_no_form() -> None:
    alone = body(request(response_format=ANSWER), CLAUDE_4)
    assert names(alone) == ["person"]
    assert alone["toolConfig"]["toolChoice"] == {"tool": {"name": "person"}}
    beside = body(request(response_format=ANSWER, tools=TOOLS), CLAUDE_4)
    assert names(beside) == ["f", "g", "person"]
    assert beside["toolConfig"]["toolChoice"] == {"any": {}}


@pytest.mark.parametrize("form", [ANSWER, OBJECT])
def test_the_form_is_an_instruction_where_nothing_can_be_forced(form: G.ResponseFormat) -> None:
    sent = body(request(system("s"), user("q"), response_format=form), LLAMA)
    assert len(sent["system"]) == 2
    assert "JSON" in sent["system"][1]["text"]
    assert "toolConfig" not in sent
    assert "outputConfig" not in sent


def test_a_foreign_format_is_refused() -> None:
    other = G.ResponseFormat(kind=G.ResponseFormat.KIND_OTHER, json=b'{"type":"grammar"}')
    assert refusal(request(response_format=other)).param == "response_format.type"


def test_every_family_with_facts_is_one_of_the_table() -> None:
    sheets = {sheet.name: sheet for sheet in BEDROCK.parameters.sheets}
    assert FACTS.keys() <= sheets.keys()
    claudes = {name for name, facts in FACTS.items() if facts.claude is not None}
    assert claudes == {name for name in sheets if "Claude" in name}


@pytest.mark.parametrize(
    "model",
    [model for model in BEDROCK.models if not re.search("embed|rerank|canvas|stability", model)],
)
def test_every_listed_model_belongs_to_a_family(model: str) -> None:
    assert BEDROCK.parameters.sheet(model).name
