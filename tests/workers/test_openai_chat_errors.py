from __future__ import annotations

import json
from typing import Any

import pytest

from broker.errors import TABLE
from workers import registry

DIALECT = registry.provider("openai").dialect


def _body(**error: Any) -> bytes:
    return json.dumps({"error": error}).encode()


ROWS = [
    # status, body, reason, HTTP status for the caller, code for the caller
    pytest.param(401, _body(message="Incorrect API key provided: sk-1", type="invalid_request_error", code="invalid_api_key"), "upstream_credentials", 502, "upstream_credentials", id="our key is wrong"),
    pytest.param(402, _body(message="Insufficient credits"), "upstream_credentials", 502, "upstream_credentials", id="our account is empty"),
    pytest.param(403, _body(message="Country not supported", code="unsupported_country_region_territory"), "upstream_credentials", 502, "upstream_credentials", id="our account may not"),
    pytest.param(400, b'{"code":"invalid-argument","error":"Incorrect API key provided"}', "upstream_credentials", 502, "upstream_credentials", id="a wrong key as a 400"),
    pytest.param(404, _body(message="The model `x` does not exist", code="model_not_found"), "model_not_found", 404, "model_not_found", id="an unknown model"),
    pytest.param(404, _body(message="no deployment", code="DeploymentNotFound"), "model_not_found", 404, "model_not_found", id="an unknown deployment"),
    pytest.param(400, _body(message="x/y is not a valid model ID", code=400), "model_not_found", 404, "model_not_found", id="an unknown model as a 400"),
    pytest.param(400, _body(message="This model's maximum context length is 5 tokens", code="context_length_exceeded", param="messages"), "context_length_exceeded", 400, "context_length_exceeded", id="too long"),
    pytest.param(400, _body(message="prompt too long; exceeded max context length by 9 tokens", type="invalid_request_error"), "context_length_exceeded", 400, "context_length_exceeded", id="too long in prose"),
    pytest.param(403, _body(message="input + max_tokens exceed the context length"), "context_length_exceeded", 400, "context_length_exceeded", id="too long as a 403"),
    pytest.param(413, _body(message="Request too large for model `m`", type="tokens", code="rate_limit_exceeded"), "context_length_exceeded", 400, "context_length_exceeded", id="too long as a 413"),
    pytest.param(400, _body(message="x", type="too_many_prompt_tokens", code=400), "context_length_exceeded", 400, "context_length_exceeded", id="too long by its type"),
    pytest.param(400, _body(message="The response was filtered due to the prompt", param="prompt", code="content_filter", innererror={"code": "ResponsibleAIPolicyViolation"}), "content_policy_violation", 400, "content_filter", id="filtered"),
    pytest.param(400, _body(message="x", innererror={"code": "ResponsibleAIPolicyViolation"}), "content_policy_violation", 400, "ResponsibleAIPolicyViolation", id="filtered by the inner code"),
    pytest.param(403, _body(message="Your chosen model requires moderation and your input was flagged", code=403), "content_policy_violation", 400, "content_policy_violation", id="filtered as a 403"),
    pytest.param(400, _body(message="x", param="messages[0].role", code="unsupported_value"), "invalid_request", 400, "unsupported_value", id="a bad value"),
    pytest.param(400, _body(message="x", param="stop", code="unsupported_parameter"), "unsupported_parameter", 400, "unsupported_parameter", id="an unsupported parameter"),
    pytest.param(400, b'{"code":"invalid-argument","error":"This model\'s maximum prompt length is 5 but the request contains 9 tokens."}', "context_length_exceeded", 400, "context_length_exceeded", id="a long prompt"),
    pytest.param(403, _body(message="Input validation error: `inputs` tokens + `max_new_tokens` must be <= 8193."), "context_length_exceeded", 400, "context_length_exceeded", id="a sum that is too long as a 403"),
    pytest.param(403, _body(message="flagged", code=403, metadata={"reasons": ["violence"], "flagged_input": "x"}), "content_policy_violation", 400, "content_filter", id="flagged input"),
    pytest.param(400, _body(message="Model Not Exist", type="invalid_request_error", code="invalid_request_error"), "model_not_found", 404, "model_not_found", id="an unknown model in few words"),
    pytest.param(400, _body(message="Invalid model 'x'.", type="invalid_model", code=400), "model_not_found", 404, "model_not_found", id="an unknown model by its type"),
    pytest.param(400, _body(message="not supported by any provider", code="model_not_supported"), "model_not_found", 404, "model_not_found", id="a model without a provider"),
    pytest.param(400, _body(message='{"error":{"message":"within","code":"context_length_exceeded"}}'), "context_length_exceeded", 400, "context_length_exceeded", id="an error within an error"),
    pytest.param(400, _body(message="x", param=None, code=None), "invalid_request", 400, None, id="a bad request without a code"),
    pytest.param(422, b'{"detail":[{"loc":["body","messages",0,"role"],"msg":"bad","type":"x"},{"loc":["body"],"msg":"worse"}]}', "unprocessable", 422, None, id="a list of details"),
    pytest.param(422, b'{"object":"error","message":{"detail":[{"loc":["body","stop"],"msg":"bad"}]},"type":"invalid_request_error","param":null,"code":null}', "unprocessable", 422, None, id="details inside the message"),
    pytest.param(400, b'{"message":"flat","type":"invalid_request_error","param":"n","code":"wrong_api_format"}', "invalid_request", 400, "wrong_api_format", id="a flat object"),
    pytest.param(400, b'{"object":"error","message":"m","type":"invalid_request_error","code":"3001"}', "invalid_request", 400, "3001", id="a number that is a code"),
    pytest.param(400, b'{"object":"error","message":"m","type":"BadRequestError","code":400}', "invalid_request", 400, None, id="a status in the place of a code"),
    pytest.param(400, b'[{"error":{"message":"in a list","code":"c"}}]', "invalid_request", 400, "c", id="a list"),
    pytest.param(410, b'{"code":"gone","error":"Live search is deprecated"}', "invalid_request", 400, "gone", id="gone"),
    pytest.param(429, _body(message="Rate limit reached", type="tokens", code="rate_limit_exceeded"), "upstream_rate_limit", 429, "rate_limit_exceeded", id="a rate limit"),
    pytest.param(429, _body(message="You exceeded your current quota", type="insufficient_quota", code="insufficient_quota"), "upstream_quota", 429, "insufficient_quota", id="our quota"),
    pytest.param(498, _body(message="x", code="capacity_exceeded"), "upstream_overloaded", 503, "capacity_exceeded", id="no capacity"),
    pytest.param(503, _body(message="x", type="service_unavailable_error", code="server_is_overloaded"), "upstream_overloaded", 503, "server_is_overloaded", id="overloaded"),
    pytest.param(500, _body(message="x", type="server_error", code=None), "upstream_error", 502, "upstream_error", id="a server error"),
    pytest.param(504, b"", "upstream_error", 502, "upstream_error", id="a gateway timeout"),
]  # fmt: skip


@pytest.mark.parametrize(("status", "body", "reason", "http", "code"), ROWS)
def test_an_error_answer_has_one_reason(
    status: int, body: bytes, reason: str, http: int, code: str | None
) -> None:
    error = DIALECT.error(status, {}, body)
    assert (error.reason, TABLE[error.reason].http, error.code) == (reason, http, code)
    assert error.upstream_status == status


MESSAGES = [
    pytest.param(b'{"error":{"message":"m","metadata":{"raw":"why"}}}', "m: why", None, id="a router says what its provider said"),
    pytest.param(b'{"error":"text"}', "text", None, id="an error that is a text"),
    pytest.param(b'{"detail":"Invalid API Key"}', "Invalid API Key", None, id="a detail"),
    pytest.param(b'{"detail":[{"loc":["body","messages",0,"role"],"msg":"bad"},{"loc":[],"msg":"worse"}]}', "bad; worse", "messages.0.role", id="a list of details"),
    pytest.param(b'{"message":"flat","param":"n"}', "flat", "n", id="a flat object"),
    pytest.param(b'{"error":"{\\"message\\":\\"within\\"}"}', "within", None, id="JSON as a text"),
    pytest.param(b'{"error":"{broken"}', "{broken", None, id="a text like JSON"),
    pytest.param(b'{"errors":[{"message":"first"},{"message":"second"}]}', "first", None, id="a list of errors"),
    pytest.param(b'{"error":["first"]}', "first", None, id="a list of texts"),
    pytest.param(b'{"error":{"error":{"message":"within"}}}', "within", None, id="an error in an error"),
    pytest.param(b'{"error":"Bad Request","message":"why"}', "why", None, id="the status by its name"),
    pytest.param(b'{"error":true,"message":"why"}', "why", None, id="an error that is true"),
    pytest.param(b'{"error":{"code":"c"},"message":"why"}', "why", None, id="a message beside the error"),
    pytest.param(b'{"title":"Bad Request","status":400,"detail":"why"}', "why", None, id="problem details"),
    pytest.param(b'{"error":"invalid_token","error_description":"why"}', "why", None, id="an OAuth error"),
    pytest.param(b'{"message":["why","more"]}', "why", None, id="a list of messages"),
    pytest.param(b'{"msg":"why"}', "why", None, id="a short name"),
    pytest.param(b'"just text"', "just text", None, id="a JSON text"),
    pytest.param(b"no healthy upstream", "no healthy upstream", None, id="a text"),
    pytest.param(b"\xff\xfe", "\ufffd\ufffd", None, id="no text at all"),
    pytest.param(b"<html><title>502 Bad\nGateway &amp; more</title></html>", "the provider answered with status 502 and an HTML page: 502 Bad\nGateway & more", None, id="an HTML page"),
    pytest.param(b"<html></html>", "the provider answered with status 502 and an HTML page", None, id="an HTML page without a title"),
    pytest.param(b"", "the provider answered with status 502 and no message", None, id="nothing"),
    pytest.param(b"{}", "the provider answered with status 502 and no message", None, id="an empty object"),
    pytest.param(b"[]", "the provider answered with status 502 and no message", None, id="an empty list"),
    pytest.param(b"null", "the provider answered with status 502 and no message", None, id="null"),
    pytest.param(b'{"error":{"message":null,"param":7,"code":{}}}', "the provider answered with status 502 and no message", None, id="fields of wrong types"),
]  # fmt: skip


@pytest.mark.parametrize(("body", "message", "param"), MESSAGES)
def test_the_message_is_what_the_provider_said(
    body: bytes, message: str, param: str | None
) -> None:
    error = DIALECT.error(502, {}, body)
    assert (error.message, error.param) == (message, param)


def test_a_very_long_text_is_cut() -> None:
    assert len(DIALECT.error(500, {}, b"x" * 100_000).message) == 500


WAITS = [
    pytest.param({}, None, id="not said"),
    pytest.param({"retry-after": "2"}, 2.0, id="seconds"),
    pytest.param({"retry-after": "0.5"}, 0.5, id="a fraction"),
    pytest.param({"retry-after": "0"}, 0.0, id="at once"),
    pytest.param({"retry-after": "3", "retry-after-ms": "250"}, 0.25, id="milliseconds are more precise"),
    pytest.param({"retry-after": "Fri, 20 Nov 2026 10:00:30 GMT", "date": "Fri, 20 Nov 2026 10:00:00 GMT"}, 30.0, id="a date counts from the answer's own"),
    pytest.param({"retry-after": "Fri, 20 Nov 2026 09:00:00 GMT", "date": "Fri, 20 Nov 2026 10:00:00 GMT"}, 0.0, id="a date that has passed"),
    pytest.param({"retry-after": "Fri, 20 Nov 2026 10:00:30 GMT"}, None, id="a date without a clock to compare"),
    pytest.param({"retry-after": "Fri, 20 Nov 2026 10:00:30 GMT", "date": "Fri, 20 Nov 2026 10:00:00 -0000"}, None, id="dates that cannot be compared"),
    pytest.param({"retry-after": "soon"}, None, id="no number"),
    pytest.param({"retry-after": "-1"}, None, id="a negative number"),
    pytest.param({"retry-after": "nan"}, None, id="not a number"),
    pytest.param({"retry-after": "inf"}, None, id="for ever"),
]  # fmt: skip


@pytest.mark.parametrize(("headers", "wait"), WAITS)
def test_retry_after_survives(headers: dict[str, str], wait: float | None) -> None:
    assert DIALECT.error(429, headers, b"").retry_after == wait


@pytest.mark.parametrize("name", ["x-request-id", "request-id", "apim-request-id"])
def test_the_provider_s_request_id_survives(name: str) -> None:
    assert DIALECT.error(500, {name: "req_1"}, b"").upstream_request_id == "req_1"
