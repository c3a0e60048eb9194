"""The raw routes in /openapi.json, from the types that check their bodies."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from broker.translate import wire_answer
from broker.translate.form import Form, only_in_forms
from broker.translate.forms import CHAT, KEPT, ROUTES

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


_TIMEOUT = {
    "name": "X-Millrace-Timeout",
    "in": "header",
    "description": "Seconds after which the request is given up.",
    "schema": {"type": "number", "exclusiveMinimum": 0},
}
_METADATA = {
    "name": "X-OpenRouter-Metadata",
    "in": "header",
    "description": "`enabled`: the answer tells how it was routed, as `openrouter_metadata`.",
    "schema": {"type": "string", "enum": ["enabled", "disabled"]},
}


def add_raw_routes(document: dict[str, Any]) -> dict[str, Any]:
    """`document` (what FastAPI generated) with the raw routes and their schemas in it."""
    forms = {**ROUTES, **KEPT}
    bodies = {form.body for form in forms.values() if form.body is not None}
    types = [*bodies, wire_answer.Usage, wire_answer.ErrorBody]
    (*_, usage, failed), schemas = msgspec.json.schema_components(types, ref_template=_REF)
    components = document.setdefault("components", {}).setdefault("schemas", {})
    components.update(schemas)
    components["ChatCompletion"] = _completion(usage)
    for path, form in forms.items():
        document["paths"].setdefault(path, {})["post"] = _operation(path, form, failed)
    return document


def _operation(path: str, form: Form, failed: dict[str, Any]) -> dict[str, Any]:
    answer = {"$ref": _REF.format(name="ChatCompletion")} if form is CHAT else {"type": "object"}
    content: dict[str, Any] = {"application/json": {"schema": answer}}
    if form.stream is not None:
        content["text/event-stream"] = {"schema": {"type": "string"}}
    error = {"application/json": {"schema": failed}}
    article = "an" if form.title[0] in "aeiou" else "a"
    return {
        "tags": ["Inference"],
        "summary": f"Create {article} {form.title}",
        "operationId": "create" + re.sub(r"[^a-z0-9]+", "_", path),
        "security": [{"HTTPBearer": []}],
        "parameters": [_TIMEOUT, _METADATA],
        "requestBody": {"required": True, "content": _bodies(form)},
        "responses": {
            "200": {"description": "The answer, streamed if asked for.", "content": content},
            **{
                status: {"description": text, "content": error}
                for status, text in _STATUSES.items()
            },
        },
    }


def _bodies(form: Form) -> dict[str, Any]:
    """What a request's body may be: JSON, a form, or either."""
    request: dict[str, Any] = {"type": "object"}
    if form.body is not None:
        request = {"$ref": _REF.format(name=form.body.__name__)}
    found: dict[str, Any] = {}
    if form.parse is not only_in_forms:
        found["application/json"] = {"schema": request}
    if form.parse_form is not None:
        files = {name: {"type": "string", "format": "binary"} for name in form.files}
        found["multipart/form-data"] = {
            "schema": {"allOf": [request, {"type": "object", "properties": files}]}
        }
    return found


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
