"""Every way a request can fail: one exception, one table of reasons, all spellings.

A failure is an `InferenceError` whose `reason` is a row of `TABLE`; anything else that is raised
is a bug. Foreign exceptions are mapped once, at the edge of the foreign library. Whether a retry
is safe follows from the reason and from whether content was shown, never from the message.
Pure: gRPC codes are names, so that no module needs grpc to speak of an error.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from broker.v1 import event_pb2


class Fault(Enum):
    """Who can do something about it."""

    CALLER = "caller"
    PROVIDER = "provider"
    US = "us"


class Retry(Enum):
    """What the dispatcher may do before any content was shown."""

    NEVER = "never"
    SAME = "same"  # the same provider again, with back-off; then the next candidate
    NEXT = "next"  # the next candidate at once: waiting here does not help
    LARGER = "larger"  # only a model with a larger context window


@dataclass(frozen=True, slots=True)
class Row:
    """One reason in every spelling. `code` None shows as JSON null."""

    http: int
    grpc: str
    type: str
    code: str | None
    fault: Fault
    retry: Retry


_C, _P, _U = Fault.CALLER, Fault.PROVIDER, Fault.US
_INVALID = "invalid_request_error"
_LIMIT = "rate_limit_error"
_SERVER = "server_error"

# Source: the error taxonomy of the OpenAI API and its SDKs, and google.rpc.Code.
# What one provider refuses another may take: only a model it suits is tried again after content
# policy and length.
TABLE: dict[str, Row] = {
    "invalid_request": Row(400, "INVALID_ARGUMENT", _INVALID, None, _C, Retry.NEXT),
    "unsupported_parameter": Row(
        400, "INVALID_ARGUMENT", _INVALID, "unsupported_parameter", _C, Retry.NEXT
    ),
    "unsupported_operation": Row(
        400, "INVALID_ARGUMENT", _INVALID, "unsupported_operation", _C, Retry.NEXT
    ),
    "context_length_exceeded": Row(
        400, "INVALID_ARGUMENT", _INVALID, "context_length_exceeded", _C, Retry.LARGER
    ),
    "content_policy_violation": Row(
        400, "FAILED_PRECONDITION", _INVALID, "content_policy_violation", _C, Retry.NEVER
    ),
    "invalid_api_key": Row(401, "UNAUTHENTICATED", _INVALID, "invalid_api_key", _C, Retry.NEVER),
    "invalid_provider_key": Row(
        401, "UNAUTHENTICATED", _INVALID, "invalid_provider_key", _C, Retry.NEVER
    ),
    "permission_denied": Row(
        403, "PERMISSION_DENIED", "permission_error", "permission_denied", _C, Retry.NEVER
    ),
    "no_compliant_provider": Row(
        403, "PERMISSION_DENIED", "permission_error", "no_compliant_provider", _C, Retry.NEVER
    ),
    "model_not_found": Row(404, "NOT_FOUND", _INVALID, "model_not_found", _C, Retry.NEXT),
    "no_matching_provider": Row(
        404, "NOT_FOUND", _INVALID, "no_matching_provider", _C, Retry.NEVER
    ),
    "not_found": Row(404, "NOT_FOUND", _INVALID, "not_found", _C, Retry.NEVER),
    "method_not_allowed": Row(
        405, "UNIMPLEMENTED", _INVALID, "method_not_allowed", _C, Retry.NEVER
    ),
    # What is asked for does not go with the state that something is in.
    "conflict": Row(409, "FAILED_PRECONDITION", _INVALID, "conflict", _C, Retry.NEVER),
    "idempotency_conflict": Row(
        409, "ALREADY_EXISTS", _INVALID, "idempotency_conflict", _C, Retry.NEVER
    ),
    # What a name of its caller stands for was too large to be given again.
    "answer_not_kept": Row(409, "OUT_OF_RANGE", _INVALID, "answer_not_kept", _C, Retry.NEVER),
    "request_too_large": Row(
        413, "INVALID_ARGUMENT", _INVALID, "request_too_large", _C, Retry.NEXT
    ),
    "unsupported_media_type": Row(
        415, "INVALID_ARGUMENT", _INVALID, "unsupported_media_type", _C, Retry.NEVER
    ),
    "range_not_satisfiable": Row(
        416, "OUT_OF_RANGE", _INVALID, "range_not_satisfiable", _C, Retry.NEVER
    ),
    "unprocessable": Row(422, "INVALID_ARGUMENT", _INVALID, None, _C, Retry.NEXT),
    "insufficient_quota": Row(
        429, "RESOURCE_EXHAUSTED", "insufficient_quota", "insufficient_quota", _C, Retry.NEVER
    ),
    "rate_limit_exceeded": Row(
        429, "RESOURCE_EXHAUSTED", _LIMIT, "rate_limit_exceeded", _C, Retry.NEVER
    ),
    "queue_full": Row(429, "RESOURCE_EXHAUSTED", _LIMIT, "queue_full", _U, Retry.NEXT),
    "too_many_streams": Row(429, "RESOURCE_EXHAUSTED", _LIMIT, "too_many_streams", _C, Retry.NEVER),
    "upstream_rate_limit": Row(
        429, "RESOURCE_EXHAUSTED", _LIMIT, "rate_limit_exceeded", _P, Retry.SAME
    ),
    # Our account at the provider is out of money: waiting does not help, another one may.
    "upstream_quota": Row(429, "RESOURCE_EXHAUSTED", _LIMIT, "insufficient_quota", _U, Retry.NEXT),
    "client_gone": Row(499, "CANCELLED", _INVALID, "client_gone", _C, Retry.NEVER),
    "internal": Row(500, "INTERNAL", _SERVER, "internal", _U, Retry.NEVER),
    "upstream_credentials": Row(
        502, "FAILED_PRECONDITION", _SERVER, "upstream_credentials", _U, Retry.NEXT
    ),
    "upstream_error": Row(502, "INTERNAL", _SERVER, "upstream_error", _P, Retry.SAME),
    "upstream_incomplete": Row(502, "INTERNAL", _SERVER, "upstream_incomplete", _P, Retry.SAME),
    # The model's, where its provider does not hold it to the form that was asked for.
    "invalid_answer": Row(502, "INTERNAL", _SERVER, "invalid_answer", _P, Retry.SAME),
    "upstream_unreachable": Row(502, "UNAVAILABLE", _SERVER, "upstream_error", _P, Retry.SAME),
    "worker_lost": Row(502, "ABORTED", _SERVER, "worker_lost", _U, Retry.SAME),
    "poison": Row(502, "ABORTED", _SERVER, "worker_lost", _U, Retry.NEVER),
    # The edge that ran what was read along here; its own caller sees a connection that breaks.
    "edge_lost": Row(502, "ABORTED", _SERVER, "edge_lost", _U, Retry.NEVER),
    "no_worker": Row(503, "UNAVAILABLE", _SERVER, "no_worker", _U, Retry.NEXT),
    "draining": Row(503, "UNAVAILABLE", _SERVER, "draining", _U, Retry.NEVER),
    "broker_unavailable": Row(503, "UNAVAILABLE", _SERVER, "broker_unavailable", _U, Retry.NEVER),
    "upstream_overloaded": Row(503, "UNAVAILABLE", _SERVER, "upstream_overloaded", _P, Retry.SAME),
    "queue_timeout": Row(504, "DEADLINE_EXCEEDED", _SERVER, "queue_timeout", _U, Retry.NEXT),
    "connect_timeout": Row(504, "DEADLINE_EXCEEDED", _SERVER, "connect_timeout", _P, Retry.NEXT),
    "first_token_timeout": Row(
        504, "DEADLINE_EXCEEDED", _SERVER, "first_token_timeout", _P, Retry.NEXT
    ),
    "stalled": Row(504, "DEADLINE_EXCEEDED", _SERVER, "stalled", _P, Retry.NEXT),
    "deadline": Row(504, "DEADLINE_EXCEEDED", _SERVER, "deadline", _U, Retry.NEVER),
}

# Why a request is not let in (reason queue_full), and the code that tells it apart.
REFUSALS = {
    "queue": "queue_full",
    "key": "key_queue_full",
    "deadline": "deadline_too_short",
    "bytes": "bytes_full",
    "key_bytes": "key_bytes_full",
}

# What a plain upstream status means when its body says nothing more precise.
# 401/402/403 speak of our key, which is our fault and never the caller's.
UPSTREAM_STATUS: dict[int, str] = {
    400: "invalid_request",
    401: "upstream_credentials",
    402: "upstream_credentials",
    403: "upstream_credentials",
    404: "model_not_found",
    408: "upstream_error",
    409: "upstream_error",
    413: "request_too_large",
    422: "unprocessable",
    429: "upstream_rate_limit",
    498: "upstream_overloaded",
    503: "upstream_overloaded",
    529: "upstream_overloaded",
}


def reason_for_status(status: int) -> str:
    """The reason for an upstream HTTP status that no dialect knows better."""
    known = UPSTREAM_STATUS.get(status)
    if known is not None:
        return known
    return "invalid_request" if 400 <= status < 500 else "upstream_error"


def refused(why: str, message: str, retry_after: float) -> InferenceError:
    """The error of a request that is not let in, for a reason of `REFUSALS`."""
    return InferenceError("queue_full", message, code=REFUSALS[why], retry_after=retry_after)


class InferenceError(Exception):
    """A request failed for a reason of the table.

    `param` is the dotted path of the field at fault, `code` replaces the row's code where the
    upstream gave a better one, `retry_after` is in seconds. `key` is the fingerprint of the
    operator's key that failed, `other_keys` how many others may be used at once. `exhausted`: the
    worker has tried again by itself.
    """

    def __init__(
        self,
        reason: str,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        upstream_status: int = 0,
        upstream_request_id: str = "",
        retry_after: float | None = None,
        provider: str = "",
        model: str = "",
        attempt: int = 0,
        phase: str = "",
        key: str = "",
        other_keys: int = 0,
        exhausted: bool = False,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.param = param
        self.upstream_code = code
        self.upstream_status = upstream_status
        self.upstream_request_id = upstream_request_id
        self.retry_after = retry_after
        self.provider = provider
        self.model = model
        self.attempt = attempt
        self.phase = phase
        self.key = key
        self.other_keys = other_keys
        self.exhausted = exhausted

    @property
    def row(self) -> Row:
        """The table's row of this reason; an unknown reason (a newer peer) counts as internal."""
        return TABLE.get(self.reason, TABLE["internal"])

    @property
    def code(self) -> str | None:
        """The code to show: the upstream's, else the row's."""
        return self.upstream_code or self.row.code

    def saying(self, message: str) -> InferenceError:
        """The same error in other words."""
        failure = self.to_failure()
        failure.message = message
        return InferenceError.from_failure(failure)

    def to_failure(self) -> event_pb2.Failure:
        """The hub's terminal event for this error."""
        failure = event_pb2.Failure(
            reason=self.reason,
            message=self.message,
            param=self.param or "",
            code=self.upstream_code or "",
            upstream_status=self.upstream_status,
            upstream_request_id=self.upstream_request_id,
            provider=self.provider,
            model=self.model,
            attempt=self.attempt,
            phase=self.phase,
            key=self.key,
            other_keys=self.other_keys,
            exhausted=self.exhausted,
        )
        if self.retry_after is not None:
            failure.retry_after_ms = int(self.retry_after * 1000)
        return failure

    @classmethod
    def from_failure(
        cls, failure: event_pb2.Failure, provider: str = "", model: str = ""
    ) -> InferenceError:
        """The error that a terminal event of the hub carries; who was asked, if it names nobody."""
        wait = failure.retry_after_ms / 1000 if failure.HasField("retry_after_ms") else None
        return cls(
            failure.reason,
            failure.message,
            param=failure.param or None,
            code=failure.code or None,
            upstream_status=failure.upstream_status,
            upstream_request_id=failure.upstream_request_id,
            retry_after=wait,
            provider=failure.provider or provider,
            model=failure.model or model,
            attempt=failure.attempt,
            phase=failure.phase,
            key=failure.key,
            other_keys=failure.other_keys,
            exhausted=failure.exhausted,
        )
