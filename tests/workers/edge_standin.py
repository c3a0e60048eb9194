"""An edge's delivery service that does only what a test tells it to, over real gRPC."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc

from broker.v1 import delivery_service_pb2 as pb
from broker.v1 import delivery_service_pb2_grpc as pb_grpc
from broker.v1 import event_pb2

TOKEN = "fleet-token"


async def until(check: Callable[[], Any], what: str, timeout_s: float = 5) -> None:
    try:
        async with asyncio.timeout(timeout_s):
            while not check():
                await asyncio.sleep(0.002)
    except TimeoutError:
        raise AssertionError(f"not within {timeout_s} s: {what}") from None


class EdgeStandIn(pb_grpc.DeliveryServiceServicer):
    """Reads what workers send unless told to stop, and sends what the test says."""

    def __init__(self) -> None:
        self.messages: list[pb.DeliverRequest] = []
        self.frames: list[pb.Frame] = []
        self.hellos: list[pb.Hello] = []
        self.ended = 0
        self.reading = asyncio.Event()
        self.reading.set()
        self.on_claim: Callable[[int, pb.Claim], Awaitable[None]] | None = self.grant
        self.credit = 1 << 20
        self.body: list[bytes] | grpc.StatusCode = []
        self.port = 0
        self._server: grpc.aio.Server | None = None
        self._contexts: list[Any] = []
        self._saying = asyncio.Lock()

    async def start(self, port: int = 0) -> None:
        options = [("grpc.max_receive_message_length", 72 << 20), ("grpc.so_reuseport", 0)]
        self._server = grpc.aio.server(options=options)
        pb_grpc.add_DeliveryServiceServicer_to_server(self, self._server)
        self.port = self._server.add_insecure_port(f"127.0.0.1:{port}")
        await self._server.start()

    async def stop(self) -> None:
        if self._server is not None:
            await self._server.stop(0)
            self._server = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def say(self, *controls: pb.Control) -> None:
        """One message to the newest link."""
        async with self._saying:  # a call takes one message at a time
            await self._contexts[-1].write(pb.DeliverResponse(controls=controls))

    async def grant(self, number: int, claim: pb.Claim) -> None:
        grant = pb.Grant(remaining_ms=60_000, credit_bytes=self.credit)
        await self.say(pb.Control(session=number, grant=grant))

    async def kill(self, number: int, reason: str = "cancelled") -> None:
        await self.say(pb.Control(session=number, kill=pb.Kill(reason=reason)))

    def events(self, number: int) -> list[event_pb2.Event]:
        """What came on a session."""
        return [e for f in self.frames if f.session == number for e in f.events.events]

    def kinds(self, number: int) -> list[str]:
        """The steps of a session, in order."""
        found: list[str] = []
        for frame in self.frames:
            if frame.session == number:
                kind = frame.WhichOneof("payload") or ""
                found += (
                    [e.WhichOneof("kind") or "" for e in frame.events.events]
                    if kind == "events"
                    else [kind]
                )
        return found

    async def Deliver(  # type: ignore[override]  # noqa: N802
        self, request_iterator: AsyncIterator[pb.DeliverRequest], context: Any
    ) -> None:
        if dict(context.invocation_metadata())["authorization"] != f"Bearer {TOKEN}":
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "wrong fleet token")
        await context.write(pb.DeliverResponse())
        self._contexts.append(context)
        try:
            while True:
                await self.reading.wait()
                message = await context.read()
                if not isinstance(message, pb.DeliverRequest):
                    return
                self.messages.append(message)
                if message.HasField("hello"):
                    self.hellos.append(message.hello)
                self.frames.extend(message.frames)
                for frame in message.frames:
                    if frame.HasField("claim") and self.on_claim is not None:
                        await self.on_claim(frame.session, frame.claim)
        finally:
            self.ended += 1

    async def FetchBody(  # noqa: N802
        self, request: pb.FetchBodyRequest, context: Any
    ) -> AsyncIterator[pb.FetchBodyResponse]:
        if isinstance(self.body, grpc.StatusCode):
            await context.abort(self.body, "no such attempt")
            return
        for piece in self.body:
            yield pb.FetchBodyResponse(data=piece)
