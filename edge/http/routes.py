"""Routes that operators ask, on FastAPI, and what all routes there have in common."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse
from fastapi.security import HTTPBearer

from broker.telemetry import Metrics
from edge.auth import Authenticator, authorization
from edge.seams import EngineLike

# Only shows the lock in /docs: the check itself is `Authenticator`'s.
_bearer = HTTPBearer(auto_error=False, description="A key made by `millrace key create`.")


def signed_in(auth: Authenticator) -> list[Any]:
    """The dependencies of routes that ask for a key; they find it as `request.state.key`."""

    async def caller(request: Request) -> None:
        request.state.key = await auth.authenticate(authorization(dict(request.headers.raw)))

    return [Depends(_bearer), Depends(caller)]


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
        return {"version": version, "edge": engine.load().edge}

    @router.get("/metrics", summary="Prometheus metrics", response_class=Response)
    async def show_metrics(request: Request) -> Response:
        body, content_type = metrics.render(request.headers.get("accept", ""))
        return Response(body, headers={"content-type": content_type})

    return router


def _reasons(engine: EngineLike) -> list[str]:
    if not engine.load().workers:
        return ["no worker is connected; start one with: millrace worker PROVIDER"]
    return ["NATS cannot be reached, or this edge is shutting down"]
