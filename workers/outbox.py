"""What waits to be sent to one edge, and the messages that it makes; pure.

Events are turned into bytes when they come and put behind each other when they go: as parts of a
message they would be copied and encoded twice more, which took a tenth of a busy worker.
"""

from __future__ import annotations

from broker.envelope import varint
from broker.v1 import delivery_service_pb2 as pb

# Bytes of events in one message, so that no backlog of many sessions nears gRPC's limit.
MAX_MESSAGE = 1 << 20
# Field and wire type, as protobuf writes them: DeliverRequest.frames, Frame.session, Frame.events
# and Events.events.
_FRAMES, _SESSION, _FRAME_EVENTS, _EVENTS = b"\x12", b"\x08", b"\x1a", b"\x0a"


class Outbox:
    """See the module."""

    def __init__(self) -> None:
        self._frames: list[pb.Frame] = []
        self._events: dict[int, list[bytes]] = {}
        self._queued = 0

    def __bool__(self) -> bool:
        return bool(self._frames or self._events)

    def add(self, frame: pb.Frame) -> None:
        """A frame without events."""
        self._frames.append(frame)

    def add_events(self, session: int, events: list[bytes], size: int) -> None:
        """Encoded events of a session, `size` bytes in all."""
        self._queued += size
        waiting = self._events.get(session)
        if waiting is None:
            self._events[session] = events
        else:
            waiting += events

    def drop(self, session: int) -> None:
        """Forget a session's events."""
        self._events.pop(session, None)

    def message(self, gauges: pb.WorkerGauges | None) -> tuple[bytes, bool]:
        """An encoded DeliverRequest of what waits, and whether it did not take it all.

        A session's events come after its other frames.
        """
        frames, self._frames = self._frames, []
        if self._queued <= MAX_MESSAGE:
            events, self._events = self._events, {}
            self._queued = 0
        else:
            events = self._some()
        parts: list[bytes] = []
        if frames or gauges is not None:
            parts.append(pb.DeliverRequest(frames=frames, gauges=gauges).SerializeToString())
        for session, waiting in events.items():
            body: list[bytes] = []
            for event in waiting:
                body += (_EVENTS, _varint(len(event)), event)
            raw = b"".join(body)
            head = b"".join((_SESSION, _varint(session), _FRAME_EVENTS, _varint(len(raw))))
            parts += (_FRAMES, _varint(len(head) + len(raw)), head, raw)
        return b"".join(parts), bool(self._events)

    def _some(self) -> dict[int, list[bytes]]:
        """As much of a backlog as one message takes, at least one event."""
        room = MAX_MESSAGE
        taken: dict[int, list[bytes]] = {}
        for session, waiting in list(self._events.items()):
            count = 0
            while count < len(waiting) and room > 0:
                room -= len(waiting[count])
                count += 1
            if not count:
                break
            taken[session] = waiting[:count]
            # Whoever has more goes to the end of the line.
            del self._events[session]
            if count < len(waiting):
                self._events[session] = waiting[count:]
        self._queued = sum(len(event) for waiting in self._events.values() for event in waiting)
        return taken


_SHORT = [varint(number) for number in range(1 << 14)]


def _varint(number: int) -> bytes:
    return _SHORT[number] if number < len(_SHORT) else varint(number)
