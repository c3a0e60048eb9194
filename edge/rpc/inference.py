"""InferenceService: unary, streamed and bulk inference for programs."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace

from broker import operations
from broker.answer import Fold
from broker.config import Limits
from broker.errors import InferenceError
from broker.translate.check import check
from broker.translate.refusals import missing
from broker.translate.vectors import read_vectors
from broker.v1 import generation_pb2
from broker.v1 import inference_service_pb2 as pb
from broker.v1 import inference_service_pb2_grpc as pb_grpc
from edge.engine import Engine
from edge.http.reply import new_request_id
from edge.openstreams import OpenStreams
from edge.rpc.asking import Asking, Question
from edge.rpc.bulk import Bulk
from edge.rpc.calls import Call, Calls, Context, status_of, unexpected, write
from edge.rpc.report import Asked
from edge.seams import ExchangeLike


class InferenceService(pb_grpc.InferenceServiceServicer):
    """See the proto."""

    def __init__(
        self,
        engine: Engine,
        asking: Asking,
        calls: Calls,
        limits: Limits,
        streams: OpenStreams,
    ) -> None:
        self._engine = engine
        self._asking = asking
        self._calls = calls
        self._limits = limits
        self._streams = streams

    async def Infer(  # noqa: N802
        self, request: pb.InferRequest, context: Context
    ) -> pb.InferResponse:
        """One request, one whole answer."""
        async with self._calls.call(context, request) as call:
            question = self._question(call, "Infer", request)
            return pb.InferResponse(
                request_id=request.request_id or call.request_id,
                answer=await self._answer(question),
            )

    async def InferStream(  # type: ignore[override]  # noqa: N802
        self, request: pb.InferStreamRequest, context: Context
    ) -> None:
        """One request, its events as they come."""
        async with self._calls.call(context, request) as call:
            question = self._question(call, "InferStream", request)
            self._streams.take(call.key.id)
            try:
                await self._stream(question, request.request_id or call.request_id, context)
            finally:
                self._streams.free(call.key.id)

    async def InferMany(  # type: ignore[override]  # noqa: N802
        self, requests: AsyncIterator[pb.InferManyRequest], context: Context
    ) -> None:
        """Many requests, results in completion order."""
        bulk = Bulk(context)
        try:
            async with self._calls.call(context, requests, bulk.discard) as call:

                async def answer(item: pb.InferManyRequest) -> pb.InferManyResponse:
                    return await self._item(item, call)

                await bulk.run(answer)
        finally:
            await bulk.close()

    async def CancelInference(  # noqa: N802
        self, request: pb.CancelInferenceRequest, context: Context
    ) -> pb.CancelInferenceResponse:
        """Cancel a running request of the same owner."""
        async with self._calls.call(context, request) as call:
            if not request.request_id:
                raise missing("request_id")
            found = self._engine.cancel(request.request_id, call.key.owner)
            outcomes = pb.CancelInferenceResponse
            return pb.CancelInferenceResponse(
                outcome=outcomes.OUTCOME_CANCELLED if found else outcomes.OUTCOME_NOT_FOUND
            )

    def _question(
        self, call: Call, method: str, request: pb.InferRequest | pb.InferStreamRequest
    ) -> Question:
        return Question.of(call, method, request.request, self._limits, request.request_id)

    async def _stream(self, question: Question, shown_id: str, context: Context) -> None:
        sequence = 0
        async with self._exchange(question, streamed=True) as (exchange, asked):
            while batch := await exchange.next():
                asked.note(batch)
                read_vectors(question.request, batch)
                for event in batch:
                    sequence += 1
                    response = pb.InferStreamResponse(
                        request_id=shown_id,
                        sequence=sequence,
                        event=event,
                        answer_id=exchange.answer_id if sequence == 1 else "",
                    )
                    await write(context, response, self._limits.slow_reader_s)

    async def _item(self, item: pb.InferManyRequest, call: Call) -> pb.InferManyResponse:
        """The result of one item of a bulk call; its error is in-band, so that the call lives."""
        request_id = new_request_id()
        result = pb.InferManyResponse(custom_id=item.custom_id)

        def replayed() -> None:
            result.replayed = True

        try:
            await call.authenticate()
            question = Question.of(call, "InferMany", item.request, self._limits, item.request_id)
            question = replace(question, request_id=request_id, replayed=replayed)
            _require_custom_id(item)
            result.answer.CopyFrom(await self._answer(question))
            return result
        except InferenceError as exc:
            error = exc
        except Exception as exc:  # noqa: BLE001  a bug fails its item, not the call
            error = unexpected(exc, request_id)
        return pb.InferManyResponse(custom_id=item.custom_id, error=status_of(error, request_id))

    async def _answer(self, question: Question) -> pb.Answer:
        """The whole answer to a request."""
        fold = Fold(pictures=question.request.HasField("image"))
        async with self._exchange(question, streamed=False) as (exchange, asked):
            while batch := await exchange.next():
                asked.note(batch)
                read_vectors(question.request, batch)
                fold.feed(batch)
            return fold.answer(exchange.answer_id, exchange.created)

    @contextlib.asynccontextmanager
    async def _exchange(
        self, question: Question, *, streamed: bool
    ) -> AsyncIterator[tuple[ExchangeLike, Asked]]:
        """A request while it runs."""
        request = question.request
        async with self._asking.reported(question) as asked:
            check(request, streamed=streamed)
            # The method that was called decides, whatever the request says.
            operations.set_streamed(request, streamed)
            if request.HasField("generate"):
                request.generate.surface = generation_pb2.SURFACE_GRPC
            async with self._asking.exchange(question, request) as exchange:
                yield exchange, asked


def _require_custom_id(item: pb.InferManyRequest) -> None:
    if not item.custom_id:
        raise missing("custom_id")
