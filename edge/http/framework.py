"""The FastAPI application: its routes, its errors in the API's form, and the docs."""

from __future__ import annotations

from importlib import metadata
from typing import Any

from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response

from broker.config import Limits
from broker.errors import InferenceError
from broker.telemetry import Metrics
from edge.auth import Authenticator
from edge.http.models import model_routes
from edge.http.reply import error_reply
from edge.http.route import route_routes
from edge.http.routes import operator_routes
from edge.http.schema import add_raw_routes
from edge.http.v0 import v0_routes
from edge.seams import EngineLike

_REASONS = {404: "not_found", 405: "method_not_allowed"}


def framework(engine: EngineLike, auth: Authenticator, metrics: Metrics, limits: Limits) -> FastAPI:
    """The application without the raw routes; /docs and /openapi.json show these too."""
    version = metadata.version("millrace")
    app = FastAPI(
        title="Millrace",
        version=version,
        description="An inference broker with the OpenAI API.",
        redoc_url=None,
        redirect_slashes=False,
    )
    app.include_router(model_routes(engine, auth))
    app.include_router(v0_routes(engine, auth))
    app.include_router(route_routes(engine, auth, limits))
    app.include_router(operator_routes(engine, metrics, version))
    for kind in (InferenceError, HTTPException, Exception):
        app.add_exception_handler(kind, _refused)
    generated = app.openapi

    def openapi() -> dict[str, Any]:
        if not app.openapi_schema:
            app.openapi_schema = add_raw_routes(generated())
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
    return app


async def _refused(request: Request, exc: Exception) -> Response:
    """Any exception as the API's error; `Framed` logs those that nobody expected."""
    more: dict[str, str] = {}
    if isinstance(exc, InferenceError):
        error = exc
    elif isinstance(exc, HTTPException):  # the framework's own, above all unknown routes
        reason = _REASONS.get(exc.status_code, "invalid_request")
        error = InferenceError(reason, f"Invalid URL ({request.method} {request.url.path})")
        more.update(exc.headers or {})
    else:
        error = InferenceError("internal", "something went wrong here; the request id says where")
    status, headers, body = error_reply(error, request.state.request_id)
    return Response(body, status, {name.decode(): value.decode() for name, value in headers} | more)
