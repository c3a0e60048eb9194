"""Between edges: the answer of a request that runs at one, read at another over gRPC.

The edge that runs it offers it on its delivery port; the other one is one more reader of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import grpc

from broker.errors import InferenceError
from broker.tasks import Tasks
from broker.v1 import attach_service_pb2 as pb
from broker.v1 import attach_service_pb2_grpc as pb_grpc
from broker.v1 import event_pb2, stored_pb2
from edge.claims import Standing
from edge.delivery import OPTIONS, authenticate
from edge.run import Run
from edge.seams import Holds

_log = logging.getLogger(__name__)

# An edge that has not answered for so long is asked again, or taken for dead by its lease.
_CONNECT_S = 2.0
# Events that travel together.
_MESSAGE_BYTES = 1 << 20
_Code = grpc.StatusCode
# What an edge says that does not run a request, by its status; all else may be different soon.
_STANDINGS = {_Code.NOT_FOUND: Standing.UNKNOWN, _Code.OUT_OF_RANGE: Standing.TOO_LARGE}


class Host(Holds, Protocol):
    """What an edge knows and does."""

    def edge_address(self, name: str) -> str | None:
        """Where another edge is reached; None = not known."""


class AttachService(pb_grpc.AttachServiceServicer):
    """The edge that runs it. `standing` finds requests by id."""

    def __init__(
        self, fleet_token: str, host: Host, standing: Callable[[str], Run | Standing]
    ) -> None:
        self._token = fleet_token
        self._host = host
        self._standing = standing

    def add(self, server: grpc.aio.Server) -> None:
        """Serve it there too."""
        pb_grpc.add_AttachServiceServicer_to_server(self, server)

    async def Attach(  # type: ignore[override]  # noqa: N802
        self, request: pb.AttachRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> None:
        """One reader more, for as long as its call lasts."""
        await authenticate(context, self._token)
        run = self._standing(request.request_id)
        if run is Standing.UNKNOWN:
            await context.abort(_Code.NOT_FOUND, "no such request")
        reader = None
        if isinstance(run, Run) and hmac.compare_digest(run.request_hash, request.request_hash):
            reader = run.join()
            if reader is None and run.too_large:
                await context.abort(_Code.OUT_OF_RANGE, "its beginning is gone")
        if reader is None:
            await context.abort(_Code.FAILED_PRECONDITION, "it cannot be joined")
        self._host.hold(reader)
        try:
            head = pb.AttachResponse(answer_id=reader.answer_id, created=reader.created)
            await context.write(head)
            while events := await reader.next():
                for part in _parts(events):
                    await context.write(pb.AttachResponse(route=reader.route, events=part))
        except InferenceError as exc:
            failed = event_pb2.Event(failed=exc.to_failure())
            await context.write(pb.AttachResponse(events=[failed]))
        finally:
            reader.close()
            self._host.let_go(reader)


class OtherEdges:
    """Reads answers at the edges that run them."""

    def __init__(self, fleet_token: str, host: Host) -> None:
        self._metadata = (("authorization", f"Bearer {fleet_token}"),)
        self._host = host
        # How many answers are read now.
        self.attached = 0
        self._tasks = Tasks()

    async def join(self, record: stored_pb2.Once) -> AttachedReader | Standing:
        """The answer of a request that another edge runs."""
        address = self._host.edge_address(record.edge)
        if address is None:
            return Standing.CLAIMED
        channel = grpc.aio.insecure_channel(address, options=OPTIONS)
        stub = pb_grpc.AttachServiceStub(channel)
        request = pb.AttachRequest(request_id=record.request_id, request_hash=record.request_hash)
        call = stub.Attach(request, metadata=self._metadata)
        try:
            async with asyncio.timeout(_CONNECT_S):
                first = await call.read()
        except BaseException as exc:
            self._hang_up(channel)
            if isinstance(exc, grpc.aio.AioRpcError):
                return _STANDINGS.get(exc.code(), Standing.CLAIMED)
            if isinstance(exc, TimeoutError):
                return Standing.CLAIMED
            raise
        if not isinstance(first, pb.AttachResponse):
            self._hang_up(channel)
            return Standing.CLAIMED
        self._host.hold(call)
        self.attached += 1

        def leave() -> None:
            self.attached -= 1
            self._host.let_go(call)
            self._hang_up(channel)

        return AttachedReader(record, first, call, leave)

    async def close(self) -> None:
        """Stop."""
        await self._tasks.close(wait_s=1)

    def _hang_up(self, channel: grpc.aio.Channel) -> None:
        self._tasks.spawn(channel.close(), "leave another edge")


class AttachedReader:
    """The answer of a request that another edge runs, as an exchange."""

    replayed = True

    def __init__(
        self,
        record: stored_pb2.Once,
        first: pb.AttachResponse,
        call: grpc.aio.UnaryStreamCall[pb.AttachRequest, pb.AttachResponse],
        leave: Callable[[], None],
    ) -> None:
        self.request_id = record.request_id
        self.answer_id = first.answer_id
        self.created = first.created
        self.route = ""
        self._call = call
        self._leave: Callable[[], None] | None = leave
        self._ready: Sequence[event_pb2.Event] = ()
        self._over = False
        self._deadline: float | None = None

    async def begin(self, deadline: float) -> None:
        """Wait for its first events; they end by `deadline`. Raises `InferenceError`."""
        self._ready = await self._read("before_content")
        self._deadline = deadline

    async def next(self) -> Sequence[event_pb2.Event]:
        """As the exchange's own."""
        if self._ready:
            events, self._ready = self._ready, ()
            return events
        try:
            async with asyncio.timeout_at(self._deadline):
                return await self._read("content")
        except TimeoutError:
            raise InferenceError("deadline", "the deadline passed", phase="content") from None

    def divert(self, take: Callable[[Sequence[event_pb2.Event]], bool]) -> None:
        """Everything comes with `next`."""

    def close(self) -> None:
        """The reader is done or gone."""
        if self._leave is not None:
            self._leave()
            self._leave = None

    async def _read(self, phase: str) -> Sequence[event_pb2.Event]:
        if self._over:
            return ()
        response: object = None
        with contextlib.suppress(grpc.aio.AioRpcError):
            response = await self._call.read()
        if not isinstance(response, pb.AttachResponse) or not response.events:
            raise InferenceError(
                "edge_lost", "the edge that ran this request was lost; send it again", phase=phase
            )
        last = response.events[-1]
        if last.HasField("failed"):
            raise InferenceError.from_failure(last.failed)
        self._over = last.HasField("completed")
        self.route = response.route
        return list(response.events)


def _parts(events: Sequence[event_pb2.Event]) -> Iterator[list[event_pb2.Event]]:
    """The events in groups that go into a message, each at least one."""
    part: list[event_pb2.Event] = []
    size = 0
    for event in events:
        part.append(event)
        size += event.ByteSize()
        if size >= _MESSAGE_BYTES:
            yield part
            part, size = [], 0
    if part:
        yield part
