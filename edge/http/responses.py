"""POST /v1/responses and GET /v1/responses/{id}: answered, streamed, kept, run in the background.

A response that is to be kept is stored before its caller is told that it is complete.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from starlette.datastructures import QueryParams
from starlette.types import Receive, Scope, Send

from broker.errors import InferenceError
from broker.translate.form import Answer, Stream
from broker.translate.forms import RESPONSE, RESPONSE_TOKENS
from broker.translate.refusals import invalid
from broker.translate.responses_answer import ResponsesAnswer
from broker.translate.responses_object import render
from broker.translate.responses_request import as_responses
from broker.translate.responses_stream import ResponsesStream
from broker.v1 import generation_pb2
from broker.wallclock import now
from edge.auth import authorization
from edge.http.call import Call
from edge.http.follow import follow
from edge.http.inference import Asked, InferenceRoute, Ingress, as_error
from edge.http.reply import JSON_TYPE
from edge.responses.keeping import Keeping
from edge.responses.service import ResponseService
from edge.responses.turn import Turn
from edge.seams import ExchangeLike

_FLAGS = {"true": True, "1": True, "false": False, "0": False}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked(Asked):
    """A request with what it goes on from."""

    turn: Turn


class CreateResponse(InferenceRoute):
    """POST /v1/responses."""

    def __init__(self, ingress: Ingress, service: ResponseService) -> None:
        super().__init__(RESPONSE, ingress)
        self._engine = service.tools
        self._service = service

    async def _answer(self, call: Call, asked: Asked, send: Send) -> None:
        try:
            turn = await self._service.turn(asked.request, asked.key)
            whole = _Asked(asked.request, asked.key, asked.timeout_s, named=asked.named, turn=turn)
            if turn.background:
                await self._background(call, whole, send)
            else:
                await super()._answer(call, whole, send)
        except InferenceError as exc:
            raise as_responses(exc) from exc

    async def _run(self, call: Call, asked: Asked, timeout_s: float) -> ExchangeLike:
        assert isinstance(asked, _Asked)  # noqa: S101  # `_answer` made it
        whole = Asked(asked.turn.whole, asked.key, asked.timeout_s)
        return await super()._run(call, whole, timeout_s)

    async def _run_named(self, call: Call, asked: Asked, timeout_s: float) -> ExchangeLike:
        assert isinstance(asked, _Asked)  # noqa: S101  # `_answer` made it
        inner = await self._run(call, asked, timeout_s)
        return Keeping(inner, self._service, asked.turn)

    async def _body(self, call: Call, asked: Asked, answer: Answer) -> bytes:
        assert isinstance(asked, _Asked)  # noqa: S101  # `_answer` made it
        assert isinstance(answer, ResponsesAnswer)  # noqa: S101  # the form's
        record = answer.stored(completed_at=call.stored_at or now())
        if not call.stored_at:  # else it may be deleted by now
            await self._service.finish(asked.turn, record)
        return answer.render()

    async def _last(self, call: Call, asked: Asked, events: Stream) -> bytes:
        assert isinstance(asked, _Asked)  # noqa: S101  # `_answer` made it
        assert isinstance(events, ResponsesStream)  # noqa: S101  # the form's
        try:
            record = events.stored(completed_at=call.stored_at or now())
            if not call.stored_at:
                await self._service.finish(asked.turn, record)
        except InferenceError as exc:
            # Behind the events that are ready to be sent.
            call.reason = exc.reason
            return events.error(exc)
        return events.finish()

    async def _broken(
        self, call: Call, asked: Asked, events: Stream, error: InferenceError
    ) -> bytes | None:
        assert isinstance(asked, _Asked)  # noqa: S101  # `_answer` made it
        assert isinstance(events, ResponsesStream)  # noqa: S101  # the form's
        if events.begun and not call.named:
            record = events.stored(completed_at=now(), error=error)
            await self._service.finish_failed(asked.turn, record)
        return events.error(error)

    async def _background(self, call: Call, asked: _Asked, send: Send) -> None:
        stream = asked.request.generate.stream
        if stream:
            call.streamed = True
            self._streams.take(asked.key.id)
        try:
            begun = await self._service.start_background(
                asked.turn,
                own_provider_key=call.provider_key() is not None,
                watched=stream,
                named=asked.named,
            )
            call.replayed = begun.replayed
            if stream:
                await follow(call, send, self._limits, self._service, begun.record)
            else:
                await _reply(call, render(begun.record), send)
        finally:
            if stream:
                self._streams.free(asked.key.id)


class CountInput(InferenceRoute):
    """POST /v1/responses/input_tokens: how many tokens a request is, with what it goes on from."""

    def __init__(self, ingress: Ingress, service: ResponseService) -> None:
        super().__init__(RESPONSE_TOKENS, ingress)
        self._service = service

    async def _answer(self, call: Call, asked: Asked, send: Send) -> None:
        try:
            turn = await self._service.turn(asked.request, asked.key)
            request = generation_pb2.Request(
                count_tokens=turn.whole.generate, platform=turn.whole.platform
            )
            counted = Asked(request, asked.key, asked.timeout_s, named=asked.named)
            await super()._answer(call, counted, send)
        except InferenceError as exc:
            raise as_responses(exc) from exc


class ReadResponse(InferenceRoute):
    """GET /v1/responses/{response_id}."""

    def __init__(self, ingress: Ingress, service: ResponseService) -> None:
        super().__init__(RESPONSE, ingress)
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        call = Call(scope)
        try:
            call.watch()
            await self._read(call, scope, send)
        except (Exception, asyncio.CancelledError) as exc:  # noqa: BLE001  all becomes a reply
            await self._refuse(call, as_error(exc, call), send)
        finally:
            call.connection.unwatch()
            self._reporter.finished(call)

    async def _read(self, call: Call, scope: Scope, send: Send) -> None:
        key = call.key = await self._auth.authenticate(authorization(call.headers))
        query = QueryParams(scope["query_string"])
        name = scope["path_params"]["response_id"]
        stream, after = _flag(query, "stream"), _number(query, "starting_after")
        obfuscation = _flag(query, "include_obfuscation")
        if not stream:
            record = await self._service.get(key.owner, name)
            include = query.getlist("include") + query.getlist("include[]")
            record.request.generate.responses.include.extend(include)
            await _reply(call, render(record), send)
            return
        record = await self._service.get_log(key.owner, name)
        call.streamed = True
        with self._streams.one(key.id):
            await follow(
                call,
                send,
                self._limits,
                self._service,
                record,
                starting_after=-1 if after is None else after,
                obfuscation=obfuscation,
            )


async def _reply(call: Call, body: bytes, send: Send) -> None:
    headers = [*call.answer_headers(None), JSON_TYPE, (b"content-length", b"%d" % len(body))]
    call.started = True
    call.status = 200
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})


def _flag(query: QueryParams, name: str) -> bool | None:
    given = query.get(name)
    if given is None:
        return None
    if given.lower() not in _FLAGS:
        raise invalid(name, f"Invalid '{name}': expected true or false.")
    return _FLAGS[given.lower()]


def _number(query: QueryParams, name: str) -> int | None:
    given = query.get(name)
    if given is None:
        return None
    if not given.isascii() or not given.isdigit():
        raise invalid(name, f"Invalid '{name}': expected a number of at least 0.")
    return int(given)
