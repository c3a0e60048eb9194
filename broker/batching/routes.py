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
# While a provider is away a model that nobody knows may be one that only its workers list: it is
# believed to be unknown when it was for so long, in seconds.
_BELIEVED_S = 60.0

Decided = tuple[Target, ...] | InferenceError


class Routes:
    """See the module."""

    def __init__(self, router: Router) -> None:
        self._router = router
        self._known: dict[tuple[str, str], tuple[float, Decided]] = {}
        # Models that were unknown: since when, and when that was seen last.
        self._unknown: dict[str, tuple[float, float]] = {}

    async def decide(self, endpoint: str, head: Head, body: bytes) -> Decided:
        """Targets, best first; the error where there is none."""
        if not head.plain:
            return self._doubted(head.model, await self._ask(_whole(endpoint, body)))
        now = asyncio.get_running_loop().time()
        place = endpoint, head.model
        known = self._known.get(place)
        if known is not None and now - known[0] < _FRESH_S:
            return known[1]
        if len(self._known) >= _MOST_KEPT:
            self._known.clear()
        decided = self._doubted(head.model, await self._ask(_minimal(endpoint, head.model)))
        self._known[place] = now, decided
        return decided

    def _doubted(self, model: str, decided: Decided) -> Decided:
        """The same; that a model does not exist is final, and believed only after a while."""
        if not isinstance(decided, InferenceError) or decided.reason != "model_not_found":
            self._unknown.pop(model, None)
            return decided
        if self._router.whole:
            return decided
        now = asyncio.get_running_loop().time()
        since, last = self._unknown.get(model, (now, now))
        if now - last > _BELIEVED_S:  # nobody looked meanwhile
            since = now
        if len(self._unknown) >= _MOST_KEPT:
            self._unknown.clear()
        self._unknown[model] = since, now
        if now - since > _BELIEVED_S:
            return decided
        return InferenceError("no_worker", decided.message, param="model")

    async def _ask(self, request: generation_pb2.Request | InferenceError) -> Decided:
        if isinstance(request, InferenceError):
            return request
        try:
            return (await self._router.decide(request)).targets
        except InferenceError as exc:
            return exc


def named(model: str) -> Target:
    """Whose price counts where nobody serves the model at the moment: the one it is named for."""
    provider, _, rest = model.partition("/")
    return Target(provider, "", rest, listed=False)


def _minimal(endpoint: str, model: str) -> generation_pb2.Request:
    request = generation_pb2.Request()
    getattr(request, lines.OPERATIONS.get(endpoint, operations.GENERATE)).model = model
    return request


def _whole(endpoint: str, body: bytes) -> generation_pb2.Request | InferenceError:
    try:
        return lines.read(endpoint, body)
    except InferenceError as exc:
        return exc
