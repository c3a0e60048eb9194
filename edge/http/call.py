"""One inference request over HTTP: what is known of it, and what is reported when it ends."""

from __future__ import annotations

import asyncio
import functools
import re
import time
from collections.abc import Mapping, Sequence

from starlette.types import Scope

from broker.catalog.cost import usd
from broker.errors import InferenceError
from broker.keys import KeyRecord
from broker.telemetry import Telemetry, redact, redact_name
from broker.translate.headers import ACCOUNT, PROVIDER_KEY, forwarded
from broker.translate.usage import completion_tokens, prompt_tokens
from broker.v1 import event_pb2, generation_pb2
from edge.held import HeldRequest
from edge.http.protocol import Connection
from edge.http.reply import (
    MODEL,
    PROVIDER,
    REQUEST_ID,
    ROUTE,
    UPSTREAM_ID,
    Header,
    header_value,
    new_request_id,
)
from edge.seams import ExchangeLike

_NAME = re.compile(rb"[ -~]{1,255}")
_SECONDS = re.compile(rb"\d{1,6}(\.\d{1,3})?")
_PROVIDER_KEY = PROVIDER_KEY.encode()
_CLIENT_ID = re.compile(rb"[\w.:/+=-]{1,128}")


class Call:
    """State of one request from its head to its last byte."""

    __slots__ = (
        "_id_header",
        "_task",
        "begun",
        "connection",
        "cost_nano",
        "exchange",
        "first_s",
        "gone",
        "headers",
        "held",
        "key",
        "model",
        "named",
        "provider",
        "reason",
        "replayed",
        "request_id",
        "routing",
        "started",
        "status",
        "stored_at",
        "streamed",
        "usage",
    )

    def __init__(self, scope: Scope, id_header: bytes = b"") -> None:
        self.begun = time.perf_counter()
        self.request_id = new_request_id()
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        # Tells the request's id beside `x-request-id`, in formats that have one of their own.
        self._id_header = id_header
        self.connection: Connection = scope["state"]["connection"]
        self.key: KeyRecord | None = None
        # Its body, while the edge holds it.
        self.held: HeldRequest | None = None
        # What answers it, once it was let in.
        self.exchange: ExchangeLike | None = None
        self.streamed = False
        self.provider = ""
        self.model = ""
        self.usage: event_pb2.Usage | None = None
        self.first_s = 0.0  # seconds to the first content of a stream
        self.status = 0
        self.reason = ""
        self.started = False  # whether the status line has been sent
        self.gone = False
        # Whether it has an idempotency key: then it runs apart from its caller.
        self.named = False
        # Whether it is the answer of an earlier request with the same idempotency key.
        self.replayed = False
        # When the response was stored, in Unix seconds; 0 = it was not yet.
        self.stored_at = 0
        # What the answer costs, in billionths of a dollar; None = nobody knows.
        self.cost_nano: int | None = None
        # How it was routed, as JSON, if the caller asked for that.
        self.routing = b""
        self._task: asyncio.Task[None] | None = None

    def watch(self) -> None:
        """From now on, cancel the running task when the client leaves."""
        # Asked without the loop, it costs a system call (in Python 3.11).
        self._task = asyncio.current_task(self.connection.loop)
        self.connection.watch(self._left)

    def _left(self) -> None:
        self.gone = True
        if self._task is not None:
            self._task.cancel()

    def elapsed(self) -> float:
        """Seconds since the head of the request was read."""
        return time.perf_counter() - self.begun

    def provider_key(self) -> str | None:
        """The caller's own key for the provider, where it sent one."""
        given = self.headers.get(_PROVIDER_KEY)
        return None if given is None else given.decode("latin-1")

    def idempotency_key(self) -> str | None:
        """The name that the caller gave this request, so that it runs once."""
        return idempotency_key(self.headers)

    def pass_on_headers(self, platform: generation_pb2.Platform) -> None:
        """Add the headers that are for the provider; the body's own are stronger."""
        for name, value in forwarded(self.headers):
            if name in ACCOUNT and not self._callers_account(platform):
                continue
            if name not in map(str.lower, platform.extra_headers):
                platform.extra_headers[name] = value

    def _callers_account(self, platform: generation_pb2.Platform) -> bool:
        """Whether the provider is called with the caller's own key."""
        if platform.HasField("use_custom_keys"):
            return platform.use_custom_keys
        return _PROVIDER_KEY in self.headers

    def timeout_s(self, limit: float) -> float:
        """The time this request may take: `X-Millrace-Timeout` in seconds, at most `limit`."""
        asked = self.headers.get(b"x-millrace-timeout")
        if asked is None:
            return limit
        if not _SECONDS.fullmatch(asked) or (seconds := float(asked)) <= 0:
            raise InferenceError(
                "invalid_request", "X-Millrace-Timeout has to be a number of seconds above 0"
            )
        return min(seconds, limit)

    def note(self, events: Sequence[event_pb2.Event]) -> event_pb2.Started | None:
        """Remember what reports need of a batch; returns its `started`, which opens the first."""
        if events[-1].HasField("completed"):
            completed = events[-1].completed
            self.usage = completed.usage
            self.stored_at = completed.stored_at
            self.routing = completed.routing
            if completed.HasField("cost"):
                self.cost_nano = completed.cost.nano_usd
        if self.provider or not events[0].HasField("started"):
            return None
        started = events[0].started
        self.provider, self.model = started.provider, started.model
        return started

    def failed(self, error: InferenceError) -> list[Header]:
        """Remember what reports need of a failure; the headers that only the call knows."""
        self.reason = error.reason
        self.provider = self.provider or error.provider
        route = self.exchange.route if self.exchange is not None else ""
        return [*self.id_headers(), *([(ROUTE, header_value(route))] if route else [])]

    def ended(self) -> bool:
        """Whether the last batch noted completes the answer."""
        return self.usage is not None

    def id_headers(self) -> tuple[Header, ...]:
        """The request's id under the format's own name, if it has one."""
        return ((self._id_header, self.request_id.encode()),) if self._id_header else ()

    def answer_headers(self, started: event_pb2.Started | None, route: str = "") -> list[Header]:
        """The headers of an answer; `started`, if it came yet, says who gives it.

        `route` says how it was decided who is asked.
        """
        headers = [
            (REQUEST_ID, self.request_id.encode()),
            (b"openai-processing-ms", b"%d" % (self.elapsed() * 1000)),
            *self.id_headers(),
        ]
        if self.replayed:
            headers.append((b"idempotent-replayed", b"true"))
        if self.cost_nano is not None:
            headers.append((b"x-millrace-cost", usd(self.cost_nano).encode()))
        if route:
            headers.append((ROUTE, header_value(route)))
        if started is None:
            return headers
        headers.append((PROVIDER, header_value(started.provider)))
        headers.append((MODEL, header_value(started.model)))
        if started.upstream_request_id:
            upstream_id = header_value(started.upstream_request_id)
            headers.append((UPSTREAM_ID, upstream_id))
        if started.dropped_params:
            headers.append((b"x-dropped-params", header_value(", ".join(started.dropped_params))))
        for name, value in started.rate_limits.items():
            if (known := _rate_limit_header(name)) is not None:
                headers.append((known, header_value(value)))
        return headers


@functools.lru_cache(maxsize=256)
def _rate_limit_header(name: str) -> bytes | None:
    """The header's name, if it is one that may be passed on."""
    passed = re.fullmatch(r"[a-z0-9-]*ratelimit[a-z0-9-]*", name)
    return name.encode() if passed else None


def idempotency_key(headers: Mapping[bytes, bytes]) -> str | None:
    """The name that a caller gave a request. Raises `InferenceError` where it is none."""
    given = headers.get(b"idempotency-key")
    if given is None:
        return None
    if not _NAME.fullmatch(given):
        raise InferenceError(
            "invalid_request",
            "Idempotency-Key has to be 1 to 255 printable ASCII characters",
            param="Idempotency-Key",
        )
    return given.decode()


class Reporter:
    """Counts and logs finished requests."""

    def __init__(self, telemetry: Telemetry) -> None:
        metrics = telemetry.metrics
        self._log = telemetry.requests
        self._requests = metrics.counter(
            "requests", "Finished inference requests.", "provider", "status", "reason"
        )
        self._seconds = metrics.histogram(
            "request_seconds", "From the head of a request to the end of its answer.", "provider"
        )
        self._first = metrics.histogram(
            "first_content_seconds", "From the head of a request to its first content.", "provider"
        )

    def finished(self, call: Call) -> None:
        """The request is over, one way or another."""
        seconds = call.elapsed()
        self._requests.add(call.provider, str(call.status), call.reason)
        self._seconds.observe(seconds, call.provider)
        if call.first_s:
            self._first.observe(call.first_s, call.provider)
        if self._log.on:
            self._log.write("request", self._fields(call, seconds))

    def _fields(self, call: Call, seconds: float) -> dict[str, object]:
        fields: dict[str, object] = {
            "request_id": call.request_id,
            "status": call.status,
            "ms": round(seconds * 1000, 1),
            "provider": call.provider,
            "model": redact_name(call.model),
            "stream": call.streamed,
        }
        if call.reason:
            fields["reason"] = call.reason
        if call.key is not None:
            fields["key"] = call.key.id
            fields["tenant"] = call.key.tenant
        if call.first_s:
            fields["first_ms"] = round(call.first_s * 1000, 1)
        if call.usage is not None:
            fields["input_tokens"] = prompt_tokens(call.usage)
            fields["output_tokens"] = completion_tokens(call.usage)
        theirs = call.headers.get(b"x-client-request-id")
        if theirs is not None and _CLIENT_ID.fullmatch(theirs):
            fields["client_request_id"] = redact(theirs.decode())
        return fields
