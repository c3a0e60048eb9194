"""What every call of the public gRPC API shares: key, deadline, request id, errors as statuses."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NoReturn, cast

import grpc
from google.rpc import error_details_pb2, status_pb2

from broker.errors import InferenceError
from broker.keys import KeyRecord
from broker.translate.headers import PROVIDER_KEY
from broker.translate.rpc_errors import error_details
from edge.auth import Authenticator
from edge.http.reply import new_request_id

Context = grpc.aio.ServicerContext[Any, Any]
Finish = Callable[[], Awaitable[None]]

_DETAILS = "grpc-status-details-bin"
_REQUEST_ID = "x-request-id"
_REPLAYED = ("idempotent-replayed", "true")
# Before the caller's deadline by this much, at most a quarter of what is left, so that our status
# with its reason arrives before the caller's own library gives up without one.
_HEADROOM_S = 0.1
# A status travels as headers, three times over, and clients refuse headers above 8 KiB.
_MESSAGE = 800
_FIELD = 200

_log = logging.getLogger(__name__)


async def write(context: Context, response: Any, patience_s: float) -> None:
    """Send a message to a client that reads. Raises `InferenceError`."""
    try:
        async with asyncio.timeout(patience_s):
            await context.write(response)
    except TimeoutError as exc:
        message = f"the client did not read for {patience_s:g} s"
        raise InferenceError("client_gone", message) from exc


class Call:
    """One call: who makes it, and the id that its logs, records and statuses have."""

    __slots__ = (
        "_auth",
        "_authorization",
        "_before_abort",
        "_context",
        "key",
        "provider_key",
        "request_id",
    )

    def __init__(self, context: Context, auth: Authenticator, before_abort: Finish | None) -> None:
        metadata = dict(context.invocation_metadata() or ())
        self._before_abort = before_abort
        self._context = context
        self._auth = auth
        self._authorization = metadata.get("authorization")
        given = metadata.get(PROVIDER_KEY)
        # The caller's own key for the provider, where it sent one.
        self.provider_key = given.decode("latin-1") if isinstance(given, bytes) else given
        self.request_id = new_request_id()
        self.key: KeyRecord

    async def authenticate(self) -> KeyRecord:
        """The caller's key, as it is now: long calls outlive keys. Raises `InferenceError`."""
        self.key = await self._auth.authenticate(self._authorization)
        return self.key

    def timeout_s(self, limit: float) -> float:
        """Seconds that an answer may take: to the call's deadline, at most `limit`."""
        left = cast("float | None", self._context.time_remaining())
        if left is None:
            return limit
        return min(left - min(left / 4, _HEADROOM_S), limit)

    def replayed(self) -> None:
        """Tell that the answer is that of an earlier request."""
        self._context.set_trailing_metadata(((_REQUEST_ID, self.request_id), _REPLAYED))

    async def abort(self, error: InferenceError) -> NoReturn:
        """End the call with the status of an error."""
        status = status_of(_brief(error), self.request_id)
        trailer = ((_REQUEST_ID, self.request_id), (_DETAILS, status.SerializeToString()))
        code = getattr(grpc.StatusCode, error.row.grpc)
        if self._before_abort is not None:
            await self._before_abort()
        await self._context.abort(code, status.message, trailer)


class Calls:
    """The calls that run."""

    def __init__(self, auth: Authenticator) -> None:
        self._auth = auth
        self._running: set[asyncio.Task[Any]] = set()
        self._closing = False

    def close(self) -> None:
        """End what still runs, and tell its callers why."""
        self._closing = True
        for task in self._running:
            task.cancel()

    @contextlib.asynccontextmanager
    async def call(
        self, context: Context, request: object, before_abort: Finish | None = None
    ) -> AsyncIterator[Call]:
        """Serve one call inside: what is raised there becomes its status.

        `request` is the first message, None where it could not be read. `before_abort` is awaited
        before a status that ends the call early.
        """
        task = asyncio.current_task()
        assert task is not None  # noqa: S101  # gRPC runs each call in a task
        self._running.add(task)
        call = Call(context, self._auth, before_abort)
        context.set_trailing_metadata(((_REQUEST_ID, call.request_id),))
        try:
            await call.authenticate()
            _require(request)
            yield call
        except InferenceError as exc:
            await call.abort(exc)
        except asyncio.CancelledError:
            if not self._closing:
                raise
            message = "the server was shut down before the answer was complete"
            await call.abort(InferenceError("draining", message, retry_after=1.0))
        except grpc.aio.InternalError as exc:
            # The caller has gone, so that core cannot send any more; it says so a moment later.
            raise asyncio.CancelledError from exc
        except grpc.aio.BaseError:
            raise
        except Exception as exc:  # noqa: BLE001  what is left is a bug, and none of the caller's
            await call.abort(unexpected(exc, call.request_id))
        finally:
            self._running.discard(task)


def status_of(error: InferenceError, request_id: str) -> status_pb2.Status:
    """The error as google.rpc.Status, with the id of the request that failed."""
    status = error_details(error)
    status.details.add().Pack(error_details_pb2.RequestInfo(request_id=request_id))
    return status


def unreadable() -> InferenceError:
    """A message that is not the protobuf message it has to be."""
    message = "the message cannot be read: its wire format is broken, or a string is not UTF-8"
    return InferenceError("invalid_request", message)


def _require(request: object) -> None:
    if request is None:
        raise unreadable()


def unexpected(exc: Exception, request_id: str) -> InferenceError:
    """A bug: the log has all of it, the caller an id to ask about."""
    _log.error("request failed", exc_info=exc, extra={"request_id": request_id})
    return InferenceError("internal", "something went wrong here; the request id says where")


def _brief(error: InferenceError) -> InferenceError:
    """The error with texts that fit into a status; a body or an in-band status has room for all."""
    failure = error.to_failure()
    failure.message = _cut(failure.message, _MESSAGE)
    for name in ("param", "code", "model", "upstream_request_id"):
        setattr(failure, name, _cut(getattr(failure, name), _FIELD))
    return InferenceError.from_failure(failure)


def _cut(text: str, size: int) -> str:
    """At most `size` bytes of a text."""
    data = text.encode()
    return text if len(data) <= size else data[: size - 3].decode(errors="ignore") + "..."
