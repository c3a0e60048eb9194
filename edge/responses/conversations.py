"""Conversations: what was said, item by item, to be gone on from."""

from __future__ import annotations

from typing import Any

import msgspec
import orjson

from broker import durable
from broker.bus.responses import Responses
from broker.errors import InferenceError
from broker.v1 import content_pb2, stored_pb2
from edge import ids
from edge.responses.service import now, told
from edge.responses.turn import conversation_not_found
from edge.translate.refusals import invalid, missing
from edge.translate.responses_input import items_of
from edge.translate.responses_messages import messages_of

# Items that come with one call.
_MOST_ITEMS = 20
_json = msgspec.json.Encoder().encode


class Conversations:
    """See the module. Raises `InferenceError`; another tenant's conversation is `not_found`."""

    def __init__(self, stored: Responses) -> None:
        self._store = stored.conversations

    async def create(self, tenant: str, body: Any) -> dict[str, Any]:
        """A new conversation, from `items` and `metadata`."""
        record = stored_pb2.StoredConversation(
            id="conv_" + ids.random_bytes().hex(), tenant=tenant, created_at=now()
        )
        record.metadata.update(_metadata(body))
        durable.add_messages(record, messages_of(_items(body, required=False), "items"), record.id)
        with told():
            await self._store.create(record)
        return _shown(record)

    async def get(self, tenant: str, name: str) -> dict[str, Any]:
        """The conversation's object."""
        return _shown(await self._read(tenant, name))

    async def change(self, tenant: str, name: str, body: Any) -> dict[str, Any]:
        """Replace its metadata."""
        metadata = _metadata(body)

        def edit(record: stored_pb2.StoredConversation) -> bool:
            record.metadata.clear()
            record.metadata.update(metadata)
            return True

        with told():
            record = await self._store.change(tenant, name, edit)
        return _shown(_found(record, name))

    async def delete(self, tenant: str, name: str) -> dict[str, Any]:
        """Forget it; the responses that belong to it stay."""
        with told():
            if not await self._store.delete(tenant, name):
                raise conversation_not_found(name)
        return {"id": name, "object": "conversation.deleted", "deleted": True}

    async def items(self, tenant: str, name: str) -> list[dict[str, Any]]:
        """All its items, in order."""
        record = await self._read(tenant, name)
        return _rendered(list(record.messages), name)

    async def item(self, tenant: str, name: str, item_id: str) -> dict[str, Any]:
        """One of its items."""
        for item in await self.items(tenant, name):
            if item.get("id") == item_id:
                return item
        raise _no_item(item_id)

    async def add(self, tenant: str, name: str, body: Any) -> list[dict[str, Any]]:
        """Add `items`; returns them as they are kept."""
        messages = messages_of(_items(body, required=True), "items")
        owner = ids.random_bytes().hex()
        added: list[content_pb2.Message] = []

        def edit(record: stored_pb2.StoredConversation) -> bool:
            added[:] = durable.add_messages(record, messages, owner)
            return True

        with told():
            _found(await self._store.change(tenant, name, edit, whole=True), name)
        return _rendered(added, owner)

    async def remove(self, tenant: str, name: str, item_id: str) -> dict[str, Any]:
        """Take one item out; returns the conversation's object."""

        def edit(record: stored_pb2.StoredConversation) -> bool:
            for message in record.messages:
                left = [part for part in message.parts if part.item_id != item_id]
                if message.item_id != item_id and len(left) == len(message.parts):
                    continue
                if message.item_id == item_id or not left:
                    record.messages.remove(message)
                else:
                    del message.parts[:]
                    message.parts.extend(left)
                return True
            raise _no_item(item_id)

        with told():
            return _shown(_found(await self._store.change(tenant, name, edit, whole=True), name))

    async def _read(self, tenant: str, name: str) -> stored_pb2.StoredConversation:
        with told():
            kept = await self._store.get(tenant, name)
        return _found(kept.record if kept is not None else None, name)


def _found(
    record: stored_pb2.StoredConversation | None, name: str
) -> stored_pb2.StoredConversation:
    if record is None:
        raise conversation_not_found(name)
    return record


def _no_item(item_id: str) -> InferenceError:
    return InferenceError("not_found", f"Item with id '{item_id}' not found.")


def _rendered(messages: list[content_pb2.Message], owner: str) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = orjson.loads(_json(items_of(messages, owner)))
    return items


def _shown(record: stored_pb2.StoredConversation) -> dict[str, Any]:
    return {
        "id": record.id,
        "object": "conversation",
        "created_at": record.created_at,
        "metadata": dict(record.metadata),
    }


def _object(body: Any) -> dict[str, Any]:
    if not isinstance(body, dict):
        raise invalid(None, "Invalid body: expected an object.", "invalid_type")
    return body


def _metadata(body: Any) -> dict[str, str]:
    given = _object(body).get("metadata")
    if given is None:
        return {}
    good = isinstance(given, dict) and all(isinstance(text, str) for text in given.values())
    if not good or len(given) > 16:
        message = "Invalid 'metadata': expected an object of at most 16 strings."
        raise invalid("metadata", message, "invalid_type")
    return dict(given)


def _items(body: Any, *, required: bool) -> list[dict[str, Any]]:
    given = _object(body).get("items")
    if given is None:
        if required:
            raise missing("items")
        return []
    if not isinstance(given, list) or not all(isinstance(item, dict) for item in given):
        raise invalid("items", "Invalid 'items': expected a list of objects.", "invalid_type")
    if len(given) > _MOST_ITEMS:
        raise invalid("items", f"Invalid 'items': at most {_MOST_ITEMS} may be added at once.")
    return given
