"""What a dead letter holds of a job, in all lanes."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from broker.deadletter import letter
from broker.v1 import generation_pb2, job_pb2

SECRET = b"a secret prompt"


def request(logged: bool | None) -> job_pb2.Job:
    """A job of the interactive lane, or of the one for background responses."""
    asked = generation_pb2.Request()
    asked.generate.messages.add().parts.add().text.text = SECRET.decode()
    if logged is not None:
        asked.platform.log_query_body = logged
    return job_pb2.Job(request_id="a", request=asked)


def line(logged: bool | None) -> job_pb2.Job:
    """One of the batch lane."""
    told = b"" if logged is None else b', "log_query_body": %s' % str(logged).lower().encode()
    body = b'{"messages": [{"role": "user", "content": "%s"}]%s}' % (SECRET, told)
    return job_pb2.Job(request_id="a", line=job_pb2.BatchLine(batch_id="b", json=body))


@pytest.mark.parametrize("lane", [request, line], ids=["request", "line"])
@pytest.mark.parametrize(("logged", "kept"), [(None, True), (True, True), (False, False)])
def test_a_body_is_kept_unless_its_caller_refuses(
    lane: Callable[[bool | None], job_pb2.Job], logged: bool | None, kept: bool
) -> None:
    data = letter(lane(logged))
    assert (SECRET in data) is kept
    assert job_pb2.Job.FromString(data).request_id == "a"
    assert job_pb2.Job.FromString(data).line.batch_id == lane(True).line.batch_id


def test_what_was_too_large_for_the_queue_is_not_kept() -> None:
    reference = job_pb2.BodyReference(size=1 << 20, digest=b"d", object="t/x")
    kept = job_pb2.Job.FromString(letter(job_pb2.Job(request_id="a", body_reference=reference)))
    assert kept == job_pb2.Job(request_id="a")


def test_a_line_says_where_in_its_file_it_is() -> None:
    place = job_pb2.FileRange(owner="t", file_id="f", offset=1, size=2)
    job = job_pb2.Job(request_id="a", line=job_pb2.BatchLine(batch_id="b", range=place))
    assert letter(job) == job.SerializeToString()


def test_the_secret_of_a_claim_stays_out() -> None:
    assert letter(job_pb2.Job(request_id="a", claim_secret=b"x")) == b"\n\x01a"
