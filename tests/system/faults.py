"""What each provider says when it refuses a key, limits, is overloaded or stops for safety.

Its own bodies, as recorded or documented. A stream that is cut is a recorded one, up to its middle.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.system.provider import Said, chat_answer
from tests.workers.conformance.recordings import FOLDER, load

WAIT_S = 30


@dataclass(frozen=True)
class Tongue:
    """How a provider speaks of each fault; `codes` are those that are shown in place of ours."""

    model: str
    key: Said
    limit: Said
    overload: Said
    safety: Said
    stream: str
    codes: Mapping[str, str] = field(default_factory=dict)
    # Of `providers` in the settings.
    settings: Mapping[str, Any] = field(default_factory=dict)

    def cut(self) -> Said:
        """The first half of the recorded stream, in which there is content."""
        recording = load(FOLDER / f"{self.stream}.json")
        ends = recording.ends
        return Said(
            200, recording.answer[: ends[len(ends) * 2 // 3 - 1]], recording.headers, cut=True
        )


def said(status: int, body: Mapping[str, Any], **headers: str) -> Said:
    return Said(status, body, {name.replace("_", "-"): value for name, value in headers.items()})


def limited(body: Mapping[str, Any]) -> Said:
    return said(429, body, retry_after=str(WAIT_S))


def openai(message: str, kind: str | None = None, code: object = None) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


def amazon(status: int, kind: str, message: str, **headers: str) -> Said:
    return said(status, {"message": message}, x_amzn_errortype=f"{kind}:http://i.aws/", **headers)


def google(code: int, status: str, message: str, *details: Mapping[str, Any]) -> dict[str, Any]:
    error = {"code": code, "message": message, "status": status, "details": details}
    return {"error": error}


def google_answer(finish: str) -> Said:
    return Said(
        body={
            "candidates": [{"finishReason": finish, "index": 0}],
            "usageMetadata": {"promptTokenCount": 4, "totalTokenCount": 4},
            "modelVersion": "gemini-2.5-flash",
            "responseId": "r-1",
        }
    )


_INFO = "type.googleapis.com/google.rpc.ErrorInfo"
_RETRY = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "30s"}
_QUOTA = google(429, "RESOURCE_EXHAUSTED", "You exceeded your current quota.", _RETRY)
_BUSY = said(503, google(503, "UNAVAILABLE", "The model is overloaded. Please try again later."))
_TOO_MANY = limited(openai("Rate limit reached", "requests", "rate_limit_exceeded"))
_FILTERED = chat_answer("", "content_filter")
_OVERLOADED = said(503, openai("The server is overloaded or not ready yet.", "server_error"))
_OPENAI_STREAM = "openai/stream-text-with-usage"

TONGUES: dict[str, Tongue] = {
    "openai": Tongue(
        model="gpt-4o",
        key=said(
            401,
            openai(
                "Incorrect API key provided: sk-a****bcde.",
                "invalid_request_error",
                "invalid_api_key",
            ),
        ),
        limit=_TOO_MANY,
        overload=said(
            503,
            openai("Overloaded", "service_unavailable_error", "server_is_overloaded"),
        ),
        safety=_FILTERED,
        stream=_OPENAI_STREAM,
        codes={"overload": "server_is_overloaded"},
    ),
    "azure": Tongue(
        model="gpt-4o",
        key=said(401, {"error": {"code": "401", "message": "Access denied due to invalid key"}}),
        limit=limited(
            {"error": {"code": "RateLimitReached", "message": "Please retry after 30 seconds"}}
        ),
        overload=said(503, {"error": {"code": "ServiceUnavailable", "message": "Overloaded"}}),
        safety=_FILTERED,
        stream="azure/stream-text",
        codes={"limit": "RateLimitReached", "overload": "ServiceUnavailable"},
    ),
    "anthropic": Tongue(
        model="claude-sonnet-4-5",
        key=said(
            401,
            {
                "type": "error",
                "error": {"type": "authentication_error", "message": "invalid x-api-key"},
            },
        ),
        limit=limited(
            {"type": "error", "error": {"type": "rate_limit_error", "message": "Too many tokens"}}
        ),
        overload=said(
            529, {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
        ),
        safety=Said(
            body={
                "id": "msg_1",
                "type": "message",
                "role": "assistant",
                "model": "claude-sonnet-4-5-20250929",
                "content": [],
                "stop_reason": "refusal",
                "stop_sequence": None,
                "usage": {"input_tokens": 4, "output_tokens": 1},
            }
        ),
        stream="anthropic/stream-length",
    ),
    "xai": Tongue(
        model="grok-4",
        key=said(
            400, {"code": "invalid-argument", "error": "Incorrect API key provided: xa***ef."}
        ),
        limit=limited({"code": "resource-exhausted", "error": "Too many requests"}),
        overload=said(503, {"code": "unavailable", "error": "Service is at capacity"}),
        safety=_FILTERED,
        stream=_OPENAI_STREAM,
        codes={"limit": "resource-exhausted", "overload": "unavailable"},
    ),
    "cohere": Tongue(
        model="command-a-03-2025",
        key=said(401, {"id": "f1", "message": "Incorrect API key provided"}),
        limit=limited({"id": "f1", "message": "You are past the per minute request limit"}),
        overload=said(503, {"id": "f1", "message": "service unavailable"}),
        safety=Said(
            body={
                "id": "f1",
                "finish_reason": "ERROR_TOXIC",
                "message": {"role": "assistant", "content": []},
                "usage": {"tokens": {"input_tokens": 4, "output_tokens": 0}},
            }
        ),
        stream="cohere/stream-text",
    ),
    "vertex_ai": Tongue(
        model="gemini-2.5-flash",
        key=said(401, google(401, "UNAUTHENTICATED", "Invalid authentication credentials.")),
        limit=limited(google(429, "RESOURCE_EXHAUSTED", "Resource exhausted, try again later.")),
        overload=_BUSY,
        safety=google_answer("SAFETY"),
        stream="vertex_ai/stream-text",
        settings={"options": {"project": "p-1", "location": "us-central1"}},
    ),
    "gemini": Tongue(
        model="gemini-2.5-flash",
        key=said(
            400,
            google(
                400,
                "INVALID_ARGUMENT",
                "API key not valid. Please pass a valid API key.",
                {"@type": _INFO, "reason": "API_KEY_INVALID"},
            ),
        ),
        limit=said(429, _QUOTA),
        overload=_BUSY,
        safety=google_answer("SAFETY"),
        stream="gemini/stream-text",
    ),
    "bedrock": Tongue(
        model="us.amazon.nova-micro-v1:0",
        key=amazon(
            403, "UnrecognizedClientException", "The security token in the request is invalid."
        ),
        limit=amazon(429, "ThrottlingException", "Too many requests", retry_after="30"),
        overload=amazon(
            503, "ServiceUnavailableException", "The service isn't currently available."
        ),
        safety=Said(
            body={
                "output": {"message": {"role": "assistant", "content": []}},
                "stopReason": "content_filtered",
                "usage": {"inputTokens": 4, "outputTokens": 0, "totalTokens": 4},
            }
        ),
        stream="bedrock/stream-text",
    ),
    "together_ai": Tongue(
        model="meta-llama/Llama-3.3-70B-Instruct-Turbo",
        key=said(
            401, openai("Invalid API key provided", "invalid_request_error", "invalid_api_key")
        ),
        limit=limited(openai("Rate limited", "rate_limit", "rate_limit_exceeded")),
        overload=_OVERLOADED,
        safety=_FILTERED,
        stream=_OPENAI_STREAM,
    ),
    "groq": Tongue(
        model="llama-3.3-70b-versatile",
        key=said(
            401,
            {
                "error": {
                    "message": "Invalid API Key",
                    "type": "invalid_request_error",
                    "code": "invalid_api_key",
                }
            },
        ),
        limit=_TOO_MANY,
        overload=said(
            498,
            {
                "error": {
                    "message": "Flex tier capacity exceeded",
                    "type": "capacity_exceeded",
                    "code": "capacity_exceeded",
                }
            },
        ),
        safety=_FILTERED,
        stream="groq/stream-text",
        codes={"overload": "capacity_exceeded"},
    ),
    "mistral": Tongue(
        model="mistral-small-latest",
        key=said(401, {"detail": "Invalid API Key"}),
        limit=limited(
            {
                "object": "error",
                "message": "Requests rate limit exceeded",
                "type": "rate_limited",
                "param": None,
                "code": "1300",
            }
        ),
        overload=said(
            503,
            {
                "object": "error",
                "message": "Service unavailable.",
                "type": "internal_server_error",
                "param": None,
                "code": "1000",
            },
        ),
        safety=_FILTERED,
        stream="mistral/stream-text-cached",
        codes={"limit": "1300", "overload": "1000"},
    ),
    "deepseek": Tongue(
        model="deepseek-chat",
        key=said(
            401,
            openai(
                "Authentication Fails, Your api key is invalid",
                "authentication_error",
                "invalid_request_error",
            ),
        ),
        limit=limited(openai("Rate Limit Reached", "rate_limit_error")),
        overload=said(503, openai("Service is too busy", "service_unavailable_error")),
        safety=_FILTERED,
        stream="deepseek/stream-text",
    ),
    "openrouter": Tongue(
        model="anthropic/claude-haiku-4.5",
        key=said(401, {"error": {"message": "User not found.", "code": 401}}),
        limit=limited({"error": {"message": "Rate limit exceeded", "code": 429}}),
        overload=said(503, {"error": {"message": "No instances available", "code": 503}}),
        safety=_FILTERED,
        stream="openrouter/stream-text",
    ),
    "fireworks": Tongue(
        model="accounts/fireworks/models/llama-v3p3-70b-instruct",
        key=said(
            401,
            {
                "error": {
                    "object": "error",
                    "type": "invalid_request_error",
                    "code": "UNAUTHORIZED",
                    "message": "The API key you provided is invalid.",
                }
            },
        ),
        limit=_TOO_MANY,
        overload=_OVERLOADED,
        safety=_FILTERED,
        stream=_OPENAI_STREAM,
    ),
    "cerebras": Tongue(
        model="llama-3.3-70b",
        key=said(
            401,
            {
                "message": "Wrong API Key",
                "type": "invalid_request_error",
                "param": "api_key",
                "code": "wrong_api_key",
            },
        ),
        limit=limited(
            {
                "message": "Requests per minute limit exceeded",
                "type": "too_many_requests_error",
                "param": "quota",
                "code": "request_quota_exceeded",
            }
        ),
        overload=said(
            503,
            {
                "message": "We're experiencing high traffic right now!",
                "type": "server_error",
                "param": "queue",
                "code": "queue_exceeded",
            },
        ),
        safety=_FILTERED,
        stream=_OPENAI_STREAM,
        codes={"limit": "request_quota_exceeded", "overload": "queue_exceeded"},
    ),
    "perplexity": Tongue(
        model="sonar",
        key=said(
            401,
            {
                "error": {
                    "message": "Invalid API key provided.",
                    "type": "invalid_api_key",
                    "code": 401,
                }
            },
        ),
        limit=limited({"error": {"message": "Slow down", "type": "rate_limit", "code": 429}}),
        overload=said(503, {"error": {"message": "Busy", "type": "unavailable", "code": 503}}),
        safety=_FILTERED,
        stream=_OPENAI_STREAM,
    ),
    "ollama": Tongue(
        model="gpt-oss:120b",
        key=said(401, openai("Unauthorized", "api_error")),
        limit=limited(openai("too many concurrent requests", "api_error")),
        overload=said(503, openai("server busy, please try again.", "api_error")),
        safety=_FILTERED,
        stream="ollama/stream-text",
    ),
    "vllm": Tongue(
        model="meta-llama/Llama-3.1-8B-Instruct",
        key=said(401, {"error": "Unauthorized"}),
        limit=limited(openai("Too many requests", "TooManyRequestsError", 429)),
        overload=said(503, openai("Overloaded", "ServiceUnavailableError", 503)),
        safety=_FILTERED,
        stream=_OPENAI_STREAM,
    ),
    "huggingface": Tongue(
        model="openai/gpt-oss-120b:fastest",
        key=said(401, {"error": "Invalid username or password."}),
        limit=limited({"error": "Too many requests"}),
        overload=said(503, {"error": "Model is overloaded"}),
        safety=_FILTERED,
        stream=_OPENAI_STREAM,
    ),
    "openai_compatible": Tongue(
        model="local-1",
        key=said(401, {"detail": "Invalid API Key"}),
        limit=limited({"detail": "Too many requests"}),
        overload=said(503, {"detail": "Overloaded"}),
        safety=_FILTERED,
        stream="openai_compatible/stream-comments",
    ),
}
