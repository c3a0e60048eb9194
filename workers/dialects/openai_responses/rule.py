"""Which requests are for the Responses format, where a provider speaks it beside another one."""

from __future__ import annotations

import re
from collections.abc import Callable

from broker.v1 import content_pb2, generation_pb2
from workers.dialects.openai_responses.items import ISSUER
from workers.foreign import asks_for_thoughts
from workers.parameters import Reasoning

Wanted = Callable[[generation_pb2.Request, str], bool]

# They say nothing that only this format can carry.
_OTHERS = frozenset({content_pb2.ROLE_USER, content_pb2.ROLE_SYSTEM, content_pb2.ROLE_DEVELOPER})
# Include words that chat has a field for.
_ON_CHAT = frozenset({"message.output_text.logprobs"})


def whenever_asked(only: str = "", never: str = "", *, hosted_in_chat: bool = False) -> Wanted:
    """Requests that came in this format, and those that chat cannot carry.

    Args:
        only: an expression that is found in the names of models that speak nothing else.
        never: the same for models that do not speak it.
        hosted_in_chat: chat takes hosted tools too, in a form of its own.
    """

    def wanted(request: generation_pb2.Request, model: str) -> bool:
        if never and re.search(never, model.lower()):
            return False
        if request.generate.surface == generation_pb2.SURFACE_RESPONSES:
            return True
        return _needed(request.generate, model, only, hosted_in_chat=hosted_in_chat)

    return wanted


def where_needed(only: str = "") -> Wanted:
    """Requests that chat cannot carry alone: encrypted reasoning, models that speak this format.

    Hosted tools are for the format that they came in.
    """

    def wanted(request: generation_pb2.Request, model: str) -> bool:
        return _needed(request.generate, model, only, hosted_in_chat=True)

    return wanted


def or_to_show_thoughts(
    others: Wanted, reasoning: Callable[[str], Reasoning], never: str = ""
) -> Wanted:
    """Also those that came as Messages and ask for thinking, of models that think."""

    def wanted(request: generation_pb2.Request, model: str) -> bool:
        if others(request, model):
            return True
        if not asks_for_thoughts(request.generate) or (never and re.search(never, model.lower())):
            return False
        return reasoning(model).happens(request.generate.reasoning.effort or None)

    return wanted


def _needed(
    generate: generation_pb2.GenerateRequest, model: str, only: str, *, hosted_in_chat: bool
) -> bool:
    options = generate.responses
    chats = hosted_in_chat and generate.surface != generation_pb2.SURFACE_RESPONSES
    return bool(
        (only and re.search(only, model.lower()))
        or options.prompt
        or options.context_management
        or generate.reasoning.HasField("summary")
        or not _ON_CHAT.issuperset(options.include)
        or (not chats and any(tool.HasField("hosted") for tool in generate.tools))
        or any(
            _is_ours(part)
            for message in generate.messages
            if message.role not in _OTHERS
            for part in message.parts
        )
    )


def _is_ours(part: content_pb2.Part) -> bool:
    """Whether only this format can carry it."""
    # Every part of every request comes by here, and nearly all are text.
    kind = part.WhichOneof("kind")
    if kind == "opaque":
        return part.opaque.issuer == ISSUER
    return kind == "reasoning" and any(blob.issuer == ISSUER for blob in part.reasoning.blobs)
