"""Asks the engine for gRPC callers: one request while it runs, reported when it ends."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from google.protobuf.message import Message

from broker.config import Limits
from broker.errors import InferenceError
from broker.keys import KeyRecord
from broker.translate.attachments import detach
from broker.v1 import generation_pb2
from edge.rpc.calls import Call, Context
from edge.rpc.report import Asked, Reporter
from edge.seams import ExchangeLike, Submits


@dataclass(frozen=True, slots=True)
class Question:
    """A request and the terms on which it is answered."""

    request: generation_pb2.Request
    key: KeyRecord
    method: str
    request_id: str
    timeout_s: float
    alias: str = ""
    provider_key: str | None = field(default=None, repr=False)

    @classmethod
    def of(
        cls, call: Call, method: str, request: generation_pb2.Request, limits: Limits
    ) -> Question:
        """The question that a call is."""
        timeout_s = call.timeout_s(limits.request_timeout_s)
        return cls(
            request,
            call.key,
            method,
            call.request_id,
            timeout_s,
            provider_key=call.provider_key,
        )


class Asking:
    """What the services share of it."""

    def __init__(self, engine: Submits, limits: Limits, reporter: Reporter) -> None:
        self._engine = engine
        self._patience_s = limits.slow_reader_s
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
        self, question: Question, request: generation_pb2.Request
    ) -> AsyncIterator[ExchangeLike]:
        """Inside, `request` runs on the question's terms."""
        attachments = detach(request)
        exchange = await self._engine.submit(
            request,
            question.key,
            request_id=question.request_id,
            timeout_s=question.timeout_s,
            alias=question.alias,
            provider_key=question.provider_key,
            attachments=attachments,
        )
        try:
            yield exchange
        finally:
            exchange.close()

    async def write(self, context: Context, response: Message) -> None:
        """Write one message; who does not read holds a provider's connection, so not for ever."""
        try:
            async with asyncio.timeout(self._patience_s):
                await context.write(response)
        except TimeoutError as exc:
            message = f"the client did not read for {self._patience_s:g} s"
            raise InferenceError("client_gone", message) from exc
