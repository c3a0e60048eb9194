"""Every recorded answer as a message: in order, streamed and whole the same, Claude's unchanged."""

from __future__ import annotations

import json
from typing import Any

import pytest

from broker.errors import InferenceError
from broker.translate.messages_api_answer import MessagesAnswer
from broker.translate.messages_api_stream import PING, MessagesStream
from broker.v1 import event_pb2, generation_pb2
from tests.workers.conformance.recordings import Recording, all_recordings
from workers.registry import provider

WHOLE = [one for one in all_recordings() if one.status == 200 and "error" not in one.expected]
CLAUDE = [one for one in WHOLE if one.provider == "anthropic"]


# Source: the official SDK's.
STOP_REASONS = {
    *("end_turn", "max_tokens", "stop_sequence", "tool_use", "pause_turn", "refusal"),
    "model_context_window_exceeded",
}


def ask(recording: Recording) -> generation_pb2.Request:
    request = generation_pb2.Request()
    request.generate.surface = generation_pb2.SURFACE_MESSAGES
    request.generate.model = recording.model
    request.generate.stream = recording.stream
    return request


def decoded(recording: Recording, request: generation_pb2.Request) -> list[event_pb2.Event]:
    dialect = provider(recording.provider).dialect_for(recording.model)
    decoder = dialect.decoder(request, recording.headers)
    return [*decoder.feed(recording.answer), *decoder.close()]


def rendered(events: list[event_pb2.Event], request: generation_pb2.Request) -> dict[str, Any]:
    answer = MessagesAnswer("msg_1", 0, request)
    answer.feed(events)
    shown: dict[str, Any] = json.loads(answer.render())
    return shown


def streamed(events: list[event_pb2.Event], request: generation_pb2.Request) -> list[Any]:
    stream = MessagesStream("msg_1", 0, request)
    data = b"".join(stream.feed([event]) for event in events) + stream.finish()
    found = []
    for block in data.decode().split("\n\n")[:-1]:
        name, line = block.split("\n")
        found.append(json.loads(line.removeprefix("data: ")))
        assert found[-1]["type"] == name.removeprefix("event: ")
    return found


def message_of(steps: list[Any]) -> dict[str, Any]:
    """What a client makes of a stream; asserts that the order is right."""
    message: dict[str, Any] = {}
    block: dict[str, Any] | None = None
    given = ""
    for step in steps:
        kind = step["type"]
        if kind == "message_start":
            assert not message
            message = step["message"]
        elif kind == "content_block_start":
            assert block is None
            assert step["index"] == len(message["content"])
            block, given = step["content_block"], ""
        elif kind == "content_block_delta":
            assert block is not None
            assert step["index"] == len(message["content"])
            given += _add(block, step["delta"])
        elif kind == "content_block_stop":
            assert block is not None
            if given:
                block["input"] = json.loads(given)
            message["content"].append(block)
            block = None
        elif kind == "message_delta":
            assert block is None
            message |= step["delta"]
            message["usage"] = step["usage"]
        else:
            assert kind in ("ping", "message_stop")
    assert steps[-1]["type"] == "message_stop"
    return message


def _add(block: dict[str, Any], delta: dict[str, Any]) -> str:
    kind = delta["type"]
    if kind == "input_json_delta":
        return str(delta["partial_json"])
    if kind == "citations_delta":
        block.setdefault("citations", []).append(delta["citation"])
    else:
        name = kind.removesuffix("_delta")
        block[name] += delta[name]
    return ""


def _with_late_state(content: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """State that a provider sends behind the text is a block of its own in a stream."""
    first, last = (content or [{}])[0], (content or [{}])[-1]
    if first is not last and first.get("signature") == "" == last.get("thinking"):
        return [{**first, "signature": last["signature"]}, *content[1:-1]]
    return content


@pytest.mark.parametrize("recording", WHOLE, ids=lambda one: one.id)
def test_streamed_and_whole_are_the_same_message(recording: Recording) -> None:
    request = ask(recording)
    events = decoded(recording, request)
    whole = rendered(events, request)
    shown = message_of(streamed(events, request))
    for message in (shown, whole):
        message["content"] = _with_late_state(message["content"])
    assert shown == whole
    assert whole["stop_reason"] in STOP_REASONS
    if recording.expected.get("usage"):
        usage = whole["usage"]
        read = usage["cache_creation_input_tokens"] + usage["cache_read_input_tokens"]
        assert usage["input_tokens"] + read == recording.expected["usage"]["prompt"]
        assert usage["output_tokens"] == recording.expected["usage"]["completion"]


@pytest.mark.parametrize("recording", CLAUDE, ids=lambda one: one.id)
def test_what_claude_said_comes_out_unchanged(recording: Recording) -> None:
    request = ask(recording)
    shown = rendered(decoded(recording, request), request)
    if recording.stream:
        lines = recording.answer.decode().split("\n")
        steps = [json.loads(line[6:]) for line in lines if line.startswith("data: ")]
        start = dict(steps[0]["message"]["usage"])
        own = message_of(steps)
        own["usage"] = {**start, **own["usage"]}
    else:
        own = json.loads(recording.answer)
    for message in (own, shown):
        message["content"] = [_known(block) for block in message["content"]]
        message["usage"] = _counted(message["usage"])
    own["id"] = shown["id"]
    assert shown == {name: value for name, value in own.items() if value is not None} | {
        "stop_sequence": own["stop_sequence"]
    }


def _known(block: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in block.items() if value is not None}


def _counted(usage: dict[str, Any]) -> dict[str, Any]:
    """Without what counts nothing."""
    found = {
        name: _counted(value) if isinstance(value, dict) else value for name, value in usage.items()
    }
    return {name: value for name, value in found.items() if value}


def test_pings_keep_a_stream_alive_once_it_has_begun() -> None:
    stream = MessagesStream("msg_1", 0, generation_pb2.Request())
    assert stream.keep_alive.startswith(b":")
    stream.feed([event_pb2.Event(started=event_pb2.Started(model="m"))])
    assert stream.keep_alive == PING


def test_a_failure_in_a_stream_ends_it_without_message_stop() -> None:
    stream = MessagesStream("msg_1", 0, generation_pb2.Request())
    stream.feed([event_pb2.Event(started=event_pb2.Started(model="m"))])
    end = stream.error(InferenceError("upstream_incomplete", "it was cut"))
    assert end.startswith(b"event: error\n")
    assert not stream.finish()
