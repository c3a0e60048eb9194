"""The routes of files: uploaded and downloaded in flat memory, listed, deleted."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import orjson
from fastapi import APIRouter, Request, Response

from broker.config import Limits
from broker.errors import InferenceError
from broker.files import MOST_BYTES
from broker.translate.files import (
    Wanted,
    check_filename,
    file_shown,
    files_shown,
    read_form,
    read_listing,
)
from broker.v1 import file_pb2
from edge.auth import Authenticator
from edge.files import FileService
from edge.http.body import ClientGoneError
from edge.http.download import Download
from edge.http.incoming import IncomingFile
from edge.http.routes import signed_in

_JSON = "application/json"


def _json(value: object) -> Response:
    return Response(orjson.dumps(value), media_type=_JSON)


def _owner(request: Request) -> str:
    return str(request.state.key.owner)


def file_routes(service: FileService, auth: Authenticator, limits: Limits) -> APIRouter:
    """Create, list, retrieve, delete, and the content."""
    router = APIRouter(prefix="/v1/files", tags=["Files"], dependencies=signed_in(auth))

    @router.post("", summary="Upload a file", openapi_extra=form_schema("file", "purpose"))
    async def create(request: Request) -> Response:
        """A form with `file`, `purpose` and, if it is not to be kept, `expires_after`."""
        async with incoming_file(request, "file", MOST_BYTES, limits) as incoming:
            return _json(file_shown(await _taken(service, request, incoming)))

    @router.get("", summary="List files")
    async def list_files(request: Request) -> Response:
        """Newest first; `purpose`, `limit`, `order` and `after` as in OpenAI's API."""
        page = await service.list(_owner(request), read_listing(request.query_params))
        return _json(files_shown(page.files, has_more=page.has_more))

    @router.get("/{file_id}", summary="Retrieve a file")
    async def retrieve(file_id: str, request: Request) -> Response:
        return _json(file_shown(await service.get(_owner(request), file_id)))

    @router.delete("/{file_id}", summary="Delete a file")
    async def delete(file_id: str, request: Request) -> Response:
        await service.delete(_owner(request), file_id)
        return _json({"id": file_id, "object": "file", "deleted": True})

    @router.get("/{file_id}/content", summary="Retrieve the content of a file")
    async def content(file_id: str, request: Request) -> Response:
        """The bytes, or those that a `Range` names."""
        record = await service.get(_owner(request), file_id)
        return Download(service, record, request.headers, patience_s=limits.slow_reader_s)

    return router


@contextlib.asynccontextmanager
async def incoming_file(
    request: Request, field: str, limit: int, limits: Limits
) -> AsyncIterator[IncomingFile]:
    """The file in a field of the request's form; `InferenceError` is all that leaves it."""
    incoming = IncomingFile(
        dict(request.headers.raw),
        request.receive,
        field=field,
        limit=limit,
        patience_s=limits.slow_reader_s,
    )
    try:
        yield incoming
    except ClientGoneError as exc:
        raise InferenceError("client_gone", "the client has left") from exc
    finally:
        incoming.close()


async def _taken(
    service: FileService, request: Request, incoming: IncomingFile
) -> file_pb2.StoredFile:
    """Store what comes. What can be refused before the bytes have come is."""
    fields = await incoming.begin()
    purpose = file_pb2.FILE_PURPOSE_UNSPECIFIED
    if "purpose" in fields.texts:
        purpose = read_form(fields).purpose
        check_filename(incoming.filename, purpose)

    def described() -> tuple[str, Wanted]:
        return incoming.filename, read_form(incoming.end())

    key = request.state.key
    return await service.take(key, incoming.chunks(), described, purpose=purpose)


def form_schema(field: str, *texts: str) -> dict[str, Any]:
    """What /docs says of a form with a file."""
    properties = {
        field: {"type": "string", "format": "binary"},
        **{name: {"type": "string"} for name in texts},
    }
    schema = {"type": "object", "properties": properties, "required": [field, *texts]}
    return {"requestBody": {"content": {"multipart/form-data": {"schema": schema}}}}
