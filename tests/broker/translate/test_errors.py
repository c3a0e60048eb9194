"""Errors in OpenAI's words, and in gRPC's."""

from __future__ import annotations

import json
from typing import Any, TypeVar

import httpx2  # what the SDK is built on
import openai
import pytest
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2

from broker.errors import TABLE, InferenceError
from broker.translate.errors import error_body, error_headers
from broker.translate.rpc_errors import error_details


def headers(exc: InferenceError) -> dict[bytes, bytes]:
    return dict(error_headers(exc))


BODIES: list[tuple[InferenceError, dict[str, Any]]] = [
    (
        InferenceError("invalid_request", "Bad.", param="messages[3].content"),
        {
            "message": "Bad.",
            "type": "invalid_request_error",
            "param": "messages[3].content",
            "code": None,
        },
    ),
    (
        InferenceError("invalid_request", "Bad.", param="n", code="integer_below_min_value"),
        {
            "message": "Bad.",
            "type": "invalid_request_error",
            "param": "n",
            "code": "integer_below_min_value",
        },
    ),
    (
        InferenceError("upstream_rate_limit", "„Zu schnell“\n"),
        {
            "message": "„Zu schnell“\n",
            "type": "rate_limit_error",
            "param": None,
            "code": "rate_limit_exceeded",
        },
    ),
    (
        InferenceError("a_reason_of_a_newer_peer", "?"),
        {"message": "?", "type": "server_error", "param": None, "code": "internal"},
    ),
]


@pytest.mark.parametrize(("exc", "error"), BODIES)
def test_the_body_has_all_four_keys(exc: InferenceError, error: dict[str, Any]) -> None:
    assert json.loads(error_body(exc)) == {"error": error}


SDK_CLASSES = {
    400: openai.BadRequestError,
    401: openai.AuthenticationError,
    403: openai.PermissionDeniedError,
    404: openai.NotFoundError,
    409: openai.ConflictError,
    422: openai.UnprocessableEntityError,
    429: openai.RateLimitError,
}


@pytest.mark.parametrize("reason", TABLE)
def test_the_openai_sdk_raises_its_class_with_our_words(reason: str) -> None:
    exc = InferenceError(reason, "What to change.", param="model")
    status = exc.row.http
    response = httpx2.Response(
        status,
        content=error_body(exc),
        headers=[
            (name.decode(), value.decode())
            for name, value in [(b"content-type", b"application/json"), *error_headers(exc)]
        ],
        request=httpx2.Request("POST", "http://x/v1/chat/completions"),
    )
    client = openai.OpenAI(api_key="k", base_url="http://x/v1")
    raised = client._make_status_error_from_response(response)
    fallback = openai.InternalServerError if status >= 500 else openai.APIStatusError
    assert type(raised) is SDK_CLASSES.get(status, fallback)
    assert (raised.code, raised.param, raised.type) == (exc.code, "model", exc.row.type)
    # With these headers the SDK retries exactly what waiting can help.
    may_wait = status in (429, 503) and reason != "insufficient_quota"
    assert client._should_retry(response) is may_wait
    assert ("retry-after" in response.headers) is may_wait
    client.close()


WAITS = [
    (None, b"1", b"1000"),
    (2.0, b"2", b"2000"),
    (1.2, b"2", b"1200"),
    (0.0004, b"1", b"1"),
    (0.0, b"1", b"1"),
    (120.0, b"120", b"120000"),
]


@pytest.mark.parametrize(("wait", "seconds", "milliseconds"), WAITS)
def test_retry_after_is_rounded_up_and_never_zero(
    wait: float | None, seconds: bytes, milliseconds: bytes
) -> None:
    exc = InferenceError("queue_full", "Later.", retry_after=wait)
    assert headers(exc) == {b"retry-after": seconds, b"retry-after-ms": milliseconds}


M = TypeVar("M", bound=Message)


def detail(status: status_pb2.Status, kind: type[M]) -> M | None:
    for packed in status.details:
        message = kind()
        if packed.Unpack(message):
            return message
    return None


@pytest.mark.parametrize("reason", TABLE)
def test_every_reason_is_a_grpc_status_with_its_name(reason: str) -> None:
    status = error_details(InferenceError(reason, "What to change."))
    assert code_pb2.Code.Name(status.code) == TABLE[reason].grpc
    assert status.message == "What to change."
    info = detail(status, error_details_pb2.ErrorInfo)
    assert info is not None
    assert (info.reason, info.domain) == (reason, "millrace")
    assert info.metadata["http_status"] == str(TABLE[reason].http)
    assert "provider" not in info.metadata
    retry = detail(status, error_details_pb2.RetryInfo)
    assert (retry is not None) is (
        TABLE[reason].http in (429, 503) and reason != "insufficient_quota"
    )
    assert detail(status, error_details_pb2.BadRequest) is None


def test_what_is_known_of_the_attempt_is_in_the_metadata() -> None:
    exc = InferenceError(
        "upstream_rate_limit",
        "Slow down.",
        param="model",
        code="slow_down",
        upstream_status=429,
        upstream_request_id="req_1",
        retry_after=1.5,
        provider="openai",
        model="gpt-4o",
        attempt=2,
        phase="before_content",
    )
    status = error_details(exc)
    info = detail(status, error_details_pb2.ErrorInfo)
    assert info is not None
    assert dict(info.metadata) == {
        "code": "slow_down",
        "param": "model",
        "http_status": "429",
        "provider": "openai",
        "model": "gpt-4o",
        "upstream_status": "429",
        "upstream_request_id": "req_1",
        "attempt": "2",
        "phase": "before_content",
    }
    retry = detail(status, error_details_pb2.RetryInfo)
    assert retry is not None
    assert retry.retry_delay.ToMilliseconds() == 1500
    request = detail(status, error_details_pb2.BadRequest)
    assert request is not None
    assert [(v.field, v.description) for v in request.field_violations] == [("model", "Slow down.")]
