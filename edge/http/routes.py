"""The routes that are not hot: models, health, version and metrics, on FastAPI."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse
from fastapi.security import HTTPBearer

from broker.errors import InferenceError
from broker.telemetry import Metrics
from edge.auth import Authenticator, authorization
from edge.http.seams import EngineLike, ModelLike

# Only shows the lock in /docs: the check itself is `Authenticator`'s.
_bearer = HTTPBearer(auto_error=False, description="A key made by `millrace key create`.")


def signed_in(auth: Authenticator) -> list[Any]:
    """The dependencies of routes that ask for a key; they find it as `request.state.key`."""

    async def caller(request: Request) -> None:
        request.state.key = await auth.authenticate(authorization(dict(request.headers.raw)))

    return [Depends(_bearer), Depends(caller)]


def model_routes(engine: EngineLike, auth: Authenticator) -> APIRouter:
    """GET /v1/models and /v1/models/{id}; ids contain slashes."""
    router = APIRouter(prefix="/v1/models", tags=["Models"], dependencies=signed_in(auth))

    @router.get("", summary="List models")
    async def list_models() -> dict[str, Any]:
        """The models that workers list; providers that are on may serve others too."""
        return {"object": "list", "data": [_model(model) for model in engine.models()]}

    @router.get("/{model_id:path}", summary="Retrieve a model")
    async def retrieve_model(model_id: str) -> dict[str, Any]:
        """One model by its id, such as `openai/gpt-4o`."""
        for model in engine.models():
            if model.id == model_id:
                return _model(model)
        raise unknown_model(model_id, engine.near(model_id))

    return router


def unknown_model(model_id: str, near: list[str]) -> InferenceError:
    """The 404 for a model that is not listed, with ids that look like it."""
    message = f"The model {model_id!r} does not exist or you do not have access to it"
    if near:
        message += "; did you mean " + " or ".join(repr(name) for name in near) + "?"
    return InferenceError("model_not_found", message, param="model")


def _model(model: ModelLike) -> dict[str, Any]:
    # Providers do not say when a model was made; the field has to be there all the same.
    return {"id": model.id, "object": "model", "created": 0, "owned_by": model.provider}


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

    for path, endpoint in (("/healthz", healthz), ("/readyz", readyz), ("/version", show_version)):
        # Some load balancers ask with HEAD.
        router.add_api_route(path, endpoint, methods=["HEAD"], include_in_schema=False)
    return router


def _reasons(engine: EngineLike) -> list[str]:
    if not engine.load().workers:
        return ["no worker is connected; start one with: millrace worker PROVIDER"]
    return ["NATS cannot be reached, or this edge is shutting down"]
