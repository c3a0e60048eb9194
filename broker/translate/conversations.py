"""Reads the bodies of the conversations API and renders its objects."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

import msgspec
import orjson
from msgspec import Meta, Struct

from broker.translate.body import read_body, shaped
from broker.translate.metadata import read_metadata
from broker.translate.refusals import missing
from broker.translate.responses_input import items_of
from broker.translate.responses_messages import messages_of
from broker.translate.wire import Json
from broker.v1 import content_pb2, stored_pb2

# Items that come with one call.
MOST_ITEMS = 20
_json = msgspec.json.Encoder().encode


class ConversationBody(Struct):
    """What the bodies have, as far as they are read."""

    items: Annotated[list[Json], Meta(max_length=MOST_ITEMS)] | None = None
    metadata: dict[str, str | None] | None = None


def read_conversation(data: bytes) -> tuple[dict[str, str], list[content_pb2.Message]]:
    """Metadata and messages of a new conversation. Raises `InferenceError`."""
    body = shaped(read_body(data or b"{}"), ConversationBody)
    return read_metadata(body.metadata or {}), messages_of(body.items or [], "items")


def read_change(data: bytes) -> dict[str, str]:
    """The metadata that takes the place of what there is. Raises `InferenceError`."""
    body = shaped(read_body(data), ConversationBody)
    if body.metadata is None:
        raise missing("metadata")
    return read_metadata(body.metadata)


def read_items(data: bytes) -> list[content_pb2.Message]:
    """The messages that are to be added. Raises `InferenceError`."""
    body = shaped(read_body(data), ConversationBody)
    if body.items is None:
        raise missing("items")
    return messages_of(body.items, "items")


def items(messages: Iterable[content_pb2.Message], owner: str) -> list[dict[str, Any]]:
    """The items that messages are made of; `owner` names those that have no id."""
    found: list[dict[str, Any]] = orjson.loads(_json(items_of(messages, owner)))
    return found


def shown(record: stored_pb2.StoredConversation) -> dict[str, Any]:
    """The conversation's object."""
    return {
        "id": record.id,
        "object": "conversation",
        "created_at": record.created_at,
        "metadata": dict(record.metadata),
    }
