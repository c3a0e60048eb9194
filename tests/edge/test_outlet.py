"""What jobs say of the requests they are for."""

from __future__ import annotations

import asyncio
import hashlib
from typing import Any, cast

import pytest

from broker.bus.layout import MAX_INLINE_BODY
from broker.tasks import Tasks
from broker.v1 import generation_pb2, job_pb2
from edge.outlet import Outlet
from tests.edge.story import Story


async def test_the_body_of_a_large_job_stays_here_and_costs_the_loop_no_digest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    digests: list[int] = []
    monkeypatch.setattr(hashlib, "sha256", lambda data=b"": digests.append(len(data)))
    request = generation_pb2.Request()
    request.generate.model = "x" * MAX_INLINE_BODY
    story = Story(request=request)
    outlet = Outlet(cast("Any", None), cast("Any", None), {}, Tasks())
    story.exchange.launch()
    job = job_pb2.Job.FromString(outlet._job(story.exchange, story.attempt))
    assert job.body_reference == job_pb2.BodyReference(size=len(story.exchange.raw))
    assert digests == []
    await asyncio.sleep(0)
