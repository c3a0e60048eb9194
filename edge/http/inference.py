"""One inference request per POST, as raw ASGI routes: FastAPI's fixed price is twice their own."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from starlette.types import Receive, Scope, Send

from broker import operations
from broker.config import Limits
from broker.errors import InferenceError
from broker.keys import KeyRecord
from broker.translate import router_metadata
from broker.translate.form import EVENT_STREAM, JSON, Answer, Form, MakeStream, Stream
from broker.translate.multipart import boundary_of
from broker.v1 import event_pb2, generation_pb2
from edge.auth import Authenticator, authorization
from edge.claims import Named, digest
from edge.held import Held, HeldRequest
from edge.http.body import ClientGoneError, Hold, read_json_body
from edge.http.call import Call, Reporter
from edge.http.form_body import read_form
from edge.http.reply import error_reply
from edge.http.stream import EventStream
from edge.once import Once
from edge.openstreams import OpenStreams
from edge.seams import EngineLike, ExchangeLike, Submits

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Ingress:
    """What all routes share."""

    engine: EngineLike
    auth: Authenticator
    limits: Limits
    streams: OpenStreams
    reporter: Reporter
    held: Held
    # None: idempotency keys are not looked at.
    once: Once | None = None


@dataclass(frozen=True, slots=True)
class Asked:
    """A request, who asks, and how long they wait."""

    request: generation_pb2.Request
    key: KeyRecord
    timeout_s: float
    # What references in the request count (R10).
    attachments: Sequence[bytes | memoryview] = ()
    # With the name that its caller gave it, if any.
    named: Named | None = None


class InferenceRoute:
    """One path: requests and answers of one form, streamed and whole."""

    def __init__(self, form: Form, ingress: Ingress) -> None:
        self._form = form
        self._engine: Submits = ingress.engine
        self._auth = ingress.auth
        self._limits = ingress.limits
        self._streams = ingress.streams
        self._reporter = ingress.reporter
        self._held = ingress.held
        self._once = ingress.once

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        call = Call(scope, self._form.request_id)
        try:
            try:
                await self._serve(call, receive, send)
            except (Exception, asyncio.CancelledError) as exc:  # noqa: BLE001  all becomes a reply
                await self._refuse(call, as_error(exc, call), send)
        finally:
            call.connection.unwatch()
            if call.held is not None:
                call.held.free()
            self._reporter.finished(call)

    async def _serve(self, call: Call, receive: Receive, send: Send) -> None:
        key = call.key = await self._auth.authenticate(authorization(call.headers))
        call.held = held = HeldRequest(self._held, key.id)
        timeout_s = call.timeout_s(self._limits.request_timeout_s)
        request, attachments = await self._received(call, receive, timeout_s, held.grow)
        # Before headers come to it: those of a second try may be others.
        named = self._named(call, request, attachments, timeout_s)
        asked = Asked(request, key, timeout_s, attachments, named)
        call.pass_on_headers(asked.request.platform)
        if router_metadata.wanted(call.headers):
            router_metadata.ask(asked.request)
        await self._answer(call, asked, send)

    def _named(
        self,
        call: Call,
        request: generation_pb2.Request,
        attachments: Sequence[bytes | memoryview],
        timeout_s: float,
    ) -> Named | None:
        name = call.idempotency_key()
        if name is None or call.key is None:
            return None
        told = digest(self._form.title, request, attachments)
        return Named(call.key.owner, name, call.request_id, told, timeout_s)

    async def _received(
        self, call: Call, receive: Receive, timeout_s: float, hold: Hold
    ) -> tuple[generation_pb2.Request, Sequence[bytes | memoryview]]:
        limit, parse = self._limits.max_body_bytes, self._form.parse_form
        if parse is not None:
            boundary = boundary_of(call.headers.get(b"content-type", b""))
            if boundary is not None:
                form = await read_form(
                    call.headers, receive, boundary, limit=limit, timeout_s=timeout_s, hold=hold
                )
                call.watch()
                return parse(form), form.contents
        body = await read_json_body(
            call.headers,
            receive,
            limit=limit,
            timeout_s=timeout_s,
            hold=hold,
            arrived=call.connection.arrived,
        )
        call.watch()
        return self._form.parse(body), ()

    async def _answer(self, call: Call, asked: Asked, send: Send) -> None:
        make = self._form.stream
        if make is not None and operations.streams(asked.request):
            call.streamed = True
            self._streams.take(asked.key.id)
            try:
                await self._stream(call, asked, send, make)
            finally:
                self._streams.free(asked.key.id)
        else:
            await self._whole(call, asked, send)

    async def _whole(self, call: Call, asked: Asked, send: Send) -> None:
        exchange = await self._submit(call, asked)
        started = None
        try:
            answer = self._form.answer(exchange.answer_id, exchange.created, asked.request)
            while not call.ended():
                batch = await exchange.next()
                started = call.note(batch) or started
                answer.feed(batch)
        finally:
            exchange.close()
        body = await self._body(call, asked, answer)
        told = asked.request.platform.tell_routing and call.routing
        if told and isinstance(body, bytes) and answer.content_type == JSON:
            body = router_metadata.in_body(body, call.routing)
        headers = call.answer_headers(started, exchange.route)
        headers.append((b"content-type", answer.content_type))
        if isinstance(body, bytes):
            headers.append((b"content-length", b"%d" % len(body)))
        call.started = True
        call.status = 200
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        if not isinstance(body, bytes):
            await self._send_pieces(call, body, send)
            body = b""
        await send({"type": "http.response.body", "body": body, "more_body": False})

    async def _send_pieces(self, call: Call, pieces: Iterator[bytes], send: Send) -> None:
        """Send a body piece by piece, as fast as the client reads."""
        for piece in pieces:
            try:
                async with asyncio.timeout(self._limits.slow_reader_s):
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
            except TimeoutError as exc:
                call.connection.abort()
                raise InferenceError("client_gone", "the client did not read") from exc
            if call.gone:
                raise InferenceError("client_gone", "the client has left")

    async def _body(self, _call: Call, _asked: Asked, answer: Answer) -> bytes | Iterator[bytes]:
        """The body of a whole answer that is complete."""
        return answer.render()

    async def _last(self, _call: Call, _asked: Asked, events: Stream) -> bytes:
        """The end of a streamed answer that is complete."""
        return events.finish()

    async def _broken(
        self, _call: Call, _asked: Asked, events: Stream, error: InferenceError
    ) -> bytes | None:
        """The end of a streamed answer that failed; None where no bytes can tell that."""
        return events.error(error)

    async def _stream(self, call: Call, asked: Asked, send: Send, make: MakeStream) -> None:
        exchange = await self._submit(call, asked)
        events = make(exchange.answer_id, exchange.created, asked.request)
        out = EventStream(call, send, self._limits, events)
        try:
            await self._pass_on(call, asked, exchange, events, out)
        except (Exception, asyncio.CancelledError) as exc:
            if not out.open:
                raise
            error = as_error(exc, call)
            call.failed(error)
            last = await self._broken(call, asked, events, error)
            if last is None:
                raise error from exc
            await out.write(last, last=True)
        finally:
            exchange.close()
            out.close()

    async def _pass_on(
        self, call: Call, asked: Asked, exchange: ExchangeLike, events: Stream, out: EventStream
    ) -> None:
        """Write what comes until the answer is complete."""
        started = None

        def take(batch: Sequence[event_pb2.Event]) -> bool:
            if not out.clear:
                return False
            if data := events.feed(batch):
                out.put(data)
            return True

        while not call.ended():
            batch = await exchange.next()
            started = call.note(batch) or started
            data = events.feed(batch)
            if call.ended():
                last = await self._last(call, asked, events)
                told = asked.request.platform.tell_routing and call.routing
                if told and events.content_type == EVENT_STREAM:
                    last = router_metadata.in_events(last, call.routing)
                data += last
            if not data and not call.ended():
                continue
            if not call.first_s:
                call.first_s = call.elapsed()
            if not call.started:
                await out.start(call.answer_headers(started, exchange.route))
            await out.write(data, last=call.ended())
            exchange.divert(take)

    async def _submit(self, call: Call, asked: Asked) -> ExchangeLike:
        """The exchange of a request, or the answer of the one that has its name."""
        if asked.named is None or self._once is None:
            call.exchange = await self._run(call, asked, asked.timeout_s)
            return call.exchange
        call.named = True
        joined = await self._once.submit(asked.named, partial(self._run_named, call, asked))
        call.exchange, call.replayed = joined, joined.replayed
        return joined

    async def _run(self, call: Call, asked: Asked, timeout_s: float) -> ExchangeLike:
        return await self._engine.submit(
            asked.request,
            asked.key,
            request_id=call.request_id,
            timeout_s=timeout_s,
            provider_key=call.provider_key(),
            attachments=asked.attachments,
        )

    async def _run_named(self, call: Call, asked: Asked, timeout_s: float) -> ExchangeLike:
        """Run it for all who send it, some of whom may be there when its caller is not."""
        return await self._run(call, asked, timeout_s)

    async def _refuse(self, call: Call, error: InferenceError, send: Send) -> None:
        """Tell the caller, where that is still possible."""
        told = call.failed(error)
        if error.reason == "client_gone":
            call.status = call.status or error.row.http
        elif call.started:
            call.connection.abort()  # a reply that broke off must not look complete
        else:
            form = self._form
            body = form.error(error, call.request_id)
            _, headers, body = error_reply(error, call.request_id, body)
            headers += told
            status = form.status(error)
            call.started = True
            call.status = status
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": body, "more_body": False})


def as_error(exc: BaseException, call: Call) -> InferenceError:
    """The error that the caller is told."""
    if isinstance(exc, InferenceError):
        return exc
    if call.gone or isinstance(exc, ClientGoneError):
        return InferenceError("client_gone", "the client has left")
    if isinstance(exc, asyncio.CancelledError):  # the server ends what outlived its grace period
        return InferenceError(
            "draining", "the server was shut down before the answer was complete", retry_after=1.0
        )
    _log.error("request failed", exc_info=exc, extra={"request_id": call.request_id})
    return InferenceError("internal", "something went wrong here; the request id says where")
