"""Decodes answers that are one small JSON object: read when the body has ended; pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import orjson

from broker.errors import InferenceError
from broker.v1 import event_pb2
from workers.headers import rate_limits, request_id

_MOST = 64 << 20
_SHOWN = 200

# Reads an answer into events between the first and the last; raises `InferenceError`, or
# KeyError, TypeError or ValueError for what has another form.
Read = Callable[[Any], tuple[event_pb2.Started, list[event_pb2.Event], event_pb2.Usage]]


class WholeDecoder:
    """The decoder of such an answer."""

    def __init__(self, headers: Mapping[str, str], read: Read) -> None:
        self._headers = headers
        self._read = read
        self._body = bytearray()

    def feed(self, data: bytes) -> Iterable[event_pb2.Event]:
        """Keeps the bytes."""
        self._body += data
        if len(self._body) > _MOST:
            raise self._error("upstream_error", f"the provider sent more than {_MOST >> 20} MiB")
        return ()

    def close(self) -> Iterable[event_pb2.Event]:
        """All events of the answer."""
        if not self._body.strip():
            raise self._error("upstream_incomplete", "the provider sent an empty answer")
        try:
            value = orjson.loads(self._body)
        except orjson.JSONDecodeError as exc:
            shown = self._body[:_SHOWN].decode("utf-8", "replace")
            message = f"the provider sent no JSON: {shown}"
            raise self._error("upstream_error", message) from exc
        try:
            started, events, usage = self._read(value)
        except (KeyError, TypeError, ValueError, AttributeError) as exc:
            message = f"the provider's answer has an unknown form: {exc}"
            raise self._error("upstream_error", message) from exc
        started.upstream_request_id = request_id(self._headers)
        started.rate_limits.update(rate_limits(self._headers))
        completed = event_pb2.Completed(usage=usage)
        return [
            event_pb2.Event(started=started),
            *events,
            event_pb2.Event(completed=completed),
        ]

    def _error(self, reason: str, message: str) -> InferenceError:
        return InferenceError(
            reason, message, upstream_status=200, upstream_request_id=request_id(self._headers)
        )
