"""Renders a response, in any state it can be in, as the Responses API's object."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from broker.answer import INCOMPLETE_REASONS
from broker.errors import InferenceError
from broker.items import RESPONSES, Group, name_of, name_record, with_state
from broker.translate.responses_echo import echo
from broker.translate.responses_input import input_items
from broker.translate.responses_items import (
    COMPLETED,
    INCOMPLETE,
    Item,
    item,
    output_items,
)
from broker.translate.usage import completion_tokens, prompt_tokens
from broker.v1 import content_pb2, event_pb2, generation_pb2, inference_service_pb2, stored_pb2

__all__ = [
    "ResponseObject",
    "context",
    "error_of",
    "finished",
    "input_items",
    "render",
]

_json = msgspec.json.Encoder().encode

QUEUED, IN_PROGRESS, FAILED, CANCELLED = "queued", "in_progress", "failed", "cancelled"
STATUS = {
    stored_pb2.RESPONSE_STATUS_QUEUED: QUEUED,
    stored_pb2.RESPONSE_STATUS_IN_PROGRESS: IN_PROGRESS,
    stored_pb2.RESPONSE_STATUS_COMPLETED: COMPLETED,
    stored_pb2.RESPONSE_STATUS_INCOMPLETE: INCOMPLETE,
    stored_pb2.RESPONSE_STATUS_FAILED: FAILED,
    stored_pb2.RESPONSE_STATUS_CANCELLED: CANCELLED,
}
_NO_MESSAGE = content_pb2.Message()


def error_of(exc: InferenceError) -> dict[str, Any]:
    """The field `error` of a response that failed."""
    if exc.row.http == 429:
        code = "rate_limit_exceeded"
    elif exc.row.http >= 500:
        code = "server_error"
    else:
        code = exc.code or "invalid_prompt"
    return {"code": code, "message": exc.message}


def usage_of(usage: event_pb2.Usage) -> dict[str, Any]:
    """The field `usage`."""
    read, written = prompt_tokens(usage), completion_tokens(usage)
    return {
        "input_tokens": read,
        "input_tokens_details": {
            "cached_tokens": usage.cache_read_tokens,
            "cache_write_tokens": usage.cache_write_tokens,
        },
        "output_tokens": written,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": read + written,
    }


class ResponseObject:
    """The object of one response; what repeats the request is made once."""

    def __init__(self, answer_id: str, created: int, request: generation_pb2.Request) -> None:
        self._head = {"id": answer_id, "object": "response", "created_at": created}
        self._echo = echo(request)
        self._model = request.generate.model

    def shown(
        self,
        status: str,
        *,
        model: str = "",
        output: Sequence[Item] = (),
        usage: event_pb2.Usage | None = None,
        error: dict[str, Any] | None = None,
        incomplete: str = "",
        completed_at: int = 0,
        service_tier: str = "",
    ) -> dict[str, Any]:
        """The object in this state."""
        shown = {
            **self._head,
            "status": status,
            "completed_at": completed_at or None,
            "error": error,
            "incomplete_details": {"reason": incomplete} if incomplete else None,
            "model": model or self._model,
            "output": list(output),
            **self._echo,
            "usage": None if usage is None else usage_of(usage),
        }
        if service_tier:
            shown["service_tier"] = service_tier
        return shown


def shown(stored: stored_pb2.StoredResponse, made: ResponseObject | None = None) -> dict[str, Any]:
    """A kept response as the values of its JSON; `made` saves making its object again."""
    answer = stored.answer
    incomplete = stored.status == stored_pb2.RESPONSE_STATUS_INCOMPLETE
    whole = stored.status == stored_pb2.RESPONSE_STATUS_COMPLETED
    error = None
    if stored.status == stored_pb2.RESPONSE_STATUS_FAILED:
        error = error_of(InferenceError.from_failure(stored.failure))
    made = made or ResponseObject(stored.id, stored.created_at, stored.request)
    return made.shown(
        STATUS.get(stored.status, IN_PROGRESS),
        model=answer.model,
        output=output_items(
            answer.choices[0].message if answer.choices else _NO_MESSAGE,
            stored.id,
            with_state=with_state(stored.request),
            last_status=COMPLETED if whole else INCOMPLETE,
            facts=answer.image_facts,
        ),
        usage=answer.usage if answer.HasField("usage") else None,
        error=error,
        incomplete=stored.incomplete_reason if incomplete else "",
        completed_at=stored.completed_at if whole else 0,
        service_tier=answer.service_tier,
    )


def finished(
    request: generation_pb2.Request, answer: inference_service_pb2.Answer
) -> stored_pb2.StoredResponse:
    """What is to be kept of a request and its whole answer, but for the tenant and the time."""
    reason = answer.choices[0].finish_reason if answer.choices else None
    kept = stored_pb2.StoredResponse(
        id=answer.id,
        created_at=answer.created,
        status=stored_pb2.RESPONSE_STATUS_COMPLETED,
        request=request,
        answer=answer,
        background=request.generate.responses.background,
    )
    name_record(kept)
    if reason in INCOMPLETE_REASONS:
        kept.status = stored_pb2.RESPONSE_STATUS_INCOMPLETE
        kept.incomplete_reason = INCOMPLETE_REASONS[reason]
    return kept


def render(stored: stored_pb2.StoredResponse) -> bytes:
    """The object of a kept response."""
    return _json(shown(stored))


def context(chain: Sequence[stored_pb2.StoredResponse]) -> list[content_pb2.Message]:
    """What earlier responses, oldest first, stand for in a new request: input and output.

    Instructions are each response's own and are not among it.
    """
    messages: list[content_pb2.Message] = []
    for stored in chain:
        messages.extend(stored.request.generate.messages)
        if stored.answer.choices and stored.answer.choices[0].message.parts:
            messages.append(_said(stored))
    return messages


def _said(stored: stored_pb2.StoredResponse) -> content_pb2.Message:
    """What the model said; images that it drew as the items that they are in this API."""
    message = content_pb2.Message()
    message.CopyFrom(stored.answer.choices[0].message)
    for position, part in enumerate(message.parts):
        if part.HasField("image"):
            group = Group("image_generation_call", [part])
            name = name_of(group, stored.id, position)
            opaque = content_pb2.Opaque(type=group.type, issuer=RESPONSES)
            opaque.json = _json(item(group, name, COMPLETED, with_state=False))
            part.opaque.CopyFrom(opaque)
    return message
