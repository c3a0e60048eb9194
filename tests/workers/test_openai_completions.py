"""Completions at providers: what is sent and read, and what becomes calls of its own."""

from __future__ import annotations

import json
from typing import Any

import pytest

from broker.errors import InferenceError
from broker.v1 import event_pb2, generation_pb2
from workers.dialects.openai_chat import DIALECT as CHAT
from workers.dialects.openai_completions import OpenAiCompletions
from workers.emulation import Prompts, plan_of
from workers.registry import provider

DIALECT = OpenAiCompletions(CHAT.error)
Event = event_pb2.Event


def ask(**fields: Any) -> generation_pb2.Request:
    request = generation_pb2.Request()
    request.complete.model = "m"
    for name, value in {"prompts": ["hi"], **fields}.items():
        if isinstance(value, list):
            getattr(request.complete, name).extend(value)
        else:
            setattr(request.complete, name, value)
    return request


def decode(body: bytes, size: int, request: generation_pb2.Request) -> list[Event]:
    decoder = DIALECT.decoder(request, {"x-request-id": "up"})
    events: list[Event] = []
    for start in range(0, len(body), size):
        events += decoder.feed(body[start : start + size])
    return [*events, *decoder.close()]


def texts(events: list[Event]) -> dict[int, str]:
    found: dict[int, str] = {}
    for event in events:
        if event.HasField("text"):
            found[event.text.choice] = found.get(event.text.choice, "") + event.text.text
    return found


def chunk(*choices: dict[str, Any], **more: Any) -> bytes:
    head = {"id": "c", "object": "text_completion", "created": 7, "model": "m-1"}
    return json.dumps({**head, "choices": choices, **more}).encode()


def choice(text: str, index: int = 0, finish: str | None = None, **more: Any) -> dict[str, Any]:
    return {"text": text, "index": index, "finish_reason": finish, **more}


USAGE = {"prompt_tokens": 9, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 5}}
WHOLE = chunk(choice("ab", 0, "stop"), choice("c", 1, "length"), usage=USAGE)
LINES = (
    chunk(choice("a")),
    chunk(choice("c", 1, "length")),
    chunk(choice("b", 0, "eos")),
    chunk(usage=USAGE),
    b"[DONE]",
)


def stream(*lines: bytes, end: bytes = b"\n") -> bytes:
    return b"".join(b"data: " + line + end * 2 for line in lines)


@pytest.mark.parametrize("size", [1, 7, 4096])
@pytest.mark.parametrize(
    "body", [WHOLE, stream(*LINES), stream(*LINES, end=b"\r\n"), stream(*LINES[:-1])]
)
def test_an_answer_is_read_however_it_comes(body: bytes, size: int) -> None:
    events = decode(body, size, ask(n=2))
    assert texts(events) == {0: "ab", 1: "c"}
    assert events[0].started.model == "m-1"
    assert events[0].started.upstream_request_id == "up"
    finished = {
        event.choice_finished.choice: event.choice_finished.reason
        for event in events
        if event.HasField("choice_finished")
    }
    stop, length = event_pb2.FINISH_REASON_STOP, event_pb2.FINISH_REASON_LENGTH
    assert finished == {0: stop, 1: length}
    usage = events[-1].completed.usage
    counts = (usage.input_tokens, usage.cache_read_tokens, usage.output_tokens)
    assert counts == (4, 5, 4)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "upstream_incomplete"),
        (WHOLE[:-9], "upstream_incomplete"),
        (b"<html>", "upstream_error"),
        (chunk(choice("a")), "upstream_incomplete"),
        (chunk(), "upstream_incomplete"),
        (b'{"error": {"message": "no", "code": 429}}', "upstream_rate_limit"),
        (b'{"choices": [1]}', "upstream_error"),
        (stream(LINES[0]), "upstream_incomplete"),
        (stream(LINES[0], b"[DONE]"), "upstream_incomplete"),
        (stream(LINES[0], LINES[1]), "upstream_incomplete"),
        (stream(LINES[0], b'{"error": {"message": "no"}}'), "upstream_error"),
        (stream(LINES[0], b"{"), "upstream_error"),
        (stream(chunk(choice("a", finish="error"))), "upstream_error"),
    ],
)
def test_what_is_no_whole_answer_is_an_error(body: bytes, reason: str) -> None:
    with pytest.raises(InferenceError) as caught:
        decode(body, 4096, ask())
    assert caught.value.reason == reason


def test_an_answer_without_counts_is_estimated() -> None:
    usage = decode(chunk(choice("12345678", finish="stop")), 99, ask())[-1].completed.usage
    assert (usage.input_tokens, usage.output_tokens, usage.estimated) == (1, 2, True)


def test_mistrals_message_is_the_text() -> None:
    body = chunk({"index": 0, "message": {"content": "x"}, "finish_reason": "stop"})
    assert texts(decode(body, 99, ask())) == {0: "x"}
    lines = (
        chunk({"index": 0, "delta": {"content": "x"}, "finish_reason": None}),
        chunk({"index": 0, "delta": {"content": "y"}, "finish_reason": "length"}),
    )
    assert texts(decode(stream(*lines), 99, ask())) == {0: "xy"}


# --- what becomes several calls, or another operation ---


def planned(name: str, model: str, **fields: Any) -> Prompts | None:
    plan = plan_of(ask(**fields), model, provider(name))
    assert plan is None or isinstance(plan, Prompts)
    return plan


@pytest.mark.parametrize(
    ("name", "model"),
    [
        *(("openai", model) for model in ("gpt-3.5-turbo-instruct", "davinci-002")),
        *((name, "m") for name in ("together_ai", "fireworks", "vllm", "cerebras", "ollama")),
        *((name, "m") for name in ("openrouter", "openai_compatible", "deepseek", "sim")),
        ("azure", "my-instruct"),
        ("mistral", "codestral-latest"),
    ],
)
def test_these_complete_by_themselves(name: str, model: str) -> None:
    assert planned(name, model) is None


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("openai", "gpt-4o"),
        ("azure", "gpt-4o"),
        ("mistral", "mistral-large-latest"),
        *((name, "m") for name in ("groq", "xai", "anthropic", "gemini", "bedrock", "cohere")),
        *((name, "m") for name in ("perplexity", "huggingface", "vertex_ai")),
    ],
)
def test_these_complete_through_chat(name: str, model: str) -> None:
    plan = planned(name, model, temperature=0.5, stop=["x"])
    assert plan is not None
    assert plan.operation == "generate"
    generate = plan.request_of(0).generate
    assert [part.text.text for part in generate.messages[0].parts] == ["hi"]
    assert generate.max_output_tokens == 16
    assert generate.temperature == 0.5


def test_choices_that_cannot_be_had_at_once_get_calls_with_seeds_of_their_own() -> None:
    plan = planned("groq", "m", prompts=["a", "b"], n=2, seed=5)
    assert plan is not None
    assert (plan.calls, plan.choices) == (4, 1)
    asked = [plan.request_of(call).generate for call in range(4)]
    assert [one.messages[0].parts[0].text.text for one in asked] == ["a", "a", "b", "b"]
    assert [one.seed for one in asked] == [5, 6, 5, 6]
    assert not any(one.HasField("n") for one in asked)


def test_choices_stay_in_one_call_where_that_is_known() -> None:
    plan = planned("openai", "gpt-4o", prompts=["a", "b"], n=2)
    assert plan is not None
    assert (plan.calls, plan.choices) == (2, 2)
    joint = plan.joint()
    said = [
        Event(started=event_pb2.Started(model="m")),
        Event(text=event_pb2.TextDelta(choice=1, text="x")),
    ]
    [_, first] = joint.add(1, said)
    assert first.text.choice == 3


@pytest.mark.parametrize(
    ("name", "fields", "param"),
    [
        ("groq", {"suffix": "x"}, "suffix"),
        ("groq", {"best_of": 2}, "best_of"),
        ("groq", {"max_tokens": 0}, "max_tokens"),
        ("groq", {"echo": True, "logprobs": 1}, "logprobs"),
        ("together_ai", {"suffix": "x"}, "suffix"),
        ("ollama", {"echo": True, "logprobs": 0}, "logprobs"),
        ("groq", {"prompts": ["a"] * 129}, "n"),
    ],
)
def test_what_would_be_another_text_is_refused(
    name: str, fields: dict[str, Any], param: str
) -> None:
    with pytest.raises(InferenceError) as caught:
        planned(name, "m", **fields)
    assert caught.value.param == param


def test_a_provider_that_echoes_not_is_spared_the_field() -> None:
    plan = planned("ollama", "m", echo=True, prompts=["a", "b"])
    assert plan is not None
    assert (plan.operation, list(plan.echoes)) == ("complete", ["a", "b"])
    assert not plan.request_of(1).complete.HasField("echo")
