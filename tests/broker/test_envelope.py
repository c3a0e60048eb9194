"""An envelope around bytes is the message that protobuf would have written, read back whole."""

from __future__ import annotations

import pytest

from broker import envelope
from broker.v1 import generation_pb2, job_pb2


def job() -> job_pb2.Job:
    return job_pb2.Job(
        request_id="req_1",
        attempt=3,
        losses=1,
        tenant="acme",
        route=job_pb2.Route(provider="openai", pool="main", model="gpt-4o"),
        remaining_ms=1500,
        delivery_address="127.0.0.1:1234",
        claim_secret=bytes(16),
    )


# Lengths around every byte that the length of the request grows by.
SIZES = [0, 1, 100, 127, 128, 16_383, 16_384, 2_097_151, 2_097_152]


@pytest.mark.parametrize("size", SIZES)
def test_a_job_of_any_size_is_read_back_whole(size: int) -> None:
    request = generation_pb2.Request()
    request.generate.model = "x" * size
    raw = request.SerializeToString()
    whole = job()
    whole.request.CopyFrom(request)
    assert job_pb2.Job.FromString(envelope.encode(job(), raw)) == whole


def test_an_empty_request_is_still_a_request_and_no_reference() -> None:
    found = job_pb2.Job.FromString(envelope.encode(job(), b""))
    assert found.WhichOneof("body") == "request"


def test_the_request_wins_over_a_reference_left_in_the_envelope() -> None:
    wrapped = job()
    wrapped.body_reference.size = 7
    found = job_pb2.Job.FromString(envelope.encode(wrapped, b""))
    assert found.WhichOneof("body") == "request"


def test_fields_of_a_newer_request_survive() -> None:
    unknown = bytes([0xFA, 0x3F, 3]) + b"new"  # field 1023, length-delimited
    found = job_pb2.Job.FromString(envelope.encode(job(), unknown))
    assert found.request.SerializeToString() == unknown
