"""InferenceService: unary, streamed and bulk inference for programs."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from broker.errors import InferenceError
from broker.keys import KeyRecord
from broker.v1 import generation_pb2
from broker.v1 import inference_service_pb2 as pb
from broker.v1 import inference_service_pb2_grpc as pb_grpc
from edge.auth import Authenticator
from edge.engine import Engine
from edge.exchange import Exchange
from edge.rpc.calls import Context, abort, key_of, new_request_id, time_left
from edge.translate.answer import Fold
from edge.translate.check import check
from edge.translate.rpc_errors import error_details

# Items of one bulk call that run at a time; beyond that the call is not read (backpressure).
MANY_IN_FLIGHT = 256


class InferenceService(pb_grpc.InferenceServiceServicer):
    """See the proto."""

    def __init__(self, engine: Engine, auth: Authenticator, timeout_s: float) -> None:
        self._engine = engine
        self._auth = auth
        self._timeout_s = timeout_s

    async def Infer(  # noqa: N802
        self, request: pb.InferRequest, context: Context
    ) -> pb.InferResponse:
        """One request, one whole answer."""
        key = await key_of(context, self._auth)
        request_id = new_request_id()
        timeout_s = time_left(context, self._timeout_s)
        try:
            answer = await self._answer(
                request.request, key, request_id, timeout_s, alias=request.request_id
            )
        except InferenceError as exc:
            await abort(context, exc)
        return pb.InferResponse(request_id=request.request_id or request_id, answer=answer)

    async def InferStream(  # noqa: N802
        self, request: pb.InferStreamRequest, context: Context
    ) -> AsyncIterator[pb.InferStreamResponse]:
        """One request, its events as they come."""
        key = await key_of(context, self._auth)
        request_id = new_request_id()
        shown_id = request.request_id or request_id
        exchange: Exchange | None = None
        sequence = 0
        try:
            request.request.generate.stream = True
            exchange = await self._submit(
                request.request,
                key,
                request_id,
                time_left(context, self._timeout_s),
                request.request_id,
            )
            while batch := await exchange.next():
                for event in batch:
                    sequence += 1
                    yield pb.InferStreamResponse(
                        request_id=shown_id,
                        sequence=sequence,
                        event=event,
                        answer_id=exchange.answer_id if sequence == 1 else "",
                    )
        except InferenceError as exc:
            await abort(context, exc)
        finally:
            if exchange is not None:
                exchange.close()

    async def InferMany(  # noqa: N802
        self, request_iterator: AsyncIterator[pb.InferManyRequest], context: Context
    ) -> AsyncIterator[pb.InferManyResponse]:
        """Many requests, results in completion order."""
        key = await key_of(context, self._auth)
        # A slow reader of results keeps their places, and so stops the reading of requests.
        places = asyncio.Semaphore(MANY_IN_FLIGHT)
        results: asyncio.Queue[pb.InferManyResponse | None] = asyncio.Queue()
        running: set[asyncio.Task[None]] = set()

        async def one(item: pb.InferManyRequest) -> None:
            results.put_nowait(await self._item(item, key, time_left(context, self._timeout_s)))

        async def read() -> None:
            async for item in request_iterator:
                await places.acquire()
                task = asyncio.create_task(one(item), name="bulk item")
                running.add(task)
                task.add_done_callback(running.discard)
            if running:
                await asyncio.wait(set(running))
            results.put_nowait(None)

        reader = asyncio.create_task(read(), name="bulk call")
        try:
            while (result := await results.get()) is not None:
                yield result
                places.release()
        finally:
            tasks = {reader, *running}
            for task in tasks:
                task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.gather(*tasks, return_exceptions=True)

    async def CancelInference(  # noqa: N802
        self, request: pb.CancelInferenceRequest, context: Context
    ) -> pb.CancelInferenceResponse:
        """Cancel a running request of the same tenant."""
        key = await key_of(context, self._auth)
        found = self._engine.cancel(request.request_id, key.tenant)
        outcomes = pb.CancelInferenceResponse
        return pb.CancelInferenceResponse(
            outcome=outcomes.OUTCOME_CANCELLED if found else outcomes.OUTCOME_NOT_FOUND
        )

    async def _item(
        self, item: pb.InferManyRequest, key: KeyRecord, timeout_s: float
    ) -> pb.InferManyResponse:
        """One item of a bulk call; its error is in-band, so that the call lives on."""
        try:
            answer = await self._answer(item.request, key, new_request_id(), timeout_s)
        except InferenceError as exc:
            return pb.InferManyResponse(custom_id=item.custom_id, error=error_details(exc))
        return pb.InferManyResponse(custom_id=item.custom_id, answer=answer)

    async def _answer(
        self,
        request: generation_pb2.Request,
        key: KeyRecord,
        request_id: str,
        timeout_s: float,
        *,
        alias: str = "",
    ) -> pb.Answer:
        """The whole answer to a request."""
        if request.generate.stream:
            request.generate.stream = False
        exchange = await self._submit(request, key, request_id, timeout_s, alias)
        fold = Fold()
        try:
            while batch := await exchange.next():
                fold.feed(batch)
        finally:
            exchange.close()
        return fold.answer(exchange.answer_id, exchange.created)

    async def _submit(
        self,
        request: generation_pb2.Request,
        key: KeyRecord,
        request_id: str,
        timeout_s: float,
        alias: str,
    ) -> Exchange:
        check(request)
        request.generate.surface = generation_pb2.SURFACE_GRPC
        return await self._engine.submit(
            request, key, request_id=request_id, timeout_s=timeout_s, alias=alias
        )
