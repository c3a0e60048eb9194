"""Acts out one script on one connection: writes on time, waits for slow readers, breaks on cue."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable

from workers.sim.script import Ending, Script
from workers.sim.wire import stamped

# A reset must not overtake the bytes written before it.
_FLUSH_SECONDS = 0.005
# uvloop's clock moves in milliseconds; asking for less would spin.
_CLOCK_STEP = 0.0005
_LINGER_ZERO = struct.pack("ii", 1, 0)


class Playback:
    """One answer under way. `done` is called once, with finished or faulted, unless stopped."""

    __slots__ = (
        "_byte",
        "_call_number",
        "_created",
        "_done",
        "_drops",
        "_loop",
        "_next",
        "_paused",
        "_script",
        "_start",
        "_timer",
        "_transport",
        "tokens",
    )

    def __init__(
        self,
        transport: asyncio.Transport,
        script: Script,
        call_number: int,
        created: int,
        done: Callable[[str], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport = transport
        self._script = script
        self._call_number = call_number
        self._created = created
        self._done = done
        self._start = self._loop.time()
        self._next = 0
        self._drops = b""
        self._byte = 0
        self._paused = False
        self._timer: asyncio.Handle | None = None
        self.tokens = 0

    def advance(self) -> None:
        """Writes all that is due, then sleeps until the next frame or ends the call."""
        self._timer = None
        frames = self._script.frames
        while self._next < len(frames):
            if self._paused:
                return
            frame = frames[self._next]
            wait = self._start + frame.due - self._loop.time() if frame.due else 0.0
            if wait > _CLOCK_STEP:
                self._timer = self._loop.call_later(wait, self.advance)
                return
            wire = frame.wire
            if self._script.stamped:
                wire = stamped(wire, self._call_number, self._created)
            if self._script.drip and self._drip(wire):
                return
            if not self._script.drip:
                self._transport.write(wire)
            self._next += 1
            self.tokens = frame.tokens
        self._end()

    def _drip(self, wire: bytes) -> bool:
        """Writes one byte and asks to be called again; False once all are written."""
        if self._byte == len(wire):
            self._byte = 0
            return False
        self._transport.write(wire[self._byte : self._byte + 1])
        self._byte += 1
        self._timer = self._loop.call_soon(self.advance)
        return True

    def _end(self) -> None:
        ending = self._script.ending
        if ending is Ending.KEEP:
            self._done("finished")
        elif ending is Ending.CUT:
            self._done("faulted")
            self._transport.close()
        elif ending is Ending.RESET:
            delay = _FLUSH_SECONDS if self._script.frames else 0
            self._timer = self._loop.call_later(delay, self._reset)

    def _reset(self) -> None:
        self._done("faulted")
        sock = self._transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_ZERO)
        self._transport.abort()

    def pause(self) -> None:
        """The peer reads more slowly than we write."""
        self._paused = True

    def resume(self) -> None:
        """The peer has caught up."""
        self._paused = False
        if self._timer is None:
            self.advance()

    def stop(self) -> None:
        """Nothing is written any more; `done` is not called."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._next = len(self._script.frames)
