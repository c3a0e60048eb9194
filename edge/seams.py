"""What front ends need of the engine, as shapes: some engines stand around another one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from broker.keys import KeyRecord
from broker.routing import Decision
from broker.v1 import control_service_pb2, event_pb2, generation_pb2


class ExchangeLike(Protocol):
    """One accepted request."""

    @property
    def request_id(self) -> str: ...

    @property
    def answer_id(self) -> str: ...

    @property
    def created(self) -> int: ...

    @property
    def route(self) -> str:
        """How it was decided where the request goes; empty in a stored answer."""

    async def next(self) -> Sequence[event_pb2.Event]:
        """The next events, the first being `started`; empty after `completed`.

        Raises `InferenceError` once when the request fails.
        """

    def divert(self, take: Callable[[Sequence[event_pb2.Event]], bool]) -> None:
        """Offer batches to `take` first; `next` has what it refuses, and the end."""

    def close(self) -> None:
        """The caller is done or gone: whatever still runs is cancelled. Idempotent."""


class ModelLike(Protocol):
    """A model that can be asked for."""

    @property
    def id(self) -> str: ...

    @property
    def provider(self) -> str: ...

    @property
    def name(self) -> str:
        """Its name at the provider."""

    @property
    def operations(self) -> tuple[str, ...]:
        """What it is for; () = not known."""


class Submits(Protocol):
    """Takes requests in."""

    async def submit(
        self,
        request: generation_pb2.Request,
        key: KeyRecord,
        *,
        request_id: str,
        timeout_s: float,
        alias: str = "",
        provider_key: str | None = None,
        attachments: Sequence[bytes | memoryview] = (),
        accepted: bool = False,
    ) -> ExchangeLike:
        """Accept a request; raises `InferenceError` when it is refused.

        `alias` is the caller's own name for it, to cancel by; `provider_key` is the caller's own
        key for the provider, if one came with the request; `attachments` are what references in
        the request count; `accepted`: it is a part of a request that was, which passes (R13).
        """


class Holds(Protocol):
    """Waits for what runs before the process ends."""

    def hold(self, whole: object) -> None:
        """Wait for this too when draining, until it is let go."""

    def let_go(self, whole: object) -> None:
        """It is over. Idempotent."""


class PartsLike(Submits, Holds, Protocol):
    """Takes in requests that are parts of others, too, and says who answers them."""

    async def decide(self, request: generation_pb2.Request) -> Decision:
        """Where a request would go; raises `InferenceError` when nobody can answer it."""


class EngineLike(Submits, Protocol):
    """Takes requests in and says how it is doing."""

    @property
    def name(self) -> str:
        """Of this edge, in the fleet."""

    async def decide(self, request: generation_pb2.Request) -> Decision:
        """Where a request would go; raises `InferenceError` when nobody can answer it."""

    def models(self) -> Sequence[ModelLike]: ...

    def near(self, model: str) -> list[str]:
        """Ids that look like `model`."""

    def ready(self) -> bool:
        """Whether a request would be served now."""

    def load(self) -> control_service_pb2.GetLoadResponse: ...
