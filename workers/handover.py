"""Lines of a batch as they go to a provider's batch API, and as they come back from there."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass

from broker import durable, operations, subjects
from broker.batch import lines as inputs
from broker.batch.chunks import Cursor, Raw, Size
from broker.bus.layout import MAX_INLINE_BODY
from broker.errors import InferenceError
from broker.routing import preferences
from broker.translate import lines
from broker.v1 import generation_pb2, job_pb2
from workers.batches import BatchApi, Row
from workers.caller import Said
from workers.connection import Sink
from workers.emulation import plan_of
from workers.failures import Limits
from workers.keys import Keys
from workers.lineattempt import LineAttempt, LineSession, ReadRange
from workers.provider import Call, Provider
from workers.seats import Seats
from workers.state import own_state
from workers.tools import Tools
from workers.upload import Attachments

_ALL = Size(1 << 40, 1 << 40)


@dataclass(frozen=True, slots=True)
class Handed:
    """A line of a group."""

    raw: Raw
    line: inputs.Line


async def read(group: job_pb2.NativeGroup, read_range: ReadRange) -> dict[int, Handed]:
    """The lines of a group, by their numbers. Raises `InferenceError` where the file is gone."""
    cursor = Cursor(group.range.offset, group.first_line)
    cursor.feed(await read_range(group.range))
    chunk = cursor.take(last=True, size=_ALL)
    wanted = set(group.numbers)
    found: Iterable[Raw] = chunk.lines if chunk is not None else ()
    return {
        raw.number: Handed(raw, inputs.read(raw.data)[0]) for raw in found if raw.number in wanted
    }


def call_of(handed: Handed, endpoint: str, model: str, provider: Provider) -> Call | None:
    """The call for a line as a batch API takes it; None where it takes none such.

    What is wrong with a line is not told here: it goes its ordinary way then.
    """
    api = provider.batches
    if api is None:
        return None
    try:
        request = own_state(lines.read(endpoint, bytes(handed.line.body)), provider.name)
        provider = provider.serving(request, model)
        # What a worker does around a call it cannot do there; and batches are kept for a while.
        if (
            _private(request)
            or request.platform.extra_headers
            or plan_of(request, model, provider) is not None
        ):
            return None
        dialect = provider.dialect_for(model, operations.name(request))
        call = dialect.call(request, model, provider)
    except InferenceError:
        return None
    return call if _fits(call, api) else None


def _private(request: generation_pb2.Request) -> bool:
    """Whether the caller said what may become of the data."""
    asked = preferences.read(request.platform.provider)
    return bool(asked.zdr or asked.data_collection == "deny" or asked.compliance)


def _fits(call: Call, api: BatchApi) -> bool:
    known = {name.lower() for name in call.headers} <= api.headers
    return known and api.takes(call) and not call.form and not call.base_url


def line_job(job: job_pb2.Job, handed: Handed) -> job_pb2.Job:
    """The job of one line of a group, at the attempt that the group is."""
    group, raw = job.native, handed.raw
    body = bytes(handed.line.body)
    made = job_pb2.Job(
        request_id=subjects.line_id(group.batch_id, raw.number),
        attempt=group.line_attempt,
        tenant=job.tenant,
        owner=job.owner,
        remaining_ms=job.remaining_ms,
        line=job_pb2.BatchLine(
            batch_id=group.batch_id,
            number=raw.number,
            custom_id=handed.line.custom_id,
            endpoint=group.endpoint,
        ),
    )
    if len(body) > MAX_INLINE_BODY:
        made.line.range.CopyFrom(
            job_pb2.FileRange(
                owner=group.range.owner,
                file_id=group.range.file_id,
                offset=raw.offset,
                size=len(raw.data),
            )
        )
    else:
        made.line.json = body
    plan = durable.plan_of(job)
    plan.losses = 0
    durable.put_plan(made, plan)
    return made


class HandedAttempt(LineAttempt):
    """An attempt at a line that was made in a provider's batch: `row` is what came of it."""

    def __init__(self, job: job_pb2.Job, tools: Tools, read_range: ReadRange, row: Row) -> None:
        super().__init__(job, tools, read_range)
        self._row = row
        self._native = True

    async def _call(self, request: generation_pb2.Request, session: LineSession) -> None:
        # What is told of one line says nothing of keys, and takes up nobody's room.
        await self._make(request, session, _Replay(self._row), Keys(()), Seats())


class _Replay:
    """Answers any call with a row."""

    def __init__(self, row: Row) -> None:
        self._row = row

    async def open(
        self,
        call: Call,
        *,
        key: str | None,
        limits: Limits,
        extra_headers: Mapping[str, str],
        attachments: Attachments,
    ) -> Said:
        """What the provider answered to this call."""
        del call, key, limits, extra_headers, attachments
        return _Answer(self._row)


class _Answer:
    """The answer in a row; all of it is there."""

    def __init__(self, row: Row) -> None:
        self.status = row.status
        self.headers = row.headers
        self.ended = True
        self._body = row.body

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self._body

    async def read(self, limit: int, *, cut: bool) -> bytes:
        """The body."""
        del cut
        return self._body[:limit]

    async def push(self, sink: Sink) -> bool:
        """Give all of it to `sink`, once."""
        body, self._body = self._body, b""
        return not body or sink(body)

    def settle(self) -> None:
        """All of it is there."""

    async def aclose(self) -> None:
        """There is nothing to let go."""
