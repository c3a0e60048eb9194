"""What every call of the public gRPC API shares: the key, the deadline, and errors as statuses."""

from __future__ import annotations

import uuid
from typing import Any, NoReturn

import grpc

from broker.errors import InferenceError
from broker.keys import KeyRecord
from edge.auth import Authenticator
from edge.translate.rpc_errors import error_details

Context = grpc.aio.ServicerContext[Any, Any]

_DETAILS = "grpc-status-details-bin"


def new_request_id() -> str:
    """An id for a request, as over HTTP."""
    return "req_" + uuid.uuid4().hex


async def key_of(context: Context, auth: Authenticator) -> KeyRecord:
    """The caller's key, from `authorization` metadata."""
    metadata = dict(context.invocation_metadata() or ())
    try:
        return await auth.authenticate(metadata.get("authorization"))
    except InferenceError as exc:
        await abort(context, exc)


def time_left(context: Context, default_s: float) -> float:
    """Seconds to the call's deadline, at most the server's own limit."""
    left = context.time_remaining()
    return default_s if left is None else min(left, default_s)


async def abort(context: Context, error: InferenceError) -> NoReturn:
    """End the call with the status of an error."""
    status = error_details(error)
    context.set_trailing_metadata(((_DETAILS, status.SerializeToString()),))
    await context.abort(getattr(grpc.StatusCode, error.row.grpc), error.message)
    raise AssertionError("abort returned")
