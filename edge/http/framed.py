"""Gives every reply of an application its id, a line in the log, and a body where it failed."""

from __future__ import annotations

import logging
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from broker.errors import InferenceError
from broker.telemetry import RequestLog, redact
from edge.http.reply import REQUEST_ID, error_reply, new_request_id

_log = logging.getLogger(__name__)

# Asked every few seconds by machines: nobody wants a line for each.
_QUIET = {"/healthz", "/readyz", "/metrics"}


class Framed:
    """The application, framed. It finds the id as `scope["state"]["request_id"]`."""

    def __init__(self, app: ASGIApp, log: RequestLog) -> None:
        self._app = app
        self._log = log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = time.perf_counter()
        reply = _Reply(new_request_id(), send)
        scope["state"]["request_id"] = reply.request_id
        try:
            await self._app(scope, receive, reply.send)
        except Exception as exc:
            _log.error("request failed", exc_info=exc, extra={"request_id": reply.request_id})
            if not reply.status:
                await _fail(reply)
            elif not reply.complete:
                raise
        if self._log.on and not reply.reported and scope["path"] not in _QUIET:
            self._log.write(
                "request",
                {
                    "request_id": reply.request_id,
                    "status": reply.status,
                    "ms": round((time.perf_counter() - begun) * 1000, 1),
                    "method": scope["method"],
                    "path": redact(scope["path"])[:200],
                },
            )


class _Reply:
    """Watches one reply go out and puts the id on it."""

    def __init__(self, request_id: str, send: Send) -> None:
        self.request_id = request_id
        self.status = 0
        self.complete = False
        self.reported = False  # a hot route gave it another id, and logs it itself
        self._send = send

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = list(message["headers"])
            ours = self.request_id.encode()
            given = next((value for name, value in headers if name == REQUEST_ID), None)
            self.reported = given not in (None, ours)
            if given is None:
                headers.append((REQUEST_ID, ours))
            message["headers"] = headers
        else:
            self.complete = not message.get("more_body", False)
        await self._send(message)


async def _fail(reply: _Reply) -> None:
    error = InferenceError("internal", "something went wrong here; the request id says where")
    status, headers, body = error_reply(error, reply.request_id)
    await reply.send({"type": "http.response.start", "status": status, "headers": headers})
    await reply.send({"type": "http.response.body", "body": body, "more_body": False})
