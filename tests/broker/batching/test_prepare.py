"""Jobs of a chunk: those that another leader may have queued say so."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from broker.batch import states
from broker.batch.chunks import Chunk, Raw
from broker.batching.prepare import prepare
from broker.batching.run import Run
from broker.bus.batches import KeptBatch
from broker.routing import Target
from broker.v1 import batch_pb2, job_pb2

URL = "/v1/chat/completions"
FAR = 1_000_000


class Routes:
    """Everything goes to one place."""

    async def decide(self, *_: object) -> tuple[Target, ...]:
        return (Target("sim", "main", "m", listed=True),)


def run_of(status: batch_pb2.BatchStatus.ValueType) -> Run:
    services: Any = SimpleNamespace(
        routes=Routes(), now=lambda: 0, has_batches=lambda *_: False, batches=None
    )
    record = batch_pb2.StoredBatch(
        id="batch_" + "0" * 32, owner="acme", endpoint=URL, expires_at=9, status=status
    )
    record.progress.next_line = 50
    return Run(services, KeptBatch(record, 1))


async def marked(run: Run) -> list[bool]:
    """Whether the jobs of line 50 and of one far behind it say that they may be done."""
    data = b'{"custom_id":"a","method":"POST","url":"%b","body":{"model":"m"}}\n' % URL.encode()
    raws = tuple(Raw(number, 0, data) for number in (50, FAR))
    made = await prepare(run, Chunk(raws, 0, 50, len(data), FAR + 1))
    jobs = [job_pb2.Job.FromString(message.data) for message in made.messages]
    return [job.line.maybe_done for job in sorted(jobs, key=lambda job: job.line.number)]


@pytest.mark.parametrize(
    ("status", "expected"),
    [(states.VALIDATING, [False, False]), (states.IN_PROGRESS, [True, False])],
)
async def test_what_another_leader_may_have_queued_is_looked_for_first(
    status: batch_pb2.BatchStatus.ValueType, expected: list[bool]
) -> None:
    assert await marked(run_of(status)) == expected


async def test_so_is_what_was_published_without_an_answer() -> None:
    run = run_of(states.VALIDATING)
    run.doubt()
    assert await marked(run) == [True, False]


async def test_a_batch_knows_where_its_lines_have_gone_also_after_another_took_over() -> None:
    run = run_of(states.IN_PROGRESS)
    data = b'{"custom_id":"a","method":"POST","url":"%b","body":{"model":"m"}}\n' % URL.encode()
    made = await prepare(run, Chunk((Raw(50, 0, data),), 0, 50, len(data), 51))
    run.went_to(made.places)
    run.went_to([("sim", "m"), ("groq", "llama")])
    run.went_to(("sim", "x" * n) for n in range(2, 10_000, 50))
    known = [(place.provider, place.model) for place in run.record.progress.places]
    assert known[:2] == [("sim", "m"), ("groq", "llama")]
    assert len(known) == len(set(known)) == 100
    again = Run(run.services, KeptBatch(run.record, 2))
    again.went_to(known)
    assert len(again.record.progress.places) == 100
