"""Counts and logs finished inference requests of the public gRPC API."""

from __future__ import annotations

import time
from collections.abc import Sequence

from broker.errors import InferenceError
from broker.keys import KeyRecord
from broker.telemetry import Telemetry, redact_name
from broker.translate.usage import completion_tokens, prompt_tokens
from broker.v1 import event_pb2


class Asked:
    """One inference request: what is known of it while it runs."""

    __slots__ = (
        "begun",
        "first_s",
        "key",
        "method",
        "model",
        "provider",
        "request_id",
        "stored_at",
        "usage",
    )

    def __init__(self, method: str, request_id: str, key: KeyRecord) -> None:
        self.begun = time.perf_counter()
        self.method = method
        self.request_id = request_id
        self.key = key
        self.provider = ""
        self.model = ""
        self.first_s = 0.0  # seconds to the first events of an answer
        self.usage: event_pb2.Usage | None = None
        # When the response was stored, in Unix seconds; 0 = it was not yet.
        self.stored_at = 0

    def note(self, events: Sequence[event_pb2.Event]) -> None:
        """Remember what the report needs of a batch of events."""
        if not self.first_s:
            self.first_s = time.perf_counter() - self.begun
            self.provider = events[0].started.provider
            self.model = events[0].started.model
        if events[-1].HasField("completed"):
            self.usage = events[-1].completed.usage
            self.stored_at = events[-1].completed.stored_at


class Reporter:
    """Where finished requests are counted and logged."""

    def __init__(self, telemetry: Telemetry) -> None:
        metrics = telemetry.metrics
        self._log = telemetry.requests
        self._requests = metrics.counter(
            "rpc_requests",
            "Finished inference requests over gRPC.",
            *("method", "provider", "status", "reason"),
        )
        self._seconds = metrics.histogram(
            "rpc_request_seconds", "From a request over gRPC to the end of its answer.", "provider"
        )

    def finished(self, asked: Asked, error: InferenceError | None) -> None:
        """The request is over, one way or another."""
        seconds = time.perf_counter() - asked.begun
        status = "OK" if error is None else error.row.grpc
        reason = "" if error is None else error.reason
        self._requests.add(asked.method, asked.provider, status, reason)
        self._seconds.observe(seconds, asked.provider)
        if not self._log.on:
            return
        fields: dict[str, object] = {
            "request_id": asked.request_id,
            "status": status,
            "ms": round(seconds * 1000, 1),
            "provider": asked.provider or (error.provider if error is not None else ""),
            "model": redact_name(asked.model),
            "method": asked.method,
            "key": asked.key.id,
            "tenant": asked.key.tenant,
        }
        if error is not None:
            fields["reason"] = reason
        if asked.first_s:
            fields["first_ms"] = round(asked.first_s * 1000, 1)
        if (usage := asked.usage) is not None:
            fields["input_tokens"] = prompt_tokens(usage)
            fields["output_tokens"] = completion_tokens(usage)
        self._log.write("request", fields)
