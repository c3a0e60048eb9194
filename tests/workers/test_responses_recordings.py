"""Recorded streams of the Responses API go in, and come out again in the recorded order."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from broker.translate.responses_request import parse_responses
from broker.translate.responses_stream import ResponsesStream
from broker.v1 import generation_pb2
from tests.broker.translate.hub import shown
from tests.workers.responses_answers import sse
from tests.workers.test_openai_responses_answer import decode, plain

FOLDER = Path(__file__).parent / "responses_recordings"
RECORDINGS = sorted(path.stem for path in FOLDER.glob("*.json"))
# What of an event has to be as it was recorded, where it was; ids are our own.
FIELDS = (
    "annotation",
    "annotation_index",
    "arguments",
    "content_index",
    "delta",
    "logprobs",
    "output_index",
    "part",
    "refusal",
    "summary_index",
    "text",
)


def load(name: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The request and the events of a recording."""
    recorded = json.loads((FOLDER / f"{name}.json").read_text())
    return recorded["request"], recorded["events"]


def hub(request: dict[str, Any]) -> generation_pb2.Request:
    # What it goes on from is not looked up here.
    alone = {name: value for name, value in request.items() if name != "previous_response_id"}
    return parse_responses(json.dumps(alone).encode())


def known(value: Any) -> Any:
    """A value without the copies of log probabilities, which not all servers make."""
    if isinstance(value, dict):
        return {name: known(inner) for name, inner in value.items() if name != "logprobs"}
    return [known(inner) for inner in value] if isinstance(value, list) else value


def item(event: dict[str, Any]) -> Any:
    """An event's item without what is the server's own."""
    found = plain([known(event["item"])])[0]
    if found["type"] == "reasoning":
        return {**found, "status": None, "content": found.get("content") or []}
    return found


def test_there_are_recordings_of_what_matters() -> None:
    found = {event["type"] for name in RECORDINGS for event in load(name)[1]}
    assert {
        "response.queued",
        "response.function_call_arguments.delta",
        "response.output_text.annotation.added",
        "response.reasoning_text.delta",
        "response.web_search_call.searching",
        "response.file_search_call.searching",
    } <= found


@pytest.mark.parametrize("size", [7, 65536])
@pytest.mark.parametrize("name", RECORDINGS)
def test_a_recording_comes_out_in_its_own_order(name: str, size: int) -> None:
    asked, sent = load(name)
    request = hub(asked)
    stream = ResponsesStream.of("resp_1", 1, request)
    found = shown(stream.feed(decode(sse(sent), size, request)) + stream.finish())
    assert [event["type"] for event in found] == [event["type"] for event in sent]
    assert [event["sequence_number"] for event in found] == list(range(len(sent)))
    for ours, theirs in zip(found, sent, strict=True):
        for field in FIELDS:
            if field in theirs:
                assert known(ours[field]) == known(theirs[field]), (ours["type"], field)
        if "item" in theirs:
            assert item(ours) == item(theirs)
    ours, theirs = found[-1]["response"], sent[-1]["response"]
    assert ours["status"] == theirs["status"]
    assert ours["service_tier"] == theirs.get("service_tier", "auto")
    assert ours["incomplete_details"] == theirs["incomplete_details"]
    for name_, count in theirs["usage"].items():
        if isinstance(count, int):
            assert ours["usage"][name_] == count
