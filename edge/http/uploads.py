"""The routes of uploads: large files, part by part."""

from __future__ import annotations

from typing import Any

import orjson
from fastapi import APIRouter, Request, Response

from broker.config import Limits
from broker.files import MOST_PART_BYTES
from broker.translate.uploads import part_shown, read_complete, read_upload, upload_shown
from broker.v1 import file_pb2
from broker.wallclock import now
from edge.auth import Authenticator
from edge.http.files import form_schema, incoming_file
from edge.http.routes import json_body, signed_in
from edge.uploads import UploadService

# Of a JSON body: room for the ids of all parts.
_MOST_JSON = 1 << 20


def upload_routes(service: UploadService, auth: Authenticator, limits: Limits) -> APIRouter:
    """Create, add a part, complete, cancel."""
    router = APIRouter(prefix="/v1/uploads", tags=["Files"], dependencies=signed_in(auth))
    body = json_body(limits, _MOST_JSON)

    @router.post("", summary="Create an upload")
    async def create(request: Request) -> Response:
        """Takes `bytes`, `filename`, `mime_type`, `purpose` and `expires_after`."""
        asked = read_upload(await body(request))
        return _shown(await service.create(request.state.key, asked))

    @router.post(
        "/{upload_id}/parts", summary="Add a part to an upload", openapi_extra=form_schema("data")
    )
    async def add(upload_id: str, request: Request) -> Response:
        """A form with `data`; at most 64 MiB."""
        upload = await service.pending(_owner(request), upload_id)
        async with incoming_file(request, "data", MOST_PART_BYTES, limits) as incoming:
            await incoming.begin()
            return _json(part_shown(await service.add(upload, incoming.chunks())))

    @router.post("/{upload_id}/complete", summary="Complete an upload")
    async def complete(upload_id: str, request: Request) -> Response:
        """Takes `part_ids` in their order, and the `md5` of all bytes if it is to be checked."""
        asked = read_complete(await body(request))
        return _shown(await service.complete(_owner(request), upload_id, asked))

    @router.post("/{upload_id}/cancel", summary="Cancel an upload")
    async def cancel(upload_id: str, request: Request) -> Response:
        return _shown(await service.cancel(_owner(request), upload_id))

    return router


def _shown(record: file_pb2.StoredUpload) -> Response:
    return _json(upload_shown(record, now()))


def _json(value: dict[str, Any]) -> Response:
    return Response(orjson.dumps(value), media_type="application/json")


def _owner(request: Request) -> str:
    return str(request.state.key.owner)
