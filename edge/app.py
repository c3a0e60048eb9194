"""The edge's HTTP application: hot routes as raw ASGI, everything else on FastAPI, and its server.

Hot routes are found by exact method and path before any framework runs; they appear in /docs all
the same.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import uvicorn
from fastapi import APIRouter
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from broker.config import Limits, Settings
from broker.telemetry import Gauge, Metrics, Telemetry
from broker.translate.forms import ROUTES
from broker.v1 import control_service_pb2
from edge.auth import Authenticator
from edge.held import Held
from edge.http.batches import batch_routes, further_batch_routes
from edge.http.call import Reporter
from edge.http.files import file_routes
from edge.http.framed import Framed
from edge.http.framework import framework
from edge.http.inference import InferenceRoute, Ingress
from edge.http.protocol import protocol
from edge.http.responses import CountInput, CreateResponse, ReadResponse
from edge.http.stored import conversation_routes, response_routes
from edge.http.uploads import upload_routes
from edge.kept import Kept
from edge.once import Once
from edge.openstreams import OpenStreams
from edge.responses.service import ResponseService
from edge.seams import EngineLike

# Longer than load balancers keep idle connections (60 s as a rule), so that they close first and
# never send a request into a connection that is being closed.
KEEP_ALIVE_S = 75
# The engine has drained before the server is stopped; this is for the last bytes, and for telling
# those that outlived the grace period.
LAST_WORDS_S = 2


def create_app(
    settings: Settings,
    engine: EngineLike,
    auth: Authenticator,
    telemetry: Telemetry | None = None,
    kept: Kept | None = None,
    *,
    once: Once | None = None,
    held: Held | None = None,
    streams: OpenStreams | None = None,
) -> ASGIApp:
    """The ASGI application; it has to be served as `serve` says.

    `held` and `streams` count for all that serves these limits, gRPC included.
    """
    telemetry = telemetry or Telemetry.silent("edge")
    streams = streams or OpenStreams(settings.limits.streams_per_key)
    _register_gauges(telemetry.metrics, engine, streams)
    if once is not None:
        _register_once(telemetry.metrics, once)
    held = held or Held(settings.limits)
    telemetry.metrics.gauge("held_bytes", "Bodies of requests held here.", lambda: held.total)
    ingress = Ingress(engine, auth, settings.limits, streams, Reporter(telemetry), held, once)
    hot: dict[tuple[str, str], ASGIApp] = {
        ("POST", path): InferenceRoute(form, ingress) for path, form in ROUTES.items()
    }
    rest = framework(engine, auth, telemetry.metrics, settings.limits)
    if kept is not None:
        hot |= _hot(ingress, kept.responses)
        for router in _routers(kept, auth, settings.limits, streams):
            rest.include_router(router)
        path = "/v1/responses/{response_id}"
        read = ReadResponse(ingress, kept.responses)
        rest.router.routes.append(Route(path, read, methods=["GET"], include_in_schema=False))
    for (method, path), handler in hot.items():
        # So that other methods get 405 and not 404.
        rest.router.routes.append(Route(path, handler, methods=[method], include_in_schema=False))
    if not settings.cors_origins:
        return _Dispatcher(hot, Framed(rest, telemetry.requests))
    cors = CORSMiddleware(
        _Dispatcher(hot, rest),
        allow_origins=settings.cors_origins,
        allow_methods=("GET", "POST", "DELETE"),
        allow_headers=("*",),
        expose_headers=("*",),
        max_age=3600,
    )
    return Framed(cors, telemetry.requests)


def _hot(ingress: Ingress, responses: ResponseService) -> dict[tuple[str, str], ASGIApp]:
    return {
        ("POST", "/v1/responses"): CreateResponse(ingress, responses),
        ("POST", "/v1/responses/input_tokens"): CountInput(ingress, responses),
    }


def _routers(
    kept: Kept, auth: Authenticator, limits: Limits, streams: OpenStreams
) -> tuple[APIRouter, ...]:
    return (
        response_routes(kept.responses, auth),
        conversation_routes(kept.responses, auth, limits),
        file_routes(kept.files, auth, limits),
        upload_routes(kept.uploads, auth, limits),
        batch_routes(kept.batches, auth, limits),
        further_batch_routes(kept, auth, streams, limits),
    )


def serve(app: ASGIApp, settings: Settings, held: Held) -> uvicorn.Config:
    """How `app` is served: the one place for uvicorn's settings; `held` is also the app's."""
    return uvicorn.Config(
        app,
        host=settings.http.host,
        port=settings.http.port,
        http=protocol(settings.limits, held),
        loop="uvloop",
        ws="none",
        interface="asgi3",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        date_header=True,
        backlog=2048,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=LAST_WORDS_S,
        # Named so that uvicorn takes nothing from the environment.
        workers=1,
        forwarded_allow_ips="",
    )


class _Dispatcher:
    """Sends hot routes to their handlers and the rest to the framework."""

    def __init__(self, hot: dict[tuple[str, str], ASGIApp], rest: ASGIApp) -> None:
        self._hot = hot
        self._rest = rest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        handler = self._hot.get((scope["method"], scope["path"]))
        if scope["method"] == "HEAD":  # the server leaves the body out
            scope = {**scope, "method": "GET"}
        await (handler or self._rest)(scope, receive, send)


def _register_once(metrics: Metrics, once: Once) -> None:
    metrics.gauge(
        "named_requests", "Requests with an idempotency key that run here.", lambda: once.running
    )
    metrics.gauge(
        "attached_requests",
        "Requests that are given an answer as it comes to another edge.",
        lambda: once.attached,
    )


# What workers say of themselves in their heartbeats to this edge.
_WORKER_GAUGES = {
    "busy": "Slots in use on each worker.",
    "held": "Jobs that each worker took from the queue and has not acked.",
    "calls": "Upstream calls that are open on each worker.",
    "records": "Attempt records that each worker has not stored yet.",
    "tasks": "asyncio tasks of each worker.",
}
_Load = control_service_pb2.GetLoadResponse
_WORKER = ("worker", "provider")


def _of_workers(
    read: Callable[[control_service_pb2.WorkerLoad], float], load: _Load
) -> dict[tuple[str, ...], float]:
    return {(worker.worker, worker.provider): read(worker) for worker in load.workers}


def _said(name: str, worker: control_service_pb2.WorkerLoad) -> float:
    return float(getattr(worker.gauges, name))


_GAUGES: tuple[Gauge[_Load], ...] = (
    Gauge("in_flight", "Requests accepted and not yet ended.", lambda load: load.in_flight),
    Gauge("queue_depth", "Requests waiting in this edge.", lambda load: load.queued),
    Gauge("published", "Requests in the queue, not yet granted.", lambda load: load.published),
    Gauge("running", "Requests running on a worker.", lambda load: load.running),
    Gauge(
        "worker_sessions",
        "Requests of this edge on each worker.",
        partial(_of_workers, lambda worker: worker.sessions),
        _WORKER,
    ),
    Gauge(
        "worker_slots",
        "Calls that each worker makes at a time.",
        partial(_of_workers, lambda worker: worker.slots),
        _WORKER,
    ),
    *(
        Gauge(f"worker_{name}", text, partial(_of_workers, partial(_said, name)), _WORKER)
        for name, text in _WORKER_GAUGES.items()
    ),
)


def _register_gauges(metrics: Metrics, engine: EngineLike, streams: OpenStreams) -> None:
    metrics.gauge("open_streams", "Event streams to clients.", streams.total)
    metrics.gauges(engine.load, _GAUGES)
