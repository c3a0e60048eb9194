"""Checks what only the Responses API has, in requests that came as typed messages."""

from __future__ import annotations

from collections.abc import Sequence

from broker.translate.check import check
from broker.translate.check_messages import check_messages
from broker.translate.conversations import MOST_ITEMS
from broker.translate.refusals import invalid, missing
from broker.translate.responses_options import check_options
from broker.v1 import content_pb2, generation_pb2

_STAND_IN = content_pb2.Message(role=content_pb2.ROLE_USER)
_STAND_IN.parts.add().text.text = "-"


def check_response(request: generation_pb2.Request, *, streamed: bool) -> None:
    """Check a request for a response.

    Raises:
        InferenceError: invalid_request, with `param` as a path into the body of the HTTP API.
    """
    if not request.HasField("generate"):
        raise missing("request.generate")
    generate = request.generate
    if generate.n > 1:
        raise invalid("n", "Invalid 'n': a response has one answer.")
    check_options(generate)
    if generate.messages:
        check(request, streamed=streamed)
        return
    # It goes on from what is kept, and brings nothing itself.
    generate.messages.append(_STAND_IN)
    check(request, streamed=streamed)
    del generate.messages[:]


def check_items(messages: Sequence[content_pb2.Message]) -> None:
    """Check what is to be added to a conversation. Raises `InferenceError`."""
    if len(messages) > MOST_ITEMS:
        told = f"Invalid 'messages': at most {MOST_ITEMS} may be added at once."
        raise invalid("messages", told, "array_above_max_length")
    for index, message in enumerate(messages):
        if message.role not in _ROLES:
            param = f"messages[{index}].role"
            raise invalid(param, f"Invalid value for '{param}': {message.role}.")
    check_messages(messages)


_ROLES = frozenset(content_pb2.Role.values()) - {content_pb2.ROLE_UNSPECIFIED}
