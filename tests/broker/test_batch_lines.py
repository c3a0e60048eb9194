"""Lines of batches are read and answered by the forms that routes have."""

from __future__ import annotations

import json

import pytest

from broker.errors import InferenceError
from broker.translate import lines
from broker.v1 import batch_pb2, event_pb2

CHAT = "/v1/chat/completions"
BODY = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hi"}]}).encode()
SAID = [
    event_pb2.Event(started=event_pb2.Started(model="m")),
    event_pb2.Event(text=event_pb2.TextDelta(text="hello")),
    event_pb2.Event(completed=event_pb2.Completed()),
]


def rendered(line_id: str) -> bytes:
    answer = lines.answer(CHAT, line_id, 1, lines.read(CHAT, BODY))
    answer.feed(SAID)
    return lines.rendered(answer)


def test_a_byte_order_mark_before_a_line_that_a_worker_reads_is_no_mistake() -> None:
    assert lines.body_of(b'\xef\xbb\xbf{"body": {"model": "m"}}') == b'{"model": "m"}'


def test_the_id_of_an_answer_follows_from_its_line() -> None:
    assert rendered("batch_req_1_1") == rendered("batch_req_1_1")
    first, second = (
        json.loads(rendered(name))["id"] for name in ("batch_req_1_1", "batch_req_1_2")
    )
    assert first != second
    assert len(first) == len("chatcmpl-") + 32


@pytest.mark.parametrize(
    ("reason", "status", "code"),
    [
        ("invalid_request", 400, None),
        ("upstream_credentials", 502, "upstream_credentials"),
        ("poison", 502, "worker_lost"),
        ("internal", 500, "internal"),
    ],
)
def test_an_error_is_told_as_over_http(reason: str, status: int, code: str | None) -> None:
    result = batch_pb2.LineResult()
    lines.fail(result, CHAT, InferenceError(reason, "why"))
    assert result.status == status
    error = json.loads(result.json)["error"]
    assert (error["message"], error["code"]) == ("why", code)
    assert not result.HasField("error")


def test_an_unknown_model_is_another_status_on_responses() -> None:
    error = InferenceError("model_not_found", "no such model")
    told = {}
    for endpoint in (CHAT, "/v1/responses"):
        result = batch_pb2.LineResult()
        lines.fail(result, endpoint, error)
        told[endpoint] = result.status
    assert told == {CHAT: 404, "/v1/responses": 400}


def test_a_call_that_took_too_long_has_no_status() -> None:
    result = batch_pb2.LineResult()
    lines.fail(result, CHAT, InferenceError("deadline", "too long"))
    assert (result.status, result.json) == (0, b"")
    assert (result.error.code, result.error.message) == ("request_timeout", "too long")


@pytest.mark.parametrize(
    ("body", "may"),
    [
        (b"{}", True),
        (b'{"log_query_body": true}', True),
        (b'{"log_query_body": null}', True),
        (b'{"log_query_body": false}', False),
        (b'{"log_query_body": "x"}', False),
        (b"garbage", False),
    ],
)
def test_whether_a_body_may_be_kept_in_a_dead_letter(body: bytes, may: bool) -> None:
    assert lines.loggable(body) is may


def test_the_body_of_a_whole_line() -> None:
    assert lines.body_of(b'{"custom_id": "a", "body": {"x": 1}}') == b'{"x": 1}'
    for broken in (b"", b"{}", b'{"body": {', b"\xff"):
        with pytest.raises(InferenceError):
            lines.body_of(broken)
