"""Events of the hub become the stream of a response, in the order that api.openai.com has."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from broker.errors import InferenceError
from broker.translate.responses_answer import ResponsesAnswer
from broker.translate.responses_object import render
from broker.translate.responses_stream import ResponsesStream
from broker.v1 import event_pb2, generation_pb2, stored_pb2
from tests.broker.translate.hub import asked, events, shown

ID = "resp_0123456789abcdef0123456789abcdef"
BEGIN = ["created", "in_progress"]
MESSAGE = ["output_item.added", "content_part.added"]
MESSAGE_DONE = ["output_text.done", "content_part.done", "output_item.done"]
CALL_DONE = ["function_call_arguments.done", "output_item.done"]
STARTED = 'started { model: "m-2025" service_tier: "default" }\n'
STOP = "\nchoice_finished { reason: FINISH_REASON_STOP }\ncompleted { usage { input_tokens: 3 } }"
CALLS = STOP.replace("REASON_STOP", "REASON_TOOL_CALLS")
DRAWING = "image { item: 0 partial: true }\n"
PARTIAL = 'image { item: 0 partial: true partial_index: 1 image { data: "half" } }\n'
SEARCH = '\\"type\\":\\"web_search_call\\",\\"id\\":\\"ws_1\\"'
HOSTED = (
    'opaque { item: 0 opaque { type: "web_search_call" issuer: "openai_responses"'
    f' json: "{{{SEARCH},\\"status\\":\\"in_progress\\"}}" }} }}\n'
    'opaque { item: 0 opaque { issuer: "openai_responses" }'
    ' step: "{\\"type\\":\\"response.web_search_call.searching\\"}" }\n'
    'opaque { item: 0 done: true opaque { type: "web_search_call" issuer: "openai_responses"'
    f' json: "{{{SEARCH},\\"status\\":\\"completed\\"}}" }} }}\n'
)

# What the model says, and the events between the first two and the terminal one.
ORDERS: dict[str, tuple[str, list[str]]] = {
    "text": (
        'text { item: 0 text: "Hel" }\ntext { item: 0 text: "lo" }' + STOP,
        [*MESSAGE, "output_text.delta", "output_text.delta", *MESSAGE_DONE],
    ),
    "nothing": (STOP, []),
    "refusal": (
        'refusal { item: 0 text: "No." }' + STOP,
        [*MESSAGE, "refusal.delta", "refusal.done", *MESSAGE_DONE[1:]],
    ),
    "text and refusal": (
        'text { item: 0 text: "Well" }\nrefusal { item: 0 text: "No." }' + STOP,
        [
            *MESSAGE,
            "output_text.delta",
            *MESSAGE_DONE[:2],
            "content_part.added",
            "refusal.delta",
            "refusal.done",
            *MESSAGE_DONE[1:],
        ],
    ),
    "annotations": (
        'text { item: 0 text: "see" }\nannotation { item: 0 json: "{}" }\n'
        'text { item: 0 text: "!" }' + STOP,
        [
            *MESSAGE,
            "output_text.delta",
            "output_text.annotation.added",
            "output_text.delta",
            *MESSAGE_DONE,
        ],
    ),
    "two messages": (
        'text { item: 0 text: "a" phase: "commentary" }\n'
        'text { item: 1 text: "b" phase: "final_answer" }' + STOP,
        [*MESSAGE, "output_text.delta", *MESSAGE_DONE] * 2,
    ),
    "raw reasoning": (
        'reasoning { item: 0 text: "hm" }\ntext { item: 1 text: "a" }' + STOP,
        [
            *MESSAGE,
            "reasoning_text.delta",
            "reasoning_text.done",
            *MESSAGE_DONE[1:],
            *MESSAGE,
            "output_text.delta",
            *MESSAGE_DONE,
        ],
    ),
    "summaries": (
        'blob { item: 0 blob { issuer: "openai_responses" kind: "item_id" data: "rs_9" } }\n'
        'reasoning { item: 0 text: "a" summary: true }\n'
        'reasoning { item: 0 text: "b" summary: true part: 1 }' + STOP,
        [
            "output_item.added",
            *[
                "reasoning_summary_part.added",
                "reasoning_summary_text.delta",
                "reasoning_summary_text.done",
                "reasoning_summary_part.done",
            ]
            * 2,
            "output_item.done",
        ],
    ),
    "silent reasoning": (
        'blob { item: 0 blob { issuer: "openai_responses" kind: "item_id" data: "rs_9" } }' + STOP,
        ["output_item.added", "output_item.done"],
    ),
    "a signature nobody asked for": (
        'blob { item: 0 blob { issuer: "gemini" kind: "text" data: "s" } }\n'
        'text { item: 0 text: "a" }\n'
        'blob { item: 1 blob { issuer: "gemini" kind: "text" data: "s" } }\n'
        'text { item: 1 text: "b" }' + STOP,
        [*MESSAGE, "output_text.delta", "output_text.delta", *MESSAGE_DONE],
    ),
    "calls": (
        'tool_call { item: 0 index: 0 call_id: "a" name: "f" }\n'
        'tool_call { item: 0 index: 0 arguments: "{}" }\n'
        'tool_call { item: 1 index: 1 call_id: "b" name: "f" arguments: "{}" }' + CALLS,
        ["output_item.added", "function_call_arguments.delta", *CALL_DONE] * 2,
    ),
    "mixed calls": (
        'tool_call { item: 0 index: 0 call_id: "a" name: "f" arguments: "{" }\n'
        'tool_call { item: 1 index: 1 call_id: "b" name: "f" arguments: "{" }\n'
        'tool_call { item: 0 index: 0 arguments: "}" }\n'
        'tool_call { item: 1 index: 1 arguments: "}" }' + CALLS,
        [
            *["output_item.added", "function_call_arguments.delta"] * 2,
            *["function_call_arguments.delta"] * 2,
            *CALL_DONE * 2,
        ],
    ),
    "custom call": (
        'tool_call { item: 0 call_id: "a" name: "f" arguments: "hi" kind: TOOL_KIND_CUSTOM }'
        + CALLS,
        [
            "output_item.added",
            "custom_tool_call_input.delta",
            "custom_tool_call_input.done",
            "output_item.done",
        ],
    ),
    "image": (
        DRAWING + PARTIAL + 'image { item: 0 image { data: "whole" } }' + STOP,
        [
            "output_item.added",
            "image_generation_call.in_progress",
            "image_generation_call.generating",
            "image_generation_call.partial_image",
            "image_generation_call.completed",
            "output_item.done",
        ],
    ),
    "hosted tool": (
        HOSTED + 'text { item: 1 text: "found" }' + STOP,
        [
            "output_item.added",
            "web_search_call.searching",
            "output_item.done",
            *MESSAGE,
            "output_text.delta",
            *MESSAGE_DONE,
        ],
    ),
    "an item of another format": (
        'opaque { item: 0 opaque { type: "x" issuer: "anthropic_messages" json: "{}" } }' + STOP,
        [],
    ),
}


def stream(said: str, *, size: int = 1000, **fields: Any) -> tuple[bytes, ResponsesStream]:
    """The bytes for these events, fed `size` at a time."""
    rendered = ResponsesStream.of(ID, 1, asked(stream=True, **fields))
    fed = events(STARTED + said)
    data = b"".join(rendered.feed(fed[at : at + size]) for at in range(0, len(fed), size))
    return data, rendered


def whole(said: str, **fields: Any) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """All events, and the final object."""
    data, rendered = stream(said, **fields)
    found = shown(data + rendered.finish())
    return found, found[-1]["response"]


def types(found: list[dict[str, Any]]) -> list[str]:
    return [event["type"].removeprefix("response.") for event in found]


@pytest.mark.parametrize(("said", "order"), ORDERS.values(), ids=ORDERS)
def test_events_come_in_openais_order(said: str, order: list[str]) -> None:
    found, _ = whole(said)
    assert types(found) == [*BEGIN, *order, "completed"]


@pytest.mark.parametrize("said", [said for said, _ in ORDERS.values()], ids=ORDERS)
def test_the_final_object_is_what_its_items_said_and_what_is_kept(said: str) -> None:
    data, rendered = stream(said)
    kept = rendered.stored(completed_at=9)
    found = shown(data + rendered.finish())
    response = found[-1]["response"]
    done = {e["output_index"]: e["item"] for e in found if e["type"].endswith("item.done")}
    assert response["output"] == [done[index] for index in sorted(done)]
    assert response == json.loads(render(kept))
    assert kept.completed_at == 9
    unary = ResponsesAnswer(ID, 1, asked(stream=True))
    unary.feed(events(STARTED + said))
    unary.stored(completed_at=9)
    assert json.loads(unary.render()) == response
    added = {e["output_index"]: e["item"] for e in found if e["type"].endswith("item.added")}
    assert {at: entry["id"] for at, entry in added.items()} == {
        at: entry["id"] for at, entry in done.items()
    }
    for event in found:
        if "item_id" in event:
            assert event["item_id"] == done[event["output_index"]]["id"]


@pytest.mark.parametrize("said", [said for said, _ in ORDERS.values()], ids=ORDERS)
def test_the_same_events_give_the_same_bytes_from_any_number_on(said: str) -> None:
    at_once, rendered = stream(said)
    at_once += rendered.finish()
    one_by_one, rendered = stream(said, size=1)
    assert one_by_one + rendered.finish() == at_once
    blocks = at_once.split(b"\n\n")[:-1]
    for after in range(-1, len(blocks)):
        again = ResponsesStream(ID, 1, asked(stream=True), starting_after=after)
        data = again.feed(events(STARTED + said)) + again.finish()
        assert data.split(b"\n\n")[:-1] == blocks[after + 1 :]


def test_texts_and_ids_are_in_the_items() -> None:
    found, response = whole(
        'reasoning { item: 0 text: "hm" summary: true }\n'
        'text { item: 1 text: "Hel" logprobs: "[{\\"token\\":\\"Hel\\"}]" }\n'
        'text { item: 1 text: "lo" }\n'
        'annotation { item: 1 json: "{\\"type\\":\\"url_citation\\",'
        '\\"url_citation\\":{\\"url\\":\\"u\\"}}" }\n'
        'tool_call { item: 2 call_id: "c" name: "f" arguments: "{}" }' + CALLS
    )
    note = {"type": "url_citation", "url": "u"}
    thought, message, call = response["output"]
    assert thought["summary"] == [{"type": "summary_text", "text": "hm"}]
    assert message["content"] == [
        {
            "type": "output_text",
            "annotations": [note],
            "logprobs": [{"token": "Hel"}],
            "text": "Hello",
        }
    ]
    assert (call["call_id"], call["name"], call["arguments"]) == ("c", "f", "{}")
    prefixes = [entry["id"].partition("_")[0] for entry in response["output"]]
    assert prefixes == ["rs", "msg", "fc"]
    assert len({entry["id"] for entry in response["output"]}) == 3
    (added,) = (e for e in found if e["type"].endswith("annotation.added"))
    assert (added["annotation"], added["annotation_index"]) == (note, 0)
    (done,) = (e for e in found if e["type"] == "response.output_text.done")
    assert (done["text"], done["logprobs"]) == ("Hello", [{"token": "Hel"}])


def test_an_image_is_base64_in_its_partial_events_and_in_its_item() -> None:
    found, response = whole(
        DRAWING
        + PARTIAL
        + 'image_facts { size: "1024x1024" output_format: "png" }\n'
        + 'image { item: 0 image { data: "whole" } revised_prompt: "a cat" }'
        + STOP
    )
    (partial,) = (e for e in found if e["type"].endswith("partial_image"))
    assert partial["partial_image_index"] == 1
    assert base64.b64decode(partial["partial_image_b64"]) == b"half"
    (image,) = response["output"]
    assert base64.b64decode(image["result"]) == b"whole"
    assert (image["revised_prompt"], image["size"], image["status"]) == (
        "a cat",
        "1024x1024",
        "completed",
    )


def test_reasoning_state_is_shown_to_who_asks_and_carried_back() -> None:
    said = (
        'reasoning { item: 0 text: "hm" }\n'
        'blob { item: 0 blob { issuer: "anthropic_messages" kind: "signature" data: "s" } }' + STOP
    )
    _, hidden = whole(said)
    assert "encrypted_content" not in hidden["output"][0]
    for fields in ({"include": ["reasoning.encrypted_content"]}, {"store": False}):
        _, response = whole(said, **fields)
        (item,) = response["output"]
        (message,) = asked(input=[item]).generate.messages
        (part,) = message.parts
        assert part.reasoning.text == "hm"
        (blob,) = part.reasoning.blobs
        assert (blob.issuer, blob.kind, blob.data) == ("anthropic_messages", "signature", b"s")


@pytest.mark.parametrize(
    ("reason", "why"), [("LENGTH", "max_output_tokens"), ("CONTENT_FILTER", "content_filter")]
)
def test_an_answer_that_was_cut_is_incomplete(reason: str, why: str) -> None:
    end = STOP.replace("REASON_STOP", f"REASON_{reason}")
    found, response = whole(
        'tool_call { item: 0 call_id: "c" name: "f" arguments: "{}" }\n'
        'text { item: 1 text: "Hel" }' + end
    )
    assert types(found)[-4:] == [*MESSAGE_DONE, "incomplete"]
    assert response["status"] == "incomplete"
    assert response["incomplete_details"] == {"reason": why}
    assert [entry["status"] for entry in response["output"]] == ["completed", "incomplete"]


def test_a_background_response_is_queued_before_it_begins() -> None:
    rendered = ResponsesStream.of(ID, 1, asked(stream=True, background=True))
    first = shown(rendered.begin())
    assert types(first) == ["created", "queued"]
    assert [event["response"]["status"] for event in first] == ["queued", "queued"]
    assert rendered.begin() == b""
    rest = shown(rendered.feed(events(STARTED + 'text { text: "a" }' + STOP)) + rendered.finish())
    assert types(rest)[0] == "in_progress"
    assert rest[0]["sequence_number"] == 2
    assert (rest[0]["response"]["status"], rest[0]["response"]["model"]) == (
        "in_progress",
        "m-2025",
    )
    assert rest[-1]["response"]["background"] is True


def test_a_failure_ends_the_stream_with_the_response_that_failed() -> None:
    data, rendered = stream('text { text: "Hel" }')
    exc = InferenceError("upstream_overloaded", "too much to do")
    kept = rendered.stored(error=exc)
    found = shown(data + rendered.error(exc))
    assert types(found)[-1] == "failed"
    response = found[-1]["response"]
    assert response["status"] == "failed"
    assert response["error"] == {"code": "server_error", "message": "too much to do"}
    assert kept.status == stored_pb2.RESPONSE_STATUS_FAILED
    assert json.loads(render(kept)) == response
    assert rendered.finish() == b""
    assert rendered.feed(events('text { text: "lo" }')) == b""


def test_a_failed_event_is_rendered_as_that() -> None:
    found = shown(stream('failed { reason: "upstream_rate_limit" message: "slow down" }')[0])
    assert types(found) == [*BEGIN, "failed"]
    assert found[-1]["response"]["error"]["code"] == "rate_limit_exceeded"


def test_a_failure_before_anything_is_an_error_event_flat_and_nested() -> None:
    rendered = ResponsesStream.of(ID, 1, asked(stream=True))
    (event,) = shown(rendered.error(InferenceError("invalid_request", "no", param="input")))
    assert event == {
        "type": "error",
        "sequence_number": 0,
        "code": None,
        "message": "no",
        "param": "input",
        "error": {
            "message": "no",
            "type": "invalid_request_error",
            "param": "input",
            "code": None,
        },
    }


@pytest.mark.parametrize(
    ("options", "padded"),
    [
        ({}, True),
        ({"stream_options": {}}, True),
        ({"stream_options": {"include_obfuscation": True}}, True),
        ({"stream_options": {"include_obfuscation": False}}, False),
    ],
)
def test_deltas_are_padded_unless_the_caller_does_not_want_it(
    options: dict[str, Any], padded: bool
) -> None:
    found, _ = whole('text { text: "a" }\ntext { text: "longer text" }' + STOP, **options)
    deltas = [event for event in found if event["type"].endswith(".delta")]
    assert all(("obfuscation" in event) == padded for event in deltas)
    if padded:
        lengths = {len(event["delta"]) + len(event["obfuscation"]) for event in deltas}
        assert len(lengths) == 1


def test_an_answer_without_a_terminal_event_is_in_progress_where_it_is_kept() -> None:
    _, rendered = stream('text { text: "Hel" }')
    assert rendered.stored().status == stored_pb2.RESPONSE_STATUS_IN_PROGRESS


def test_other_choices_are_not_shown() -> None:
    request = generation_pb2.Request()
    rendered = ResponsesStream.of(ID, 1, request)
    data = rendered.feed([event_pb2.Event(text=event_pb2.TextDelta(choice=1, text="x"))])
    assert data == b""
