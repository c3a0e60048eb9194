"""Asks the engine for gRPC callers: one request while it runs, reported when it ends."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field

from broker.config import Limits
from broker.errors import InferenceError
from broker.keys import KeyRecord
from broker.translate.attachments import detach
from broker.translate.refusals import invalid
from broker.v1 import generation_pb2
from edge.claims import Named, digest
from edge.held import Held, HeldRequest
from edge.once import Once
from edge.rpc.calls import Call
from edge.rpc.report import Asked, Reporter
from edge.seams import ExchangeLike, Submits

Wrap = Callable[[ExchangeLike], ExchangeLike]

_NAME = re.compile(r"[!-~]{0,128}")


def _nothing() -> None:
    """Nobody has to be told."""


@dataclass(frozen=True, slots=True)
class Question:
    """A request and the terms on which it is answered."""

    request: generation_pb2.Request
    key: KeyRecord
    method: str
    request_id: str
    timeout_s: float
    # The caller's own name for it: there is one of that name, and it is cancelled by it.
    name: str = ""
    provider_key: str | None = field(default=None, repr=False)
    # Called when it is answered with what an earlier one was.
    replayed: Callable[[], None] = _nothing

    @classmethod
    def of(
        cls,
        call: Call,
        method: str,
        request: generation_pb2.Request,
        limits: Limits,
        name: str = "",
    ) -> Question:
        """The question that a call is. Raises `InferenceError` for a name that is none."""
        if not _NAME.fullmatch(name):
            message = "a request id is at most 128 visible ASCII characters"
            raise invalid("request_id", message)
        timeout_s = call.timeout_s(limits.request_timeout_s)
        return cls(
            request,
            call.key,
            method,
            call.request_id,
            timeout_s,
            name=name,
            provider_key=call.provider_key,
            replayed=call.replayed,
        )

    def named(self, attachments: Sequence[bytes] = ()) -> Named:
        """What it is called; `attachments` are the files that were in it."""
        told = digest("", self.request, attachments)
        return Named(
            self.key.owner, self.name, self.request_id, told, self.timeout_s, param="request_id"
        )


class Asking:
    """What the services share of it."""

    def __init__(self, engine: Submits, once: Once, held: Held, reporter: Reporter) -> None:
        self._engine = engine
        self._once = once
        self._held = held
        self._reporter = reporter

    @contextlib.asynccontextmanager
    async def reported(self, question: Question) -> AsyncIterator[Asked]:
        """Inside, the question is answered; however that ends, it is counted and logged."""
        asked = Asked(question.method, question.request_id, question.key)
        error: InferenceError | None = None
        try:
            yield asked
        except InferenceError as exc:
            error = exc
            raise
        except asyncio.CancelledError:
            error = InferenceError("client_gone", "the caller has gone")
            raise
        finally:
            self._reporter.finished(asked, error)

    @contextlib.asynccontextmanager
    async def exchange(
        self, question: Question, request: generation_pb2.Request, wrap: Wrap | None = None
    ) -> AsyncIterator[ExchangeLike]:
        """Inside, `request` runs on the question's terms.

        `wrap` goes around what runs apart from its caller: a question that has a name.
        """
        held = HeldRequest(self._held, question.key.id)
        held.grow(request.ByteSize())
        try:
            async with self._exchange(question, request, wrap) as exchange:
                yield exchange
        finally:
            held.free()

    @contextlib.asynccontextmanager
    async def _exchange(
        self, question: Question, request: generation_pb2.Request, wrap: Wrap | None
    ) -> AsyncIterator[ExchangeLike]:
        attachments = detach(request)

        async def run(timeout_s: float) -> ExchangeLike:
            inner = await self._engine.submit(
                request,
                question.key,
                request_id=question.request_id,
                timeout_s=timeout_s,
                alias=question.name,
                provider_key=question.provider_key,
                attachments=attachments,
            )
            return wrap(inner) if wrap is not None and question.name else inner

        exchange: ExchangeLike
        if question.name:
            exchange = joined = await self._once.submit(question.named(attachments), run)
            if joined.replayed:
                question.replayed()
        else:
            exchange = await run(question.timeout_s)
        try:
            yield exchange
        finally:
            exchange.close()
