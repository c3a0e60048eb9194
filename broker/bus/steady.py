"""Calls to NATS that sit out the change of a leader, and say in one way what failed."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from functools import partial
from typing import TypeVar

import msgspec
from nats.errors import Error as NatsError
from nats.errors import NoRespondersError
from nats.errors import TimeoutError as NatsTimeoutError
from nats.js.api import RawStreamMsg
from nats.js.errors import NoStreamResponseError, NotFoundError, ServiceUnavailableError

from broker.bus.connection import Bus, BusError
from broker.bus.queue import ApiError

T = TypeVar("T")

# Longer than it takes to elect a leader.
PATIENCE_S = 12.0
_RETRY_S = 0.25
_ASK_S = 5.0
# Subjects that are read at a time: few at first, and no more than half of what the server tells.
_FIRST_PAGE, _LARGEST_PAGE = 1000, 50_000
# Beyond all subjects.
_NOWHERE = 1 << 30
_PASSING = (
    NoRespondersError,
    NoStreamResponseError,
    ServiceUnavailableError,
    NatsTimeoutError,
    TimeoutError,
    ConnectionError,
)
# What says that there is no room: waiting changes nothing.
_FULL = frozenset({10023, 10028, 10047, 10077})


@contextlib.contextmanager
def mapped(what: str) -> Iterator[None]:
    """NATS errors as `BusError`, saying what was being done."""
    try:
        yield
    except (NatsError, TimeoutError, OSError) as exc:
        raise BusError(f"cannot {what}: {exc or type(exc).__name__}") from exc


async def patiently(bus: Bus, call: Callable[[], Awaitable[T]]) -> T:
    """What `call` returns; it is made again while NATS is away, so it has to be idempotent."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + PATIENCE_S
    while True:
        try:
            if not bus.connected:
                # The client would send it whenever it is connected again.
                raise ConnectionError("NATS cannot be reached")
            return await call()
        except _PASSING as exc:
            if getattr(exc, "err_code", None) in _FULL or loop.time() > deadline:
                raise
        await asyncio.sleep(_RETRY_S)


async def last_message(bus: Bus, stream: str, subject: str) -> RawStreamMsg | None:
    """The last message of a subject; None when its leader has none.

    Any replica is asked first, and it may not have what was written a moment ago.
    """
    for direct in (True, False):
        ask = partial(bus.js.get_msg, stream, subject=subject, direct=direct)
        with contextlib.suppress(NotFoundError):
            return await patiently(bus, ask)
    return None


class StreamState(msgspec.Struct):
    """What a stream tells of itself; of its subjects, with their messages, 100,000 at a time."""

    last_seq: int = 0
    messages: int = 0
    first_ts: str = ""
    subjects: dict[str, int] = {}


class _Told(msgspec.Struct):
    state: StreamState | None = None
    total: int = 0
    error: ApiError | None = None


_decode = msgspec.json.Decoder(_Told).decode


async def state_of(
    bus: Bus, stream: str, filter_subject: str = "", offset: int = 0, *, timeout_s: float = _ASK_S
) -> tuple[StreamState, int]:
    """A stream's state with such subjects from the one at `offset` on, and how many there are.

    Without a filter no subjects are told. Raises `BusError` where the stream does not answer, and
    what the client raises.
    """
    asked = {"subjects_filter": filter_subject, "offset": offset} if filter_subject else {}
    body = msgspec.json.encode(asked)
    answer = await bus.nc.request(f"$JS.API.STREAM.INFO.{stream}", body, timeout=timeout_s)
    told = _decode(answer.data)
    if told.state is None:
        why = told.error.description if told.error is not None else "it has no leader"
        raise BusError(f"cannot read {stream}: {why}")
    return told.state, told.total


async def subjects_of(bus: Bus, stream: str, filter_subject: str) -> list[str]:
    """The subjects of a stream that hold something, sorted. The server tells 100,000 at a time."""
    found: list[str] = []
    while True:
        state, total = await _page(bus, stream, filter_subject, len(found))
        found += state.subjects
        if not state.subjects or len(found) >= total:
            return sorted(found)


async def last_subjects_of(
    bus: Bus, stream: str, filter_subject: str, before: str = ""
) -> AsyncGenerator[list[str], None]:
    """The same from the last one to the first, in pages that grow: whoever needs few reads few.

    `before` is the subject that the first one is to come before. Those that come or go meanwhile
    are seen or not; no other one is missed.
    """
    _, end = await _page(bus, stream, filter_subject, _NOWHERE)
    size = _FIRST_PAGE
    while end > 0:
        begin = max(0, end - size)
        # It goes on beyond `end`: when some have gone, those behind them have moved to the front.
        state, _ = await _page(bus, stream, filter_subject, begin)
        some = state.subjects
        page = sorted((one for one in some if not before or one < before), reverse=True)
        if page:
            yield page
            before = page[-1]
        end, size = begin, min(4 * size, _LARGEST_PAGE)


async def _page(bus: Bus, stream: str, filter_subject: str, offset: int) -> tuple[StreamState, int]:
    return await patiently(bus, partial(state_of, bus, stream, filter_subject, offset))
