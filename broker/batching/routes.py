"""Where lines go: decided once for all that ask the same model, and for each that wants more."""

from __future__ import annotations

import asyncio

from broker import operations
from broker.batch.lines import Head
from broker.errors import InferenceError
from broker.router import Router
from broker.routing import Target
from broker.translate import lines
from broker.v1 import generation_pb2

# How long a decision for a model holds, in seconds: the fleet changes.
_FRESH_S = 1.0
_MOST_KEPT = 10_000

# What a request is for, by the endpoint.
OPERATIONS = {
    "/v1/chat/completions": operations.GENERATE,
    "/v1/completions": operations.COMPLETE,
    "/v1/embeddings": operations.EMBED,
    "/v1/responses": operations.GENERATE,
    "/v1/moderations": operations.MODERATE,
    "/v1/images/generations": operations.IMAGE,
    "/v1/images/edits": operations.IMAGE,
}

Decided = tuple[Target, ...] | InferenceError


class Routes:
    """See the module."""

    def __init__(self, router: Router) -> None:
        self._router = router
        self._known: dict[tuple[str, str], tuple[float, Decided]] = {}

    async def decide(self, endpoint: str, head: Head, body: bytes) -> Decided:
        """Targets, best first; the error where there is none."""
        if not head.plain:
            return await self._ask(_whole(endpoint, body))
        now = asyncio.get_running_loop().time()
        place = endpoint, head.model
        known = self._known.get(place)
        if known is not None and now - known[0] < _FRESH_S:
            return known[1]
        if len(self._known) >= _MOST_KEPT:
            self._known.clear()
        decided = await self._ask(_minimal(endpoint, head.model))
        self._known[place] = now, decided
        return decided

    async def _ask(self, request: generation_pb2.Request | InferenceError) -> Decided:
        if isinstance(request, InferenceError):
            return request
        try:
            return (await self._router.decide(request)).targets
        except InferenceError as exc:
            return exc


def _minimal(endpoint: str, model: str) -> generation_pb2.Request:
    request = generation_pb2.Request()
    getattr(request, OPERATIONS.get(endpoint, operations.GENERATE)).model = model
    return request


def _whole(endpoint: str, body: bytes) -> generation_pb2.Request | InferenceError:
    try:
        return lines.read(endpoint, body)
    except InferenceError as exc:
        return exc
