"""Routes that operators ask, on FastAPI, and what all routes there have in common."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse
from fastapi.security import HTTPBearer

from broker.config import Limits
from broker.errors import InferenceError
from broker.telemetry import Metrics
from edge.auth import Authenticator, authorization
from edge.http.body import ClientGoneError, read_json_body
from edge.seams import EngineLike

# Only shows the lock in /docs: the check itself is `Authenticator`'s.
_bearer = HTTPBearer(auto_error=False, description="A key made by `millrace key create`.")


def signed_in(auth: Authenticator) -> list[Any]:
    """The dependencies of routes that ask for a key; they find it as `request.state.key`."""

    async def caller(request: Request) -> None:
        request.state.key = await auth.authenticate(authorization(dict(request.headers.raw)))

    return [Depends(_bearer), Depends(caller)]


def json_body(limits: Limits, most: int) -> Callable[[Request], Awaitable[bytes]]:
    """Reads JSON of at most `most` bytes; `InferenceError` is all that leaves it."""

    async def read(request: Request) -> bytes:
        timeout_s, headers = limits.request_timeout_s, dict(request.headers.raw)
        try:
            return await read_json_body(headers, request.receive, limit=most, timeout_s=timeout_s)
        except ClientGoneError as exc:
            raise InferenceError("client_gone", "the client has left") from exc

    return read


def operator_routes(engine: EngineLike, metrics: Metrics, version: str) -> APIRouter:
    """What load balancers, orchestrators and monitoring ask; without a key."""
    router = APIRouter(tags=["Operation"])

    @router.get("/healthz", summary="Whether the process is alive")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @router.get(
        "/readyz",
        summary="Whether a request would be served",
        responses={503: {"description": "Not now; `reasons` says why."}},
    )
    async def readyz() -> Response:
        if engine.ready():
            return JSONResponse({"ready": True, "reasons": []})
        return JSONResponse({"ready": False, "reasons": _reasons(engine)}, 503)

    @router.get("/version", summary="The version of the server")
    async def show_version() -> dict[str, str]:
        return {"version": version, "edge": engine.name}

    @router.get("/metrics", summary="Prometheus metrics", response_class=Response)
    async def show_metrics(request: Request) -> Response:
        body, content_type = metrics.render(request.headers.get("accept", ""))
        return Response(body, headers={"content-type": content_type})

    return router


def _reasons(engine: EngineLike) -> list[str]:
    if not engine.load().workers:
        return ["no worker is connected; start one with: millrace worker PROVIDER"]
    return ["NATS cannot be reached, or this edge is shutting down"]
