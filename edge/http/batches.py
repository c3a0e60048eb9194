"""The routes of batches."""

from __future__ import annotations

from contextlib import nullcontext

import orjson
from fastapi import APIRouter, Request, Response

from broker.batch import states
from broker.catalog.cost import usd
from broker.config import Limits
from broker.keys import KeyRecord
from broker.translate.batches import delays_shown, read_create, read_estimate, shown
from broker.translate.capacity import shown as shown_standing
from broker.translate.pages import read_limit
from broker.translate.refusals import invalid
from edge.auth import Authenticator
from edge.batches.estimate import shown as estimate_shown
from edge.batches.reading import Reading
from edge.batches.service import BatchService
from edge.http.call import idempotency_key
from edge.http.routes import json_body, signed_in
from edge.http.rows import Rows
from edge.kept import Kept
from edge.openstreams import OpenStreams

_JSON = "application/json"
# Of what describes a batch; its lines are in a file.
_MOST_BYTES = 1 << 20


def _json(value: object) -> Response:
    return Response(orjson.dumps(value), media_type=_JSON)


def _key(request: Request) -> KeyRecord:
    key: KeyRecord = request.state.key
    return key


def _router(auth: Authenticator) -> APIRouter:
    return APIRouter(prefix="/v1/batches", tags=["Batches"], dependencies=signed_in(auth))


def batch_routes(service: BatchService, auth: Authenticator, limits: Limits) -> APIRouter:
    """What OpenAI's API has."""
    router, body = _router(auth), json_body(limits, _MOST_BYTES)

    @router.post("", summary="Create a batch")
    async def create(request: Request) -> Response:
        """With an `Idempotency-Key`, asking again answers with the same batch."""
        wanted = read_create(await body(request))
        name = idempotency_key(dict(request.headers.raw)) or ""
        return _json(shown(await service.create(_key(request), wanted, name)))

    @router.get("", summary="List batches")
    async def list_(request: Request) -> Response:
        """Newest first."""
        limit = read_limit(request.query_params)
        after = request.query_params.get("after", "")
        found, more = await service.list(_key(request).owner, after, limit)
        data = [shown(record) for record in found]
        return _json(
            {
                "object": "list",
                "data": data,
                "first_id": data[0]["id"] if data else None,
                "last_id": data[-1]["id"] if data else None,
                "has_more": more,
            }
        )

    @router.get("/{batch_id}", summary="Retrieve a batch")
    async def retrieve(batch_id: str, request: Request) -> Response:
        return _json(shown(await service.get(_key(request).owner, batch_id)))

    @router.post("/{batch_id}/cancel", summary="Cancel a batch")
    async def cancel(batch_id: str, request: Request) -> Response:
        """Lines that run end, and what was answered is kept."""
        return _json(shown(await service.cancel(_key(request).owner, batch_id)))

    return router


def further_batch_routes(
    kept: Kept, auth: Authenticator, streams: OpenStreams, limits: Limits
) -> APIRouter:
    """What it lacks; to follow results is to have a stream open."""
    service = kept.batches
    router, body = _router(auth), json_body(limits, _MOST_BYTES)

    @router.post("/estimate", summary="Check every line of a file and price it")
    async def estimated(request: Request) -> Response:
        wanted = read_estimate(await body(request))
        return _json(estimate_shown(await kept.estimating.estimate(_key(request).owner, wanted)))

    @router.get("/{batch_id}/progress", summary="Show how far a batch is, and what it costs")
    async def progress(batch_id: str, request: Request) -> Response:
        record = await service.get(_key(request).owner, batch_id)
        return _json(
            {
                "batch": shown(record),
                "cost": usd(record.progress.cost.nano_usd),
                "paused": record.paused,
                "capacity": [shown_standing(one) for one in await kept.capacity.of(record)],
                "delays": delays_shown(record),
                "validated": record.progress.validated,
            }
        )

    @router.get(
        "/{batch_id}/results", summary="Read what the lines of a batch have answered so far"
    )
    async def results(batch_id: str, request: Request) -> Response:
        """Rows as the files of the batch have them, in the order of the input.

        `after` is the number of a line: rows of later ones alone. `follow=true` waits for lines
        that have not ended, until the batch is over. `X-Incomplete` says whether some are missing.
        """
        after, follow = _place(request), request.query_params.get("follow") == "true"
        owner = _key(request).owner
        record = await service.get(owner, batch_id)
        reading = Reading(service, owner, batch_id)
        over = record.status in states.FINAL
        stream = streams.one(_key(request).id) if follow else nullcontext()
        return Rows(reading, after, stream, wait=follow, over=over, patience_s=limits.slow_reader_s)

    @router.post("/{batch_id}/pause", summary="Begin no more lines of a batch for a while")
    async def pause(batch_id: str, request: Request) -> Response:
        return _json(shown(await service.pause(_key(request).owner, batch_id)))

    @router.post("/{batch_id}/resume", summary="Go on with a batch")
    async def resume(batch_id: str, request: Request) -> Response:
        return _json(shown(await service.resume(_key(request).owner, batch_id)))

    @router.post("/{batch_id}/retry", summary="Run the lines again that have no answer")
    async def retry(batch_id: str, request: Request) -> Response:
        """A batch of its own; asked again, the same one."""
        name = idempotency_key(dict(request.headers.raw)) or ""
        return _json(shown(await service.retry(_key(request), batch_id, name)))

    return router


def _place(request: Request) -> int:
    after = request.query_params.get("after", "0")
    if not (after.isascii() and after.isdigit() and len(after) < len(str(1 << 62))):
        raise invalid("after", "Invalid 'after': expected the number of a line.")
    return int(after)
