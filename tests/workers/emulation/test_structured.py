"""Answers in JSON where the provider does not hold the model to it."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from broker.errors import InferenceError
from broker.v1 import event_pb2, generation_pb2
from tests.workers.emulation.upstream import Chat, ask, attempt
from workers.emulation.structured import JsonAnswer

Event = event_pb2.Event
Format = generation_pb2.ResponseFormat
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}


def by_schema(schema: Any = SCHEMA, **more: Any) -> Format:
    return Format(
        kind=Format.KIND_JSON_SCHEMA, name="p", schema=json.dumps(schema).encode(), **more
    )


ANY = Format(kind=Format.KIND_JSON_OBJECT)


def answered(
    form: Format,
    *pieces: str,
    streamed: bool = False,
    finish: event_pb2.FinishReason.ValueType = event_pb2.FINISH_REASON_STOP,
    more: Event | None = None,
) -> str:
    step = JsonAnswer(form, streamed=streamed)
    events = [Event(text=event_pb2.TextDelta(text=piece)) for piece in pieces]
    events += [more] if more is not None else []
    finished = Event(choice_finished=event_pb2.ChoiceFinished(reason=finish))
    completed = Event(completed=event_pb2.Completed())
    shown = list(step.over([*events, finished, completed]))
    assert [e.WhichOneof("kind") for e in shown][-2:] == ["choice_finished", "completed"]
    return "".join(event.text.text for event in shown)


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    ("form", "pieces", "shown"),
    [
        (by_schema(), ['{"city"', ': "Rome"}'], '{"city": "Rome"}'),
        (by_schema(), ["```json\n", '{"city": "Rome"}', "\n```"], '{"city": "Rome"}'),
        (ANY, ["``", '`\n{"a": 1}\n```\n'], '{"a": 1}'),
        (by_schema(strict=False), ['{"town": 1}'], '{"town": 1}'),
    ],
)
def test_a_right_answer_is_shown_without_fences(
    form: Format, pieces: list[str], shown: str, streamed: bool
) -> None:
    assert answered(form, *pieces, streamed=streamed) == shown


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    ("form", "text", "why"),
    [
        (by_schema(), '{"town": 1}', "at $: "),
        (by_schema(), '{"city": 1}', "at $.city: 1 is not of type 'string'"),
        (by_schema(), "Rome, I think.", "it is not JSON"),
        (by_schema(strict=False), "{'city'", "it is not JSON"),
        (ANY, "[1]", "it is not a JSON object"),
        (ANY, "", "it is not JSON"),
    ],
)
def test_a_wrong_answer_is_an_error_that_says_where(
    form: Format, text: str, why: str, streamed: bool
) -> None:
    with pytest.raises(InferenceError, match="not the JSON that was asked for") as caught:
        answered(form, text, streamed=streamed)
    assert caught.value.reason == "invalid_answer"
    assert why in caught.value.message


@pytest.mark.parametrize(
    "more",
    [
        Event(tool_call=event_pb2.ToolCallDelta(name="f", arguments="{}")),
        Event(refusal=event_pb2.RefusalDelta(text="no")),
    ],
)
def test_tool_calls_and_refusals_are_no_json(more: Event) -> None:
    answered(by_schema(), more=more)


@pytest.mark.parametrize(
    "finish", [event_pb2.FINISH_REASON_LENGTH, event_pb2.FINISH_REASON_CONTENT_FILTER]
)
def test_an_answer_that_was_cut_off_says_so_by_its_finish_reason(finish: Any) -> None:
    assert answered(by_schema(), '{"ci', finish=finish) == '{"ci'


@pytest.mark.parametrize(
    "schema", [{"type": "nothing"}, {"properties": 1}, [], {"required": "city"}]
)
def test_a_schema_that_is_none_is_the_callers_mistake(schema: Any) -> None:
    with pytest.raises(InferenceError, match="not a JSON Schema") as caught:
        JsonAnswer(by_schema(schema), streamed=False)
    assert caught.value.reason == "invalid_request"


@pytest.mark.parametrize("reference", ["https://127.0.0.1:1/schema", "file:///etc/passwd", "#/no"])
def test_references_out_of_the_schema_are_not_followed(reference: str) -> None:
    with pytest.raises(InferenceError, match="cannot be followed"):
        answered(by_schema({"properties": {"a": {"$ref": reference}}}), '{"a": 1}')


def test_references_within_the_schema_are() -> None:
    schema = {"$defs": {"n": {"type": "integer"}}, "properties": {"a": {"$ref": "#/$defs/n"}}}
    assert answered(by_schema(schema), '{"a": 1}')
    with pytest.raises(InferenceError, match="not the JSON"):
        answered(by_schema(schema), '{"a": "x"}')


def test_a_schema_that_leads_to_itself_for_ever_is_an_error() -> None:
    with pytest.raises(InferenceError, match="cannot be followed"):
        answered(by_schema({"$ref": "#"}), "{}")


def test_no_pattern_can_hold_up_the_worker() -> None:
    slow = {"a": {"type": "string", "pattern": "^(a+)+$"}}
    schema = {
        "type": "object",
        "properties": slow,
        "patternProperties": {"^(b+)+$": {}},
        "additionalProperties": False,
    }
    begun = time.monotonic()
    answered(by_schema(schema), json.dumps({"a": "a" * 60 + "!", "b" * 60 + "!": 1}))
    assert time.monotonic() - begun < 1


REQUEST = {"response_format": by_schema()}


@pytest.mark.parametrize("stream", [False, True])
async def test_deepseek_is_held_to_a_schema_it_does_not_know(stream: bool) -> None:
    async with Chat(lambda _: ["```json\n{", '"city": "Rome"}\n', "```"]).serve() as chat:
        got = await attempt("deepseek", chat.url, ask(stream=stream, **REQUEST))
    assert chat.bodies[0]["response_format"] == {"type": "json_object"}
    assert json.loads(got.text()) == {"city": "Rome"}
    assert got.kinds[-1] == "completed"


async def test_a_wrong_whole_answer_shows_nothing_and_counts_what_it_used() -> None:
    async with Chat(lambda _: '{"town": "Rome"}').serve() as chat:
        got = await attempt("deepseek", chat.url, ask(**REQUEST))
    assert got.kinds == ["failed"]
    assert got.failure.reason == "invalid_answer"
    assert got.failure.phase == "before_content"
    assert got.record.usage.input_tokens == 7


async def test_a_wrong_stream_ends_with_the_error() -> None:
    async with Chat(lambda _: ['{"town": ', '"Rome"}']).serve() as chat:
        got = await attempt("deepseek", chat.url, ask(stream=True, **REQUEST))
    assert got.text() == '{"town": "Rome"}'
    assert got.kinds.count("completed") == 0
    assert (got.failure.reason, got.failure.phase) == ("invalid_answer", "content")


async def test_a_wrong_schema_costs_no_call() -> None:
    async with Chat(lambda _: "{}").serve() as chat:
        wrong = ask(response_format=by_schema({"type": "nothing"}))
        got = await attempt("deepseek", chat.url, wrong)
    assert got.failure.param == "response_format.json_schema.schema"
    assert chat.bodies == []


async def test_where_the_provider_has_structured_outputs_its_word_is_taken() -> None:
    async with Chat(lambda _: "not JSON").serve() as chat:
        got = await attempt("mistral", chat.url, ask(**REQUEST))
    assert got.text() == "not JSON"
