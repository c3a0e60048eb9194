"""The routes of what is stored that are not hot: responses, their items, conversations."""

from __future__ import annotations

from typing import Any

import orjson
from fastapi import APIRouter, Request, Response

from broker.config import Limits
from broker.translate import conversations as wire
from broker.translate.pages import page
from broker.translate.responses_object import input_items, render
from edge.auth import Authenticator
from edge.http.routes import json_body, signed_in
from edge.responses.conversations import Conversations
from edge.responses.service import ResponseService

_JSON = "application/json"


def _json(value: object) -> Response:
    return Response(orjson.dumps(value), media_type=_JSON)


def _owner(request: Request) -> str:
    return str(request.state.key.owner)


def _id_of(item: dict[str, Any]) -> str:
    return str(item.get("id") or "")


def response_routes(service: ResponseService, auth: Authenticator) -> APIRouter:
    """Cancel, delete and the input items of a response."""
    router = APIRouter(prefix="/v1/responses", tags=["Responses"], dependencies=signed_in(auth))

    @router.post("/{response_id}/cancel", summary="Cancel a background response")
    async def cancel(response_id: str, request: Request) -> Response:
        """The response as it is then: one that is over stays as it is."""
        record = await service.cancel(_owner(request), response_id)
        return Response(render(record), media_type=_JSON)

    @router.delete("/{response_id}", summary="Delete a response")
    async def delete(response_id: str, request: Request) -> Response:
        await service.delete(_owner(request), response_id)
        return _json({"id": response_id, "object": "response", "deleted": True})

    @router.get("/{response_id}/input_items", summary="List a response's input items")
    async def items(response_id: str, request: Request) -> Response:
        record = await service.get(_owner(request), response_id)
        found = [orjson.loads(item) for item in input_items(record)]
        return _json(page(found, request.query_params, _id_of))

    return router


def conversation_routes(service: ResponseService, auth: Authenticator, limits: Limits) -> APIRouter:
    """Conversations and their items."""
    router = APIRouter(
        prefix="/v1/conversations", tags=["Conversations"], dependencies=signed_in(auth)
    )
    conversations = Conversations(service.stored)
    body = json_body(limits, limits.max_body_bytes)

    @router.post("", summary="Create a conversation")
    async def create(request: Request) -> Response:
        metadata, messages = wire.read_conversation(await body(request))
        return _json(wire.shown(await conversations.create(_owner(request), metadata, messages)))

    @router.get("/{name}", summary="Retrieve a conversation")
    async def retrieve(name: str, request: Request) -> Response:
        return _json(wire.shown(await conversations.get(_owner(request), name)))

    @router.post("/{name}", summary="Change a conversation's metadata")
    async def change(name: str, request: Request) -> Response:
        metadata = wire.read_change(await body(request))
        return _json(wire.shown(await conversations.change(_owner(request), name, metadata)))

    @router.delete("/{name}", summary="Delete a conversation")
    async def delete(name: str, request: Request) -> Response:
        await conversations.delete(_owner(request), name)
        return _json({"id": name, "object": "conversation.deleted", "deleted": True})

    @router.get("/{name}/items", summary="List a conversation's items")
    async def items(name: str, request: Request) -> Response:
        record = await conversations.get(_owner(request), name)
        return _json(page(wire.items(record.messages, name), request.query_params, _id_of))

    @router.post("/{name}/items", summary="Add items to a conversation")
    async def add(name: str, request: Request) -> Response:
        messages = wire.read_items(await body(request))
        added = await conversations.add(_owner(request), name, messages)
        return _json(page(wire.items(added, name), {"order": "asc", "limit": "100"}, _id_of))

    @router.get("/{name}/items/{item_id}", summary="Retrieve an item of a conversation")
    async def item(name: str, item_id: str, request: Request) -> Response:
        message = await conversations.item(_owner(request), name, item_id)
        return _json(wire.items([message], name)[0])

    @router.delete("/{name}/items/{item_id}", summary="Delete an item of a conversation")
    async def remove(name: str, item_id: str, request: Request) -> Response:
        return _json(wire.shown(await conversations.remove(_owner(request), name, item_id)))

    return router
