"""Makes jobs of a chunk's lines: where each goes, and what its worker is told."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from broker import durable, subjects
from broker.batch import lines, native
from broker.batch.chunks import LINES, Chunk, Raw
from broker.batching.run import Run
from broker.bus.atomic import Message
from broker.bus.layout import MAX_INLINE_BODY
from broker.dispatch import Plan
from broker.errors import InferenceError
from broker.routing import Target
from broker.translate.lines import fail
from broker.v1 import batch_pb2, job_pb2

# Attempts of the n-th sweep begin above n times this.
EPOCH = 1000
# Beyond this the deadline bounds no call.
_LONGEST_CALL_S = 3600


def _all(_model: str) -> bool:
    return True


@dataclass(slots=True)
class Prepared:
    """A chunk that can be published."""

    chunk: Chunk
    # Lines that this pass asks for.
    asked: int
    messages: list[Message]
    # How many of them go where.
    demand: Counter[str]
    # Lines that nobody can ever answer.
    refused: list[batch_pb2.LineResult]
    # Lines for which there is no worker now.
    waiting: int = 0
    # Where the lines of each model go; "" = there is no worker.
    models: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    # (provider, model) of where they go.
    places: frozenset[tuple[str, str]] = frozenset()

    @property
    def large(self) -> bool:
        """Whether it has more lines than chunks that are queued line by line."""
        return len(self.chunk.lines) > LINES


async def prepare(run: Run, chunk: Chunk, takes: Callable[[str], bool] = _all) -> Prepared:
    """Jobs for the lines of a chunk, in their order: those whose models are taken."""
    made = Prepared(chunk, 0, [], Counter(), [])
    jobs = _Jobs(run)
    endpoint = run.record.endpoint
    hand_over = _HandOver(run)
    for raw in chunk.lines:
        if run.skips(raw.number):
            continue
        line, head = lines.read(raw.data)
        if not takes(head.model):
            continue
        made.asked += 1
        routed = await run.services.routes.decide(endpoint, head, line.body)
        decided = routed if isinstance(routed, InferenceError) else hand_over.take(raw, routed)
        if decided is None:
            continue
        if isinstance(decided, InferenceError):
            if decided.reason == "no_worker":
                made.waiting += 1
                made.models[head.model].add("")
            else:
                refused = batch_pb2.LineResult(
                    number=raw.number,
                    custom_id=line.custom_id,
                    request_id=subjects.line_id(run.id, raw.number).removeprefix("batch_"),
                )
                fail(refused, endpoint, decided)
                made.refused.append(refused)
            continue
        message = jobs.message(raw, line, decided)
        made.demand[message.subject] += 1
        made.models[head.model].add(message.subject)
        made.messages.append(message)
    for targets, numbers in hand_over.groups.items():
        message = jobs.group(chunk, targets, numbers)
        made.demand[message.subject] += 1
        made.messages.append(message)
    made.places = frozenset(
        (targets[0].provider, targets[0].model) for targets in (*jobs.targets, *hand_over.groups)
    )
    return made


async def hands_over(run: Run) -> bool:
    """Whether the lines that are next may go to a provider's own batch API."""
    record, services = run.record, run.services
    if not native.wanted(record, services.now()):
        return False
    if record.options.mixed_models and record.options.execution == native.NATIVE:
        return True
    decided = await services.routes.decide(record.endpoint, lines.Head(record.model), b"")
    if isinstance(decided, InferenceError):
        return False
    return native.handed_over(decided, services.has_batches) is not None


class _HandOver:
    """The lines of a chunk that go to providers' own batch APIs, by where they go."""

    def __init__(self, run: Run) -> None:
        self._record = run.record
        self._has_batches = run.services.has_batches
        self._wanted = native.wanted(run.record, run.services.now())
        self.groups: dict[tuple[Target, ...], list[int]] = {}

    def take(
        self, raw: Raw, targets: tuple[Target, ...]
    ) -> tuple[Target, ...] | InferenceError | None:
        """Take a line; where it goes, or why it cannot, if it is not taken."""
        if not native.possible(self._record):
            return targets
        able = native.handed_over(targets, self._has_batches)
        if able is None:
            strict = self._record.options.execution == native.NATIVE
            return native.unsupported(targets) if strict else targets
        if not self._wanted:
            return targets
        self.groups.setdefault(able, []).append(raw.number)
        return None


class _Jobs:
    """Writes jobs of one chunk: what they share is serialised once."""

    def __init__(self, run: Run) -> None:
        self._record = run.record
        self._maybe_done_to = run.maybe_done_to
        self._attempt = EPOCH * run.record.progress.epoch + 1
        left_s = max(1, run.record.expires_at - run.services.now())
        # What one call may take: 0 is what the workers' settings say.
        self._left_ms = 1000 * left_s if left_s < _LONGEST_CALL_S else 0
        self._shared: dict[tuple[Target, ...], tuple[str, bytes]] = {}

    @property
    def targets(self) -> Iterable[tuple[Target, ...]]:
        """Where lines go one by one."""
        return self._shared

    def message(self, raw: Raw, line: lines.Line, targets: tuple[Target, ...]) -> Message:
        """The message that queues a line."""
        shared = self._shared.get(targets)
        if shared is None:
            shared = self._shared[targets] = self._share(targets)
        subject, common = shared
        request_id = subjects.line_id(self._record.id, raw.number)
        asked = job_pb2.BatchLine(number=raw.number, custom_id=line.custom_id)
        asked.maybe_done = raw.number <= self._maybe_done_to
        if len(line.body) > MAX_INLINE_BODY:
            asked.range.CopyFrom(
                job_pb2.FileRange(
                    owner=self._record.owner,
                    file_id=self._record.input_file_id,
                    offset=raw.offset,
                    size=len(raw.data),
                )
            )
        else:
            asked.json = bytes(line.body)
        # Serialised messages that stand behind each other are merged.
        own = job_pb2.Job(request_id=request_id, line=asked).SerializeToString()
        message_id = subjects.message_id(request_id, self._attempt)
        return Message(subject, message_id, common + own)

    def group(self, chunk: Chunk, targets: tuple[Target, ...], numbers: list[int]) -> Message:
        """The message that hands lines of a chunk over."""
        record = self._record
        job = job_pb2.Job(
            request_id=subjects.group_id(record.id, numbers[0]),
            attempt=self._attempt,
            tenant=record.tenant,
            owner=record.owner,
            native=job_pb2.NativeGroup(
                batch_id=record.id,
                endpoint=record.endpoint,
                range=job_pb2.FileRange(
                    owner=record.owner,
                    file_id=record.input_file_id,
                    offset=chunk.begin,
                    size=chunk.end - chunk.begin,
                ),
                first_line=chunk.number,
                numbers=numbers,
                line_attempt=self._attempt,
            ),
        )
        durable.put_plan(job, Plan(targets))
        subject = subjects.job(
            subjects.BATCH, targets[0].provider, targets[0].pool, durable.model_token(targets[0])
        )
        return Message(
            subject, subjects.message_id(job.request_id, job.attempt), job.SerializeToString()
        )

    def _share(self, targets: tuple[Target, ...]) -> tuple[str, bytes]:
        record, target = self._record, targets[0]
        job = job_pb2.Job(
            attempt=self._attempt,
            tenant=record.tenant,
            owner=record.owner,
            remaining_ms=self._left_ms,
            line=job_pb2.BatchLine(batch_id=record.id, endpoint=record.endpoint),
        )
        durable.put_plan(job, Plan(targets))
        model = durable.model_token(target)
        subject = subjects.job(subjects.BATCH, target.provider, target.pool, model)
        return subject, job.SerializeToString()
