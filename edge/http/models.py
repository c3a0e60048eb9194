"""GET /v1/models and /v1/models/{id}, in OpenAI's form or, for those who speak it, Anthropic's."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request

from broker.errors import InferenceError
from broker.v1 import generation_pb2
from edge.auth import Authenticator
from edge.http.routes import signed_in
from edge.http.seams import EngineLike

# Anthropic's clients send it with every request.
_ANTHROPIC = "anthropic-version"


def model_routes(engine: EngineLike, auth: Authenticator) -> APIRouter:
    """Both routes; ids contain slashes."""
    router = APIRouter(prefix="/v1/models", tags=["Models"], dependencies=signed_in(auth))

    @router.get("", summary="List models")
    async def list_models(request: Request) -> dict[str, Any]:
        """The models that workers list; providers that are on may serve others too."""
        models = engine.models()
        if _ANTHROPIC not in request.headers:
            return {"object": "list", "data": [_openai(m.id, m.provider) for m in models]}
        return {
            "data": [_anthropic(model.id) for model in models],
            "has_more": False,
            "first_id": models[0].id if models else None,
            "last_id": models[-1].id if models else None,
        }

    @router.get("/{model_id:path}", summary="Retrieve a model")
    async def retrieve_model(model_id: str, request: Request) -> dict[str, Any]:
        """One model by any name that requests may have, such as `openai/gpt-4o` or `gpt-4o`."""
        provider = await _provider(engine, model_id)
        if provider is None:
            raise _unknown(model_id, engine.near(model_id))
        if _ANTHROPIC in request.headers:
            return _anthropic(model_id)
        return _openai(model_id, provider)

    return router


async def _provider(engine: EngineLike, name: str) -> str | None:
    """Who serves a model; None when nobody is known to, though a provider may have it."""
    for model in engine.models():
        if name in (model.id, model.name):
            return model.provider
    request = generation_pb2.Request()
    request.generate.model = name
    try:
        decision = await engine.decide(request)
    except InferenceError as exc:
        if exc.reason == "model_not_found":
            return None
        raise
    known = (c.provider for c in decision.chosen if c.target.listed or c.offer is not None)
    return next(known, None)


def _unknown(name: str, near: list[str]) -> InferenceError:
    """The 404 for a model that is not known, with ids that look like it."""
    message = f"The model {name!r} does not exist or you do not have access to it"
    if near:
        message += "; did you mean " + " or ".join(map(repr, near)) + "?"
    return InferenceError("model_not_found", message, param="model")


# Providers do not say when a model was made; both forms want a time all the same.
def _openai(name: str, provider: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": provider}


def _anthropic(name: str) -> dict[str, Any]:
    made = "1970-01-01T00:00:00Z"
    return {"type": "model", "id": name, "display_name": name, "created_at": made}
