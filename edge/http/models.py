"""GET /v1/models and /v1/models/{id}, in OpenAI's form or, for those who speak it, Anthropic's."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request

from broker import operations
from broker.errors import InferenceError
from broker.v1 import generation_pb2
from edge.auth import Authenticator
from edge.http.routes import signed_in
from edge.meant import meant_for
from edge.seams import EngineLike

# Anthropic's clients send it with every request.
_ANTHROPIC = "anthropic-version"
# A query parameter of every list of models.
Operation = Annotated[
    str | None,
    Query(description=f"Only what is for this: {', '.join(operations.ALL)}."),
]


def model_routes(engine: EngineLike, auth: Authenticator) -> APIRouter:
    """Both routes; ids contain slashes."""
    router = APIRouter(prefix="/v1/models", tags=["Models"], dependencies=signed_in(auth))

    @router.get("", summary="List models")
    async def list_models(request: Request, operation: Operation = None) -> dict[str, Any]:
        """The models that workers list; providers that are on may serve others too.

        `operations` says what a model is for, where that is known.
        """
        if _ANTHROPIC not in request.headers:
            listed = meant_for(engine.models(), operation)
            data = [_openai(model.id, model.provider, model.operations) for model in listed]
            return {"object": "list", "data": data}
        models = meant_for(engine.models(), operation or operations.GENERATE)
        return {
            "data": [_anthropic(model.id) for model in models],
            "has_more": False,
            "first_id": models[0].id if models else None,
            "last_id": models[-1].id if models else None,
        }

    @router.get("/{model_id:path}", summary="Retrieve a model")
    async def retrieve_model(model_id: str, request: Request) -> dict[str, Any]:
        """One model by any name that requests may have, such as `openai/gpt-4o` or `gpt-4o`."""
        found = await _found(engine, model_id)
        if found is None:
            raise _unknown(model_id, engine.near(model_id))
        if _ANTHROPIC in request.headers:
            return _anthropic(model_id)
        return _openai(model_id, *found)

    return router


async def _found(engine: EngineLike, name: str) -> tuple[str, tuple[str, ...]] | None:
    """Who serves a model, and for what; None when nobody is known to, though somebody may."""
    for model in engine.models():
        if name in (model.id, model.name):
            return model.provider, model.operations
    request = generation_pb2.Request()
    request.generate.model = name
    try:
        decision = await engine.decide(request)
    except InferenceError as exc:
        if exc.reason == "model_not_found":
            return None
        raise
    for candidate in decision.chosen:
        if candidate.target.listed or candidate.offer is not None:
            offer = candidate.offer
            return candidate.provider, offer.operations if offer is not None else ()
    return None


def _unknown(name: str, near: list[str]) -> InferenceError:
    """The 404 for a model that is not known, with ids that look like it."""
    message = f"The model {name!r} does not exist or you do not have access to it"
    if near:
        message += "; did you mean " + " or ".join(map(repr, near)) + "?"
    return InferenceError("model_not_found", message, param="model")


# Providers do not say when a model was made; both forms want a time all the same.
def _openai(name: str, provider: str, serves: tuple[str, ...]) -> dict[str, Any]:
    model = {"id": name, "object": "model", "created": 0, "owned_by": provider}
    return model | ({"operations": list(serves)} if serves else {})


def _anthropic(name: str) -> dict[str, Any]:
    made = "1970-01-01T00:00:00Z"
    return {"type": "model", "id": name, "display_name": name, "created_at": made}
