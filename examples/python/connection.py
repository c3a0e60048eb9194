"""What every example needs: a channel with keep-alive and deadlines, the key, and readable errors.

MILLRACE_GRPC (host:port) and MILLRACE_API_KEY say where and who; the names are the server's own.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass

import grpc
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

ADDRESS = os.environ.get("MILLRACE_GRPC", "127.0.0.1:8001")
KEY = os.environ.get("MILLRACE_API_KEY", "")
# Goes with every call.
METADATA = (("authorization", f"Bearer {KEY}"),)

# A call that names no deadline gets this one. A bulk call lasts as long as its work: none there.
_INFERENCE = {"service": "broker.v1.InferenceService"}
SERVICE_CONFIG = {
    "methodConfig": [
        {"name": [_INFERENCE | {"method": m} for m in ("Infer", "InferStream")], "timeout": "300s"},
        {
            "name": [
                _INFERENCE | {"method": "CancelInference"},
                {"service": "broker.v1.ControlService"},
            ],
            "timeout": "10s",
        },
    ]
}
OPTIONS = [
    ("grpc.service_config", json.dumps(SERVICE_CONFIG)),
    # A ping every 30 s finds a dead connection while a model thinks, and keeps NATs open.
    ("grpc.keepalive_time_ms", 30_000),
    # How long to wait for its answer: grpc.keepalive_timeout_ms has no effect (grpc/grpc#39239).
    ("grpc.http2.ping_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
    # Answers may be larger than gRPC's 4 MB; what is sent is bounded by the server (32 MiB).
    ("grpc.max_receive_message_length", 64 << 20),
    ("grpc.max_send_message_length", -1),
]


def connect() -> grpc.aio.Channel:
    """A channel; use it as `async with connect() as channel`, and one for all calls."""
    return grpc.aio.insecure_channel(ADDRESS, options=OPTIONS)


@dataclass(frozen=True)
class Problem:
    """Why a request failed: `reason` is a row of the error table, `retry_after` is in seconds."""

    reason: str
    message: str
    param: str = ""
    retry_after: float | None = None

    @classmethod
    def of(cls, status: status_pb2.Status) -> Problem:
        """What a status says: of a failed call, or of one request of a bulk call."""
        info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
        for detail in status.details:
            # Unpack leaves a message alone when the detail is of another type.
            detail.Unpack(info)
            detail.Unpack(retry)
        wait = retry.retry_delay.ToNanoseconds() / 1e9 if retry.HasField("retry_delay") else None
        return cls(info.reason, status.message, info.metadata.get("param", ""), wait)

    def __str__(self) -> str:
        field = f", field {self.param}" if self.param else ""
        wait = "" if self.retry_after is None else f", retry after {self.retry_after:g} s"
        return f"{self.reason}: {self.message}{field}{wait}"


def problem(error: grpc.aio.AioRpcError) -> Problem:
    """Why a call failed; the reason is gRPC's own when the server was not reached."""
    status = rpc_status.from_call(error)
    if status is None:
        return Problem(error.code().name, error.details() or "")
    return Problem.of(status)
