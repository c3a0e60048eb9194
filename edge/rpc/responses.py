"""ResponsesService and ConversationsService: what is kept of answers, for programs."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator
from functools import partial

from broker import durable, operations
from broker.answer import Fold
from broker.config import Limits
from broker.errors import InferenceError
from broker.translate.check_response import check_response
from broker.translate.refusals import invalid
from broker.translate.responses_object import finished
from broker.translate.rpc_responses import Steps, response
from broker.v1 import generation_pb2, stored_pb2
from broker.v1 import inference_service_pb2 as pb_inference
from broker.v1 import responses_service_pb2 as pb
from broker.v1 import responses_service_pb2_grpc as pb_grpc
from broker.wallclock import now
from edge.openstreams import OpenStreams
from edge.responses.keeping import Keeping
from edge.responses.service import ResponseService
from edge.responses.turn import Turn
from edge.rpc.asking import Asking, Question, Wrap
from edge.rpc.calls import Call, Calls, Context, write
from edge.rpc.report import Asked


class ResponsesService(pb_grpc.ResponsesServiceServicer):
    """See the proto."""

    def __init__(
        self,
        responses: ResponseService,
        asking: Asking,
        calls: Calls,
        limits: Limits,
        streams: OpenStreams,
    ) -> None:
        self._responses = responses
        self._asking = asking
        self._calls = calls
        self._limits = limits
        self._streams = streams

    async def CreateResponse(  # noqa: N802
        self, request: pb.CreateResponseRequest, context: Context
    ) -> pb.CreateResponseResponse:
        """One response, whole or queued."""
        async with self._calls.call(context, request) as call:
            question = self._question(call, "CreateResponse", request)
            async with self._asking.reported(question) as asked:
                turn = await self._turn(question, streamed=False)
                if turn.background:
                    record = await self._queue(question, turn, watched=False)
                else:
                    record = await self._answer(question, turn, asked)
                return pb.CreateResponseResponse(response=response(record))

    async def StreamResponse(  # type: ignore[override]  # noqa: N802
        self, request: pb.StreamResponseRequest, context: Context
    ) -> None:
        """One response as it comes."""
        async with self._calls.call(context, request) as call:
            question = self._question(call, "StreamResponse", request)
            async with self._asking.reported(question) as asked:
                with self._streams.one(call.key.id):
                    turn = await self._turn(question, streamed=True)
                    if turn.background:
                        record = await self._queue(question, turn, watched=True)
                        steps = self._follow(record, 0)
                    else:
                        steps = self._live(question, turn, asked)
                    async with contextlib.aclosing(steps):
                        async for step in steps:
                            shown = pb.StreamResponseResponse(step=step)
                            await write(context, shown, self._limits.slow_reader_s)

    async def GetResponse(  # noqa: N802
        self, request: pb.GetResponseRequest, context: Context
    ) -> pb.GetResponseResponse:
        """A response in its state."""
        async with self._calls.call(context, request) as call:
            record = await self._responses.get(call.key.owner, request.response_id)
            return pb.GetResponseResponse(response=response(record))

    async def FollowResponse(  # type: ignore[override]  # noqa: N802
        self, request: pb.FollowResponseRequest, context: Context
    ) -> None:
        """A background response's steps behind one of them."""
        async with self._calls.call(context, request) as call:
            if request.starting_after < 0:
                message = "Invalid 'starting_after': expected a number of at least 0."
                raise invalid("starting_after", message)
            with self._streams.one(call.key.id):
                record = await self._responses.get_log(call.key.owner, request.response_id)
                steps = self._follow(record, request.starting_after)
                async with contextlib.aclosing(steps):
                    async for step in steps:
                        shown = pb.FollowResponseResponse(step=step)
                        await write(context, shown, self._limits.slow_reader_s)

    async def CancelResponse(  # noqa: N802
        self, request: pb.CancelResponseRequest, context: Context
    ) -> pb.CancelResponseResponse:
        """Cancel a background response."""
        async with self._calls.call(context, request) as call:
            record = await self._responses.cancel(call.key.owner, request.response_id)
            return pb.CancelResponseResponse(response=response(record))

    async def DeleteResponse(  # noqa: N802
        self, request: pb.DeleteResponseRequest, context: Context
    ) -> pb.DeleteResponseResponse:
        """Forget a response."""
        async with self._calls.call(context, request) as call:
            await self._responses.delete(call.key.owner, request.response_id)
            return pb.DeleteResponseResponse()

    async def ListInputItems(  # noqa: N802
        self, request: pb.ListInputItemsRequest, context: Context
    ) -> pb.ListInputItemsResponse:
        """A response's own input."""
        async with self._calls.call(context, request) as call:
            record = await self._responses.get(call.key.owner, request.response_id)
            return pb.ListInputItemsResponse(messages=record.request.generate.messages)

    def _question(
        self,
        call: Call,
        method: str,
        request: pb.CreateResponseRequest | pb.StreamResponseRequest,
    ) -> Question:
        return Question.of(call, method, request.request, self._limits, request.request_id)

    async def _turn(self, question: Question, *, streamed: bool) -> Turn:
        request = question.request
        check_response(request, streamed=streamed)
        operations.set_streamed(request, streamed)
        request.generate.surface = generation_pb2.SURFACE_RESPONSES
        return await self._responses.turn(request, question.key)

    async def _queue(
        self, question: Question, turn: Turn, *, watched: bool
    ) -> stored_pb2.StoredResponse:
        begun = await self._responses.start_background(
            turn,
            own_provider_key=question.provider_key is not None,
            watched=watched,
            named=question.named() if question.name else None,
        )
        if begun.replayed:
            question.replayed()
        return begun.record

    async def _answer(
        self, question: Question, turn: Turn, asked: Asked
    ) -> stored_pb2.StoredResponse:
        fold = Fold()
        async with self._asking.exchange(question, turn.whole, self._keeping(turn)) as exchange:
            while batch := await exchange.next():
                asked.note(batch)
                fold.feed(batch)
        return await self._finished(asked, turn, fold.answer(exchange.answer_id, exchange.created))

    def _keeping(self, turn: Turn) -> Wrap:
        return partial(Keeping, responses=self._responses, turn=turn)

    async def _finished(
        self, asked: Asked, turn: Turn, answer: pb_inference.Answer
    ) -> stored_pb2.StoredResponse:
        """The record of a response that is complete, stored by now."""
        record = finished(turn.own, answer)
        record.completed_at = asked.stored_at or now()
        if not asked.stored_at:  # else it may be deleted by now
            await self._responses.finish(turn, record)
        return record

    async def _live(
        self, question: Question, turn: Turn, asked: Asked
    ) -> AsyncGenerator[pb.ResponseStep, None]:
        """The steps of a response that ends with its call; one that fails is kept as that."""
        fold, steps = Fold(), Steps()
        async with self._asking.exchange(question, turn.whole, self._keeping(turn)) as exchange:
            record = stored_pb2.StoredResponse(
                id=exchange.answer_id,
                created_at=exchange.created,
                status=stored_pb2.RESPONSE_STATUS_IN_PROGRESS,
                request=turn.own,
            )
            begun = False
            try:
                while batch := await exchange.next():
                    asked.note(batch)
                    fold.feed(batch)
                    for step in () if begun else steps.response(record):
                        begun = True
                        yield step
                    for event in batch:
                        if not event.HasField("completed"):
                            for step in steps.event(event):
                                yield step
                answer = fold.answer(exchange.answer_id, exchange.created)
                record = await self._finished(asked, turn, answer)
            except InferenceError as exc:
                if begun and not question.name:
                    record = finished(turn.own, fold.answer(exchange.answer_id, exchange.created))
                    durable.fail(record, exc, now())
                    await self._responses.finish_failed(turn, record)
                raise
        for step in steps.response(record):
            yield step

    async def _follow(
        self, record: stored_pb2.StoredResponse, starting_after: int
    ) -> AsyncGenerator[pb.ResponseStep, None]:
        """The steps of a background response, from the log."""
        steps = Steps(starting_after)
        queued = stored_pb2.StoredResponse(
            id=record.id,
            created_at=record.created_at,
            status=stored_pb2.RESPONSE_STATUS_QUEUED,
            request=record.request,
        )
        for step in steps.response(queued):
            yield step
        log = self._responses.follow(record.owner, record.id)
        async with contextlib.aclosing(log):
            async for found in log:
                if isinstance(found, stored_pb2.StoredResponse):
                    for step in steps.response(found):
                        yield step
                    return
                for event in found:
                    for step in steps.event(event):
                        yield step
