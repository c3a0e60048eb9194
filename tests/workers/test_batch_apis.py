"""What providers' batch APIs are asked and how their answers are read."""

from __future__ import annotations

import contextlib
import json

import pytest

from broker.v1.operations_pb2 import Attachment
from workers.batches import BatchApi, Row, There
from workers.providers.anthropic import PROVIDER as ANTHROPIC
from workers.providers.gemini import PROVIDER as GEMINI
from workers.providers.groq import PROVIDER as GROQ
from workers.providers.mistral import PROVIDER as MISTRAL
from workers.providers.openai import PROVIDER as OPENAI
from workers.wire import Call

CALL = Call("/chat/completions", b'{"model":"m"}', {"content-type": "application/json"})
LINE = {
    "custom_id": "g-1",
    "method": "POST",
    "url": "/v1/chat/completions",
    "body": {"model": "m"},
}


def api_of(provider: object) -> BatchApi:
    found = getattr(provider, "batches")  # noqa: B009
    assert found is not None
    return found  # type: ignore[no-any-return]


@pytest.mark.parametrize("provider", [OPENAI, GROQ, MISTRAL])
def test_calls_are_lines_of_a_file(provider: object) -> None:
    api = api_of(provider)
    line = api.line("g-1", CALL)
    assert json.loads(line) == LINE
    upload = api.upload("g", [line, line])
    assert upload is not None
    fields = dict(upload.form)
    file = fields["file"]
    assert isinstance(file, Attachment)
    assert (upload.path, fields["purpose"], file.data) == ("/files", "batch", line + line)
    assert api.uploaded("g", b'{"id":"file-1"}') == "file-1"


CREATED = [
    (
        OPENAI,
        "/batches",
        {
            "input_file_id": "f",
            "endpoint": "/v1/chat/completions",
            "completion_window": "24h",
            "metadata": {"millrace": "g"},
        },
    ),
    (
        MISTRAL,
        "/batch/jobs",
        {
            "input_files": ["f"],
            "endpoint": "/v1/chat/completions",
            "model": "m",
            "timeout_hours": 24,
            "metadata": {"millrace": "g"},
        },
    ),
]


@pytest.mark.parametrize(("provider", "path", "body"), CREATED)
def test_a_batch_is_made_of_the_file_and_says_whose_it_is(
    provider: object, path: str, body: object
) -> None:
    call = api_of(provider).create("g", "/chat/completions", "m", "f", [])
    assert (call.method, call.path, json.loads(call.body)) == ("POST", path, body)


def test_messages_are_within_their_batch() -> None:
    api = api_of(ANTHROPIC)
    line = api.line("g-1", Call("/v1/messages", b'{"model":"m"}'))
    assert api.upload("g", [line]) is None
    call = api.create("g", "/v1/messages", "m", "", [line, line])
    entry = {"custom_id": "g-1", "params": {"model": "m"}}
    assert (call.path, json.loads(call.body)) == (
        "/v1/messages/batches",
        {"requests": [entry, entry]},
    )
    assert call.headers["anthropic-version"]


def _openai(status: str, **fields: object) -> dict[str, object]:
    named = {"metadata": {"millrace": "g"}, "input_file_id": "i"}
    return {"id": "b", "status": status, **named, **fields}


def _mistral(status: str, **fields: object) -> dict[str, object]:
    return {"id": "b", "status": status, "input_files": ["i"], "metadata": None, **fields}


def _messages(status: str, **counts: int) -> dict[str, object]:
    return {"id": "b", "processing_status": status, "request_counts": counts}


_O = "/files/o/content"
_LIMIT = {"data": [{"code": "token_limit_exceeded", "message": "no"}]}
STATES: list[tuple[object, dict[str, object], There]] = [
    (OPENAI, _openai("validating"), There("b", over=False, name="g", files=("i",))),
    (OPENAI, _openai("cancelling"), There("b", over=False, name="g", files=("i",))),
    (
        OPENAI,
        _openai("expired", output_file_id="o", error_file_id="e"),
        There("b", over=True, results=(_O, "/files/e/content"), name="g", files=("o", "e", "i")),
    ),
    (
        OPENAI,
        _openai("failed", errors=_LIMIT),
        There("b", True, refused="token_limit_exceeded", later=True, name="g", files=("i",)),
    ),
    (
        OPENAI,
        _openai("failed", errors=None),
        There("b", True, refused="failed", name="g", files=("i",)),
    ),
    (MISTRAL, _mistral("CANCELLATION_REQUESTED"), There("b", over=False, files=("i",))),
    (
        MISTRAL,
        _mistral("SUCCESS", output_file="o"),
        There("b", over=True, results=(_O,), files=("o", "i")),
    ),
    (
        MISTRAL,
        _mistral("FAILED", errors=[{"message": "bad file"}]),
        There("b", True, refused="bad file", files=("i",)),
    ),
    (ANTHROPIC, _messages("canceling", processing=2), There("b", over=False, lines=2)),
    (
        ANTHROPIC,
        _messages("ended", succeeded=1, expired=1),
        There("b", True, ("/v1/messages/batches/b/results",), lines=2),
    ),
]


@pytest.mark.parametrize(("provider", "told", "there"), STATES)
def test_what_is_told_of_a_batch(provider: object, told: object, there: There) -> None:
    api = api_of(provider)
    assert api.there(json.dumps(told).encode()) == there
    page = api.page(json.dumps({"data": [told], "has_more": False}).encode())
    assert (page.batches, page.after) == ((there,), "")


_JSON = {"content-type": "application/json", "x-request-id": "r"}
_BAD = b'{"type":"error","error":{"type":"overloaded_error","message":"m"}}'
ROWS = [
    (
        OPENAI,
        b'{"custom_id":"g-1","response":{"status_code":200,"request_id":"r","body":{"a":1}},"error":null}',
        Row("g-1", 200, b'{"a":1}', _JSON),
    ),
    (
        OPENAI,
        b'{"custom_id":"g-1","response":{"status_code":429,"request_id":"r","body":{"error":{}}}}',
        Row("g-1", 429, b'{"error":{}}', _JSON),
    ),
    (
        OPENAI,
        b'{"custom_id":"g-1","response":null,"error":{"code":"batch_expired","message":"m"}}',
        Row("g-1"),
    ),
    (
        ANTHROPIC,
        b'{"custom_id":"g-1","result":{"type":"succeeded","message":{"id":"msg"}}}',
        Row("g-1", 200, b'{"id":"msg"}'),
    ),
    (
        ANTHROPIC,
        b'{"custom_id":"g-1","result":{"type":"errored","error":' + _BAD + b"}}",
        Row("g-1", 529, _BAD),
    ),
    (ANTHROPIC, b'{"custom_id":"g-1","result":{"type":"expired"}}', Row("g-1")),
    (ANTHROPIC, b'{"custom_id":"g-1","result":{"type":"canceled"}}', Row("g-1")),
]


@pytest.mark.parametrize(("provider", "line", "row"), ROWS)
def test_what_became_of_a_line(provider: object, line: bytes, row: Row) -> None:
    assert api_of(provider).row(line) == row


@pytest.mark.parametrize("provider", [OPENAI, MISTRAL, ANTHROPIC, GEMINI])
@pytest.mark.parametrize("answer", [b"", b"<html>", b"[]", b"{}", b'{"id":null}', b"null", b"1"])
def test_garbage_is_no_batch_and_no_row(provider: object, answer: bytes) -> None:
    api = api_of(provider)
    for read in (api.there, api.row):
        with pytest.raises(ValueError):
            read(answer)
    with contextlib.suppress(ValueError):
        assert not api.page(answer).batches


@pytest.mark.parametrize("provider", [OPENAI, ANTHROPIC])
def test_a_list_goes_on_behind_its_last_batch(provider: object) -> None:
    api = api_of(provider)
    told = _openai("completed") | _messages("ended", succeeded=1)
    page = api.page(json.dumps({"data": [told], "has_more": True, "last_id": "b"}).encode())
    assert page.after == "b"
    assert "=b" in api.list("g", page.after).path
