"""Renders an error as google.rpc.Status with the standard details."""

from __future__ import annotations

from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2

from broker.errors import InferenceError
from broker.translate.errors import retry_wait

DOMAIN = "millrace"


def error_details(exc: InferenceError) -> status_pb2.Status:
    """The status of a failed call, or of a failed item of a bulk call.

    ErrorInfo has the table's reason and what is known of the attempt; RetryInfo is there where
    waiting helps; BadRequest names the field at fault.
    """
    status = status_pb2.Status(code=code_pb2.Code.Value(exc.row.grpc), message=exc.message)
    known: dict[str, object] = {
        "code": exc.code,
        "param": exc.param,
        "http_status": exc.row.http,
        "provider": exc.provider,
        "model": exc.model,
        "upstream_status": exc.upstream_status,
        "upstream_request_id": exc.upstream_request_id,
        "attempt": exc.attempt,
        "phase": exc.phase,
    }
    metadata = {name: str(value) for name, value in known.items() if value}
    _add(
        status,
        error_details_pb2.ErrorInfo(reason=exc.reason, domain=DOMAIN, metadata=metadata),
    )
    wait = retry_wait(exc)
    if wait is not None:
        info = error_details_pb2.RetryInfo()
        info.retry_delay.FromNanoseconds(int(wait * 1e9))
        _add(status, info)
    if exc.param is not None:
        violations = error_details_pb2.BadRequest()
        violations.field_violations.add(field=exc.param, description=exc.message)
        _add(status, violations)
    return status


def _add(status: status_pb2.Status, detail: Message) -> None:
    status.details.add().Pack(detail)
