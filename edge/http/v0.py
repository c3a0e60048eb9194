"""The v0 lists: endpoints (`model@provider`), models and providers, as plain arrays of names."""

from __future__ import annotations

from fastapi import APIRouter, Depends, Request
from fastapi.security import HTTPBearer

from broker import providers
from broker.keys import KeyRecord
from edge.auth import Authenticator, authorization
from edge.http.models import Operation
from edge.meant import meant_for
from edge.seams import EngineLike, ModelLike

_bearer = HTTPBearer(auto_error=False, description="A key made by `millrace key create`.")


def v0_routes(engine: EngineLike, auth: Authenticator) -> APIRouter:
    """GET /v0/endpoints, /v0/models and /v0/providers.

    `model`, `provider` and `operation` (such as embed) narrow them down.
    """

    async def caller(request: Request) -> KeyRecord:
        return await auth.authenticate(authorization(dict(request.headers.raw)))

    router = APIRouter(prefix="/v0", tags=["v0"], dependencies=[Depends(_bearer), Depends(caller)])

    def matching(model: str | None, provider: str | None, operation: str | None) -> list[ModelLike]:
        """What workers list, of this model and this provider (or an alias of its name)."""
        wanted = provider and (providers.canonical(provider) or provider)
        return [
            listed
            for listed in meant_for(engine.models(), operation)
            if (model is None or listed.name == model)
            and (wanted is None or listed.provider == wanted)
        ]

    @router.get("/endpoints", summary="List endpoints")
    async def endpoints(
        model: str | None = None, provider: str | None = None, operation: Operation = None
    ) -> list[str]:
        """Every `model@provider` that can be asked."""
        found = matching(model, provider, operation)
        return [f"{listed.name}@{listed.provider}" for listed in found]

    @router.get("/models", summary="List models")
    async def models(provider: str | None = None, operation: Operation = None) -> list[str]:
        """The names of models, each once, whoever serves it."""
        return sorted({listed.name for listed in matching(None, provider, operation)})

    @router.get("/providers", summary="List providers")
    async def list_providers(model: str | None = None, operation: Operation = None) -> list[str]:
        """The providers that are on, or those of them that serve `model`."""
        return sorted({listed.provider for listed in matching(model, None, operation)})

    return router
