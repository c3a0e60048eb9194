"""Writes one response to its connection: the `send` of ASGI, in fewer steps than uvicorn's own.

The head goes out together with the beginning of the body, as ASGI asks: each write costs a system
call and wakes the client, half of what a small reply costs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

_BODILESS = {204, 304}


class Response:
    """Takes ASGI's messages; `put` is the short way for one more piece of a body."""

    __slots__ = ("_chunked", "_cycle", "_head", "_left")

    def __init__(self, cycle: RequestResponseCycle) -> None:
        self._cycle = cycle
        self._head: bytes | None = None  # what waits for the body
        self._chunked = False
        self._left = 0  # bytes of a body of known length that are to come

    async def __call__(self, message: Mapping[str, Any]) -> None:
        cycle = self._cycle
        if cycle.flow.write_paused and not cycle.disconnected:
            await cycle.flow.drain()
        if cycle.disconnected:
            return
        if cycle.response_complete:
            raise RuntimeError("the response is complete already")
        if message["type"] == "http.response.start":
            self._begin(message["status"], message.get("headers", ()))
        elif not message.get("more_body", False):
            self._end(message.get("body", b""))
        else:
            # An empty piece is for the head, where the body takes its time.
            body = message.get("body", b"")
            self._write(self._framed(body) if body else b"")

    @property
    def clear(self) -> bool:
        """Whether `put` may be called: somebody is there to read, and keeps up."""
        cycle = self._cycle
        return not (cycle.flow.write_paused or cycle.disconnected)

    @property
    def gone(self) -> bool:
        """Whether nobody is there to read."""
        return self._cycle.disconnected

    @property
    def bodiless(self) -> bool:
        """Whether the client wants the head alone, whatever the application is told."""
        return bool(self._cycle.scope["method"] == "HEAD")

    def put(self, data: bytes) -> None:
        """Write a piece of a chunked body that has begun, without a task and without waiting."""
        self._cycle.transport.write(b"%x\r\n%b\r\n" % (len(data), data))

    def _begin(self, status: int, given: Iterable[tuple[bytes, bytes]]) -> None:
        cycle = self._cycle
        if cycle.response_started:
            raise RuntimeError("the response has begun already")
        length: bytes | None = None
        lines = [STATUS_LINE[status][:-2]]
        for name, value in (*cycle.default_headers, *given):
            if name == b"content-length":
                length = value
            elif name == b"connection" and value.lower() == b"close":
                cycle.keep_alive = False
                continue
            lines.append(b"%b: %b" % (name, value))
        if not cycle.keep_alive:
            lines.append(b"connection: close")
        if length is not None:
            self._left = int(length)
        elif cycle.scope["method"] != "HEAD" and status not in _BODILESS:
            self._chunked = True
            lines.append(b"transfer-encoding: chunked")
        head = b"\r\n".join(lines)
        # A line break in a value would forge headers.
        if head.count(b"\n") != len(lines) - 1 or head.count(b"\r") != len(lines) - 1:
            raise RuntimeError("a header of the response holds a line break")
        self._head = head + b"\r\n\r\n"
        cycle.response_started = True
        cycle.waiting_for_100_continue = False

    def _framed(self, body: bytes) -> bytes:
        if self._chunked:
            return b"%x\r\n%b\r\n" % (len(body), body)
        if self._cycle.scope["method"] == "HEAD":
            return b""
        self._left -= len(body)
        if self._left < 0:
            raise RuntimeError("the body is longer than its Content-Length")
        return body

    def _end(self, body: bytes) -> None:
        cycle = self._cycle
        data = self._framed(body) if body else b""
        if self._chunked:
            data += b"0\r\n\r\n"
        elif self._left and cycle.scope["method"] != "HEAD":
            raise RuntimeError("the body is shorter than its Content-Length")
        self._write(data)
        cycle.response_complete = True
        cycle.message_event.set()
        if not cycle.keep_alive:
            cycle.transport.close()
        cycle.on_response()

    def _write(self, data: bytes) -> None:
        if self._head is not None:
            data, self._head = self._head + data, None
        if data:
            self._cycle.transport.write(data)
