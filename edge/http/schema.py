"""The raw routes in /openapi.json, from the types that check their bodies."""

from __future__ import annotations

from typing import Any

import msgspec

from edge.translate import wire, wire_answer

_REF = "#/components/schemas/{name}"
_STATUSES = {
    "400": "A field is wrong; `param` says which.",
    "401": "The API key is missing or wrong.",
    "404": "The model does not exist.",
    "413": "The body is too large.",
    "429": "A rate limit, or the queue is full; see Retry-After.",
    "502": "The provider failed.",
    "503": "Nobody can serve it now; see Retry-After.",
    "504": "It took too long.",
}


def add_raw_routes(document: dict[str, Any]) -> dict[str, Any]:
    """`document` (what FastAPI generated) with the raw routes and their schemas in it."""
    types = [wire.ChatRequest, wire_answer.Usage, wire_answer.ErrorBody]
    (request, usage, failed), schemas = msgspec.json.schema_components(types, ref_template=_REF)
    components = document.setdefault("components", {}).setdefault("schemas", {})
    components.update(schemas)
    components["ChatCompletion"] = _completion(usage)
    completion = {"$ref": _REF.format(name="ChatCompletion")}
    error = {"application/json": {"schema": failed}}
    document["paths"]["/v1/chat/completions"] = {
        "post": {
            "tags": ["Chat"],
            "summary": "Create a chat completion",
            "operationId": "create_chat_completion",
            "security": [{"HTTPBearer": []}],
            "parameters": [
                {
                    "name": "X-Millrace-Timeout",
                    "in": "header",
                    "description": "Seconds after which the request is given up.",
                    "schema": {"type": "number", "exclusiveMinimum": 0},
                }
            ],
            "requestBody": {"required": True, "content": {"application/json": {"schema": request}}},
            "responses": {
                "200": {
                    "description": "The answer; with `stream` as server-sent events.",
                    "content": {
                        "application/json": {"schema": completion},
                        "text/event-stream": {"schema": {"type": "string"}},
                    },
                },
                **{
                    status: {"description": text, "content": error}
                    for status, text in _STATUSES.items()
                },
            },
        }
    }
    return document


def _completion(usage: dict[str, Any]) -> dict[str, Any]:
    """The answer: written out, since its tool calls are a union that msgspec cannot describe."""
    message = {
        "type": "object",
        "required": ["role", "content", "refusal"],
        "properties": {
            "role": {"const": "assistant"},
            "content": {"type": ["string", "null"]},
            "refusal": {"type": ["string", "null"]},
            "tool_calls": {"type": "array", "items": {"type": "object"}},
        },
    }
    choice = {
        "type": "object",
        "required": ["index", "message", "finish_reason"],
        "properties": {
            "index": {"type": "integer"},
            "message": message,
            "logprobs": {"type": ["object", "null"]},
            "finish_reason": {"type": ["string", "null"]},
        },
    }
    return {
        "type": "object",
        "required": ["id", "object", "created", "model", "choices"],
        "properties": {
            "id": {"type": "string"},
            "object": {"const": "chat.completion"},
            "created": {"type": "integer"},
            "model": {"type": "string"},
            "choices": {"type": "array", "items": choice},
            "usage": usage,
        },
    }
