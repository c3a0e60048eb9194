"""Jobs as bytes: an envelope put around a request that was serialised once; pure."""

from __future__ import annotations

from broker.v1 import job_pb2

# Field 9 of Job (`request`), length-delimited. Concatenated protobuf messages merge, so an
# envelope and its request need not be copied into one another for every attempt.
_REQUEST_TAG = bytes([(job_pb2.Job.REQUEST_FIELD_NUMBER << 3) | 2])


def encode(envelope: job_pb2.Job, request: bytes) -> bytes:
    """The job with this serialised request inside."""
    return b"".join((envelope.SerializeToString(), _REQUEST_TAG, varint(len(request)), request))


def varint(number: int) -> bytes:
    """A number as protobuf writes lengths and unsigned integers."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)
