"""Conversations for both front ends: what was said, item by item, to be gone on from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from broker import durable, items
from broker.bus.responses import Responses
from broker.errors import InferenceError
from broker.v1 import content_pb2, stored_pb2
from broker.wallclock import now
from edge import ids
from edge.responses.turn import conversation_not_found
from edge.store import told

_Messages = Sequence[content_pb2.Message]


class Conversations:
    """See the module. Raises `InferenceError`; another owner's conversation is `not_found`."""

    def __init__(self, stored: Responses) -> None:
        self._store = stored.conversations

    async def create(
        self, owner: str, metadata: Mapping[str, str], messages: _Messages
    ) -> stored_pb2.StoredConversation:
        """A new conversation."""
        record = stored_pb2.StoredConversation(
            id="conv_" + ids.random_bytes().hex(), owner=owner, created_at=now()
        )
        record.metadata.update(metadata)
        durable.add_messages(record, messages, "")
        with told():
            await self._store.create(record)
        return record

    async def get(self, owner: str, name: str) -> stored_pb2.StoredConversation:
        """The conversation with all that was said in it."""
        with told():
            kept = await self._store.get(owner, name)
        return _found(kept.record if kept is not None else None, name)

    async def change(
        self, owner: str, name: str, metadata: Mapping[str, str]
    ) -> stored_pb2.StoredConversation:
        """Replace its metadata."""

        def edit(record: stored_pb2.StoredConversation) -> bool:
            record.metadata.clear()
            record.metadata.update(metadata)
            return True

        with told():
            return _found(await self._store.change(owner, name, edit), name)

    async def delete(self, owner: str, name: str) -> None:
        """Forget it; the responses that belong to it stay."""
        with told():
            if not await self._store.delete(owner, name):
                raise conversation_not_found(name)

    async def item(self, owner: str, name: str, item_id: str) -> content_pb2.Message:
        """One item, as a message of its own."""
        found = items.find((await self.get(owner, name)).messages, item_id)
        if found is None:
            raise _no_item(item_id)
        return found

    async def add(self, owner: str, name: str, messages: _Messages) -> list[content_pb2.Message]:
        """Add messages; returns them as they are kept."""
        salt = ids.random_bytes().hex()
        added: list[content_pb2.Message] = []

        def edit(record: stored_pb2.StoredConversation) -> bool:
            added[:] = durable.add_messages(record, messages, salt)
            return True

        with told():
            _found(await self._store.change(owner, name, edit, whole=True), name)
        return added

    async def remove(self, owner: str, name: str, item_id: str) -> stored_pb2.StoredConversation:
        """Take one item out."""

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
            return _found(await self._store.change(owner, name, edit, whole=True), name)


def _found(
    record: stored_pb2.StoredConversation | None, name: str
) -> stored_pb2.StoredConversation:
    if record is None:
        raise conversation_not_found(name)
    return record


def _no_item(item_id: str) -> InferenceError:
    return InferenceError("not_found", f"Item with id '{item_id}' not found.")
