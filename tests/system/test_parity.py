"""The same request over HTTP and over gRPC: the provider is sent the same, the caller told the same."""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass, field
from typing import Any

import grpc
import httpx
import pytest

from broker.errors import TABLE
from broker.translate import wire
from broker.translate.chat_request import parse_chat
from broker.v1 import content_pb2, event_pb2, generation_pb2
from broker.v1 import inference_service_pb2 as pb
from tests.system.recorded import PREFIXES, RECORDINGS, RecordedProvider
from tests.system.rpc import Client, connected, told
from tests.system.shared import shared_stack
from tests.system.stack import until

# --- what is asked ---

HELLO = [{"role": "user", "content": "What is the weather in Paris?"}]
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": SCHEMA}}
STRICT = {
    "type": "function",
    "function": {"name": "g", "description": "d", "parameters": SCHEMA, "strict": True},
}
CUSTOM = {"type": "custom", "custom": {"name": "c", "description": "d", "format": {"type": "text"}}}
PNG = "data:image/png;base64,iVBORw0KGgo="
PDF = "data:application/pdf;base64,JVBERi0xLjQ="
CALL = {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": "{}"}}


def user(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": list(parts)}]}


def after(*messages: dict[str, Any]) -> dict[str, Any]:
    return {"messages": [*HELLO, *messages]}


# Every field of the chat body, one way or several; the test below sees to it that none is missing.
ASKED: list[dict[str, Any]] = [
    {},
    {"stream": True},
    {"stream": False},
    {"stream": True, "stream_options": {"include_usage": True}},
    {"stream": True, "stream_options": {"include_usage": False, "include_obfuscation": False}},
    {"temperature": 0},
    {"temperature": 0.7, "top_p": 0.9},
    {"presence_penalty": 1, "frequency_penalty": -1.5},
    {"seed": 7},
    {"seed": -(2**62)},
    {"logit_bias": {"50256": -100, "11": 0.5}},
    {"logprobs": True, "top_logprobs": 3},
    {"logprobs": False},
    {"n": 1},
    {"stop": "END"},
    {"stop": ["a", "b", " "]},
    {"max_tokens": 100},
    {"max_completion_tokens": 200},
    {"max_tokens": 100, "max_completion_tokens": 200},
    {"tools": [TOOL]},
    {"tools": [TOOL, STRICT], "tool_choice": "auto", "parallel_tool_calls": False},
    {"tools": [TOOL], "tool_choice": "none"},
    {"tools": [TOOL], "tool_choice": "required", "parallel_tool_calls": True},
    {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "get_weather"}}},
    {
        "tools": [TOOL, STRICT],
        "tool_choice": {
            "type": "allowed_tools",
            "allowed_tools": {"mode": "required", "tools": [TOOL]},
        },
    },
    {"tools": [{**TOOL, "cache_control": {"type": "ephemeral"}, "x": 1}]},
    {"tools": [CUSTOM], "tool_choice": {"type": "custom", "custom": {"name": "c"}}},
    {"functions": [TOOL["function"]]},
    {"functions": [TOOL["function"]], "function_call": {"name": "get_weather"}},
    {"functions": [TOOL["function"]], "function_call": "none"},
    {"response_format": {"type": "text"}},
    {"response_format": {"type": "json_object"}},
    {
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "n", "description": "d", "schema": SCHEMA, "strict": True},
        }
    },
    {"reasoning_effort": "low"},
    {"reasoning_effort": "high", "verbosity": "low", "max_completion_tokens": 9000},
    {"modalities": ["text"]},
    {"modalities": ["text", "audio"], "audio": {"voice": "alloy", "format": "wav"}},
    {"audio": {"voice": {"id": "v"}, "format": "mp3"}},
    {"prediction": {"type": "content", "content": "old"}},
    {"web_search_options": {"search_context_size": "low"}},
    {"service_tier": "auto", "user": "u-1", "safety_identifier": "s", "store": False},
    {"prompt_cache_key": "k", "prompt_cache_retention": "24h"},
    {"metadata": {"a": "1", "b": "2"}},
    {"tags": ["a", "b"], "signature": "tests", "region": "eu"},
    {"tags": "a,b", "log_query_body": False, "log_response_body": False},
    {"use_custom_keys": False, "provider": {"allow_fallbacks": False}, "models": []},
    {"drop_params": True, "seed": 1, "temperature": 0.5},
    {"hedge_after_ms": 60_000, "resume": "prefill"},
    {"connect_timeout_ms": 900, "first_token_timeout_ms": 60_000, "stall_timeout_ms": 60_000},
    {"drop_params": False, "seed": 1, "logit_bias": {"1": 1}},
    {"extra_body": {"top_k": 40, "min_p": 0.1}},
    {"top_k": 40, "thinking": {"type": "enabled", "budget_tokens": 1024}, "max_tokens": 2048},
    {"chat_template_kwargs": {"deep": [1, 2.5, None, {"x": "ä"}]}, "big": 12345678901234567890},
    {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "developer", "content": [{"type": "text", "text": "Be kind."}]},
            {"role": "user", "content": "Hi", "name": "ann"},
        ]
    },
    user({"type": "text", "text": "Look:"}, {"type": "image_url", "image_url": {"url": PNG}}),
    user({"type": "image_url", "image_url": {"url": "https://x.test/a.png", "detail": "low"}}),
    user({"type": "text", "text": "Hi", "cache_control": {"type": "ephemeral"}}),
    user({"type": "file", "file": {"file_data": PDF, "filename": "a.pdf"}}),
    user({"type": "file", "file": {"file_id": "file-1"}}),
    user({"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}}),
    user({"type": "video_url", "video_url": {"url": "https://x.test/v.mp4"}}),
    after(
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "call_1", "content": "18 degrees"},
    ),
    after(
        {"role": "assistant", "content": "Let me see", "tool_calls": [CALL, {**CALL, "id": "call_2"}]},
        {"role": "tool", "tool_call_id": "call_2", "content": [{"type": "text", "text": "18"}]},
        {"role": "tool", "tool_call_id": "call_1", "content": ""},
    ),
    after(
        {"role": "assistant", "content": "", "function_call": {"name": "f", "arguments": "{}"}},
        {"role": "function", "name": "f", "content": "18"},
    ),
    after(
        {
            "role": "assistant",
            "content": "18",
            "reasoning_content": "hm",
            "thinking_blocks": [{"type": "thinking", "thinking": "hm", "signature": "c2ln"}],
        },
        {"role": "user", "content": "And tomorrow?"},
    ),
    after({"role": "assistant", "refusal": "No."}, {"role": "user", "content": "Please"}),
    after({"role": "assistant", "audio": {"id": "audio_1"}}, {"role": "user", "content": "Again"}),
]  # fmt: skip


def test_the_requests_use_every_field_of_a_chat_body() -> None:
    used = {name for fields in ASKED for name in fields} | {"model", "messages", "extra_headers"}
    assert set(wire.ChatRequest.__struct_fields__) <= used
    assert len(ASKED) >= 60


@dataclass(frozen=True)
class Case:
    id: str
    model: str
    fields: dict[str, Any]

    @property
    def provider(self) -> str:
        return self.model.partition("/")[0]

    def body(self, side: str) -> bytes:
        headers = {"x-case": self.id, "x-side": side}
        body = {"model": self.model, "messages": HELLO, "extra_headers": headers, **self.fields}
        return json.dumps(body).encode()


def _recorded() -> list[Case]:
    """One request for each recorded answer; who records a tool call has offered tools."""
    return [
        Case(r.id, f"{r.provider}/{r.model}", {"stream": r.stream, "tools": [TOOL]})
        for r in RECORDINGS.values()
    ]


MODELS = {
    "openai": "gpt-4o",
    "openai_compatible": "llama",
    "anthropic": "claude-sonnet-4-5",
}


def _generated() -> list[Case]:
    """Everything that can be asked, of every provider, streamed unless it says otherwise."""
    return [
        Case(f"{provider}-asked-{n}", f"{provider}/{MODELS[provider]}", {"stream": True, **fields})
        for provider in PREFIXES
        for n, fields in enumerate(ASKED)
    ]


CASES = [*_recorded(), *_generated()]

# --- what is told ---


@dataclass
class Choice:
    text: str = ""
    reasoning: str = ""
    refusal: str = ""
    tool_calls: list[dict[str, str]] = field(default_factory=list)
    finish: str | None = None

    def call(self, index: int, call_id: str, name: str, arguments: str) -> None:
        """A piece of a tool call."""
        while len(self.tool_calls) <= index:
            self.tool_calls.append({"id": "", "name": "", "arguments": ""})
        for key, value in (("id", call_id), ("name", name), ("arguments", arguments)):
            self.tool_calls[index][key] += value


@dataclass
class Outcome:
    """All that a caller learns."""

    model: str = ""
    choices: dict[int, Choice] = field(default_factory=lambda: defaultdict(Choice))
    usage: dict[str, int] | None = None
    error: dict[str, Any] | None = None


def _usage(usage: dict[str, Any] | None) -> dict[str, int] | None:
    if usage is None:
        return None
    return {
        "prompt": usage["prompt_tokens"],
        "completion": usage["completion_tokens"],
        "cached": (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0),
        "reasoning": (usage.get("completion_tokens_details") or {}).get("reasoning_tokens", 0),
    }


def _hub_usage(usage: event_pb2.Usage) -> dict[str, int]:
    return {
        "prompt": usage.input_tokens
        + usage.cache_read_tokens
        + usage.cache_write_tokens
        + usage.input_audio_tokens,
        "completion": usage.output_tokens + usage.reasoning_tokens + usage.output_audio_tokens,
        "cached": usage.cache_read_tokens,
        "reasoning": usage.reasoning_tokens,
    }


FINISH = {
    event_pb2.FINISH_REASON_STOP: "stop",
    event_pb2.FINISH_REASON_LENGTH: "length",
    event_pb2.FINISH_REASON_TOOL_CALLS: "tool_calls",
    event_pb2.FINISH_REASON_CONTENT_FILTER: "content_filter",
}


def _said(choice: Choice, said: dict[str, Any]) -> None:
    """A message or a delta of the OpenAI format."""
    choice.text += said.get("content") or ""
    choice.reasoning += said.get("reasoning_content") or ""
    choice.refusal += said.get("refusal") or ""
    for index, call in enumerate(said.get("tool_calls") or ()):
        inner = call.get("function") or call.get("custom") or {}
        choice.call(
            call.get("index", index),
            call.get("id") or "",
            inner.get("name") or "",
            inner.get("arguments") or inner.get("input") or "",
        )
    if legacy := said.get("function_call"):
        choice.call(0, "", legacy.get("name") or "", legacy.get("arguments") or "")


def _chunk(outcome: Outcome, chunk: dict[str, Any], where: str) -> None:
    outcome.model = chunk["model"]
    outcome.usage = _usage(chunk.get("usage")) or outcome.usage
    for shown in chunk["choices"]:
        choice = outcome.choices[shown["index"]]
        _said(choice, shown[where])
        choice.finish = shown["finish_reason"] or choice.finish


def _error(error: dict[str, Any]) -> dict[str, Any]:
    return {**error, "message": error["message"][:500]}


async def over_http(client: httpx.AsyncClient, case: Case) -> Outcome:
    outcome = Outcome()
    headers = {"content-type": "application/json"}
    reply = await client.post("/v1/chat/completions", content=case.body("http"), headers=headers)
    if reply.status_code != 200:
        outcome.error = _error(reply.json()["error"])
    elif reply.headers["content-type"].startswith("application/json"):
        _chunk(outcome, reply.json(), "message")
    else:
        events = [line[6:] for line in reply.text.splitlines() if line.startswith("data: ")]
        for data in events:
            if data == "[DONE]":
                continue
            chunk = json.loads(data)
            if "error" in chunk:
                outcome.error = _error(chunk["error"])
            else:
                _chunk(outcome, chunk, "delta")
        assert (events[-1] == "[DONE]") == (outcome.error is None)
    return outcome


def _event(outcome: Outcome, event: event_pb2.Event) -> None:
    kind = event.WhichOneof("kind")
    if kind == "started":
        outcome.model = event.started.model
    elif kind == "completed":
        outcome.usage = _hub_usage(event.completed.usage)
    elif kind == "text":
        outcome.choices[event.text.choice].text += event.text.text
    elif kind == "reasoning":
        outcome.choices[event.reasoning.choice].reasoning += event.reasoning.text
    elif kind == "refusal":
        outcome.choices[event.refusal.choice].refusal += event.refusal.text
    elif kind == "tool_call":
        call = event.tool_call
        outcome.choices[call.choice].call(call.index, call.call_id, call.name, call.arguments)
    elif kind == "choice_finished":
        finished = event.choice_finished
        outcome.choices[finished.choice].finish = FINISH[finished.reason]


def _part(choice: Choice, part: content_pb2.Part) -> None:
    choice.text += part.text.text
    choice.reasoning += part.reasoning.text
    choice.refusal += part.refusal.text
    if part.HasField("tool_call"):
        call = part.tool_call
        number = len(choice.tool_calls)
        choice.call(number, call.call_id, call.name, call.arguments.decode())


def _answer(outcome: Outcome, answer: pb.Answer) -> None:
    outcome.model = answer.model
    outcome.usage = _hub_usage(answer.usage)
    for shown in answer.choices:
        choice = outcome.choices[shown.index]
        choice.finish = FINISH[shown.finish_reason]
        for part in shown.message.parts:
            _part(choice, part)


async def over_grpc(client: Client, case: Case) -> Outcome:
    outcome = Outcome()
    request = parse_chat(case.body("grpc"))
    try:
        if request.generate.stream:
            async for response in client.stream(request):
                _event(outcome, response.event)
        else:
            _answer(outcome, (await client.infer(request)).answer)
    except grpc.aio.AioRpcError as exc:
        failure = told(exc)
        row = TABLE[failure.reason]
        assert (failure.code, failure.metadata["http_status"]) == (row.grpc, str(row.http))
        outcome.error = _error(
            {
                "message": failure.message,
                "type": row.type,
                "param": failure.metadata.get("param"),
                "code": failure.metadata.get("code"),
            }
        )
    return outcome


# --- both ---


@dataclass
class Both:
    provider: RecordedProvider
    http: dict[str, Outcome]
    grpc: dict[str, Outcome]


@pytest.fixture(scope="module")
async def both(anyio_backend: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Both]:
    """Everything asked over both fronts, at the same time."""
    provider = RecordedProvider()
    options: dict[str, Any] = {
        "limits": {"streams_per_key": 1_000_000},
        "providers": provider.settings(),
    }
    async with provider.serve(), shared_stack(tmp_path_factory, **options) as stack:
        stack.spawn("recorded", "workers", *PREFIXES)
        await until(lambda: stack.live_workers(1 + len(PREFIXES)), "the providers are on")
        async with stack.client() as http, connected(stack) as rpc:
            sides = [
                [over_http(http, case) for case in CASES],
                [over_grpc(rpc, case) for case in CASES],
            ]
            told_http, told_grpc = await asyncio.gather(*(_some_at_a_time(s) for s in sides))
        yield Both(
            provider,
            {case.id: outcome for case, outcome in zip(CASES, told_http, strict=True)},
            {case.id: outcome for case, outcome in zip(CASES, told_grpc, strict=True)},
        )


async def _some_at_a_time(calls: list[Coroutine[Any, Any, Outcome]]) -> list[Outcome]:
    room = asyncio.Semaphore(32)

    async def one(call: Coroutine[Any, Any, Outcome]) -> Outcome:
        async with room:
            return await call

    return await asyncio.gather(*map(one, calls))


def _ids(cases: list[Case]) -> list[Any]:
    return [pytest.param(case, id=case.id) for case in cases]


def _comparable(outcome: Outcome, case: Case) -> dict[str, Any]:
    """An outcome without what one of the fronts cannot say."""
    choices = {index: vars(choice) for index, choice in sorted(outcome.choices.items())}
    for choice in choices.values():
        # An argument-less call is empty text here and `{}` there.
        choice["tool_calls"] = [
            {**call, "arguments": call["arguments"] or "{}"} for call in choice["tool_calls"]
        ]
        if "functions" in case.fields:
            for call in choice["tool_calls"]:
                call["id"] = ""
    return {"model": outcome.model, "choices": choices, "error": outcome.error}


@pytest.mark.parametrize("case", _ids(CASES))
def test_the_caller_is_told_the_same(both: Both, case: Case) -> None:
    http, rpc = both.http[case.id], both.grpc[case.id]
    assert _comparable(http, case) == _comparable(rpc, case)
    options = case.fields.get("stream_options") or {}
    if case.fields.get("stream") and not options.get("include_usage"):
        assert http.usage is None  # a stream tells only who asked for it
    else:
        assert http.usage == rpc.usage
    recorded = RECORDINGS.get(case.id)
    if recorded is not None and "error" not in recorded.expected:
        # Not the same nothing: it is what was recorded.
        told = rpc.choices[0]
        wanted = recorded.expected["choices"][0]
        assert told.finish == wanted["finish_reason"]
        assert told.text == wanted.get("text", told.text)
        assert len(told.tool_calls) == len(wanted.get("tool_calls", told.tool_calls))
        if "usage" in recorded.expected:
            assert rpc.usage is not None
            assert {k: rpc.usage[k] for k in recorded.expected["usage"]} == (
                recorded.expected["usage"]
            )
    elif recorded is not None:
        assert rpc.error is not None


@pytest.mark.parametrize("case", _ids(CASES))
def test_the_provider_is_sent_the_same(both: Both, case: Case) -> None:
    http, rpc = (both.provider.bodies[case.id, side] for side in ("http", "grpc"))
    refused = both.grpc[case.id].error is not None
    assert http or refused
    assert _written(http) == _written(rpc)


def _written(bodies: list[Any]) -> list[str]:
    """Objects have no order, but 1 is not 1.0."""
    return [json.dumps(body, sort_keys=True) for body in bodies]


def test_nearly_everything_that_was_asked_was_answered(both: Both) -> None:
    """Equal refusals would prove little."""
    asked = [case.id for case in _generated()]
    answered = [name for name in asked if both.http[name].error is None]
    assert len(answered) > 0.9 * len(asked), [n for n in asked if n not in answered]


def test_unary_and_streamed_requests_are_both_among_them() -> None:
    streamed = [c for c in CASES if c.fields.get("stream")]
    assert min(len(streamed), len(CASES) - len(streamed)) > 30


def test_a_chat_body_can_be_sent_as_typed_messages_without_loss() -> None:
    """What `parse_chat` makes of a body survives the wire of gRPC."""
    for case in CASES:
        request = parse_chat(case.body("grpc"))
        assert generation_pb2.Request.FromString(request.SerializeToString()) == request
