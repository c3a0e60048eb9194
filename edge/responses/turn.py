"""One turn of the Responses API: what came before it, in front of what it brings itself."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from broker import durable, items
from broker.bus.responses import Responses
from broker.errors import InferenceError
from broker.keys import KeyRecord
from broker.translate.responses_messages import check_calls, joined, reference_of
from broker.translate.responses_object import context
from broker.v1 import content_pb2, generation_pb2, stored_pb2

# The longest chain of responses; all of it is sent to the provider with each turn.
MAX_CHAIN = 1000
# Reads of a chain at a time.
_PARALLEL = 32


@dataclass(frozen=True, slots=True)
class Turn:
    """`own` is the request as it came, `whole` has what came before in front of its messages."""

    own: generation_pb2.Request
    whole: generation_pb2.Request
    key: KeyRecord
    ancestors: Sequence[str] = ()

    @property
    def kept(self) -> bool:
        """Whether the response is to be stored."""
        generate = self.own.generate
        return generate.store or not generate.HasField("store")

    @property
    def background(self) -> bool:
        """Whether the response outlives the request for it."""
        return self.own.generate.responses.background

    def fill(self, record: stored_pb2.StoredResponse) -> None:
        """Add what a record has beside its request and answer."""
        record.tenant, record.owner = self.key.tenant, self.key.owner
        record.background = self.background
        record.ancestors.extend(self.ancestors)


async def load(
    store: Responses, request: generation_pb2.Request, key: KeyRecord, *, limit: int
) -> Turn:
    """The turn of a request. Raises `InferenceError` when what it goes on from cannot be used.

    `limit` is the most bytes that it may be in all.
    """
    options = request.generate.responses
    turn, owner = Turn(request, request, key), key.owner
    await _resolve(store, owner, request)
    if turn.background and not turn.kept:
        raise _invalid("background", "a response that is not stored cannot run in the background")
    if options.previous_response_id:
        chain = await _chain(store, owner, options.previous_response_id)
        ancestors = [record.id for record in chain]
        return Turn(request, _behind(context(chain), request, limit), key, ancestors)
    if options.conversation:
        kept = await store.conversations.get(owner, options.conversation)
        if kept is None:
            raise conversation_not_found(options.conversation)
        return Turn(request, _behind(kept.record.messages, request, limit), key)
    return turn


async def _resolve(store: Responses, owner: str, request: generation_pb2.Request) -> None:
    """Put the items that a request refers to in the places of its references."""
    messages = request.generate.messages
    names = [reference_of(message) for message in messages]
    if not any(names):
        return
    found = await asyncio.gather(*(_item(store, owner, name) for name in names if name))
    following = iter(found)
    whole = [next(following) if name else messages[at] for at, name in enumerate(names)]
    whole = joined(whole)
    del messages[:]
    messages.extend(whole)
    if not (
        request.generate.responses.previous_response_id or request.generate.responses.conversation
    ):
        check_calls(messages)


async def _item(store: Responses, owner: str, name: str) -> content_pb2.Message:
    """What an item says, wherever it is kept: its id has that of its owner in it."""
    within = items.owner_of(name)
    found = None
    if within and (kept := await store.responses.get(owner, f"resp_{within}")):
        said = [*kept.record.request.generate.messages, *durable.said(kept.record)]
        found = items.find(said, name, with_state=items.with_state(kept.record.request))
    elif within and (talk := await store.conversations.get(owner, f"conv_{within}")):
        found = items.find(talk.record.messages, name)
    if found is None:
        raise InferenceError("not_found", f"Item with id '{name}' not found.", param="input")
    return found


async def _chain(store: Responses, owner: str, name: str) -> list[stored_pb2.StoredResponse]:
    """The response and those that it goes on from, oldest first."""
    last = await store.responses.get(owner, name)
    if last is None:
        raise _not_found(name)
    if last.record.status not in durable.FINAL:
        message = f"Previous response with id '{name}' is not complete yet."
        raise _invalid("previous_response_id", message, "previous_response_not_complete")
    names = list(last.record.ancestors)
    if len(names) >= MAX_CHAIN:
        message = f"a chain of responses is at most {MAX_CHAIN} long; start one with its input"
        raise _invalid("previous_response_id", message)
    slots = asyncio.Semaphore(_PARALLEL)

    async def read(ancestor: str) -> stored_pb2.StoredResponse:
        async with slots:
            kept = await store.responses.get(owner, ancestor)
        if kept is None:
            raise _not_found(ancestor)
        return kept.record

    return [*await asyncio.gather(*map(read, names)), last.record]


def _behind(
    before: Sequence[content_pb2.Message], request: generation_pb2.Request, limit: int
) -> generation_pb2.Request:
    """The request with messages in front of its own."""
    whole = generation_pb2.Request()
    whole.CopyFrom(request)
    del whole.generate.messages[:]
    whole.generate.messages.extend(before)
    whole.generate.messages.extend(request.generate.messages)
    if whole.ByteSize() > limit:
        message = f"with what came before it the request is larger than {limit} bytes"
        raise InferenceError("request_too_large", message)
    check_calls(whole.generate.messages)
    return whole


def conversation_not_found(name: str) -> InferenceError:
    """No conversation of this caller has the id."""
    return InferenceError("not_found", f"Conversation with id '{name}' not found.")


def _not_found(name: str) -> InferenceError:
    message = f"Previous response with id '{name}' not found."
    return _invalid("previous_response_id", message, "previous_response_not_found")


def _invalid(param: str, message: str, code: str = "invalid_value") -> InferenceError:
    return InferenceError("invalid_request", message, param=param, code=code)
