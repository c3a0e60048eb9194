"""Webhooks of batches: what is told, how it is signed and how often it is tried; pure.

Events are OpenAI's, signatures those of Standard Webhooks, so that its SDK verifies them.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac

import msgspec

from broker.batch import states
from broker.v1 import batch_pb2

# State -> event.
EVENTS = {
    states.COMPLETED: "batch.completed",
    states.FAILED: "batch.failed",
    states.EXPIRED: "batch.expired",
    states.CANCELLED: "batch.cancelled",
}
# Seconds between two tries; after the last one the event is given up.
WAITS_S = (5, 30, 120, 600, 1800, 3600, 2 * 3600, 4 * 3600, 8 * 3600, 8 * 3600)
_PREFIX = "whsec_"
_json = msgspec.json.Encoder().encode


def event_of(record: batch_pb2.StoredBatch) -> str:
    """What is told of a batch that is over."""
    return EVENTS[record.status]


def event_id(record: batch_pb2.StoredBatch) -> str:
    """The id of the event: the same however often it is told, so that a receiver may tell."""
    return f"evt_{record.id.removeprefix('batch_')}_{event_of(record).rpartition('.')[2]}"


def payload(record: batch_pb2.StoredBatch) -> bytes:
    """The body that is posted."""
    at = record.completed_at or record.failed_at or record.expired_at or record.cancelled_at
    return _json(
        {
            "id": event_id(record),
            "object": "event",
            "created_at": at,
            "type": event_of(record),
            "data": {"id": record.id},
        }
    )


def headers(secret: str, event: str, now: int, body: bytes) -> dict[str, str]:
    """Of a post at `now`, Unix seconds."""
    signed = f"{event}.{now}.".encode() + body
    digest = hmac.new(key(secret), signed, hashlib.sha256).digest()
    return {
        "content-type": "application/json",
        "webhook-id": event,
        "webhook-timestamp": str(now),
        "webhook-signature": f"v1,{base64.b64encode(digest).decode()}",
    }


def key(secret: str) -> bytes:
    """The key that a secret stands for: base64 behind `whsec_`, else its own bytes.

    Raises `ValueError` where it cannot be read, or is empty.
    """
    if not secret.startswith(_PREFIX):
        found = secret.encode()
    else:
        try:
            found = base64.b64decode(secret.removeprefix(_PREFIX), validate=True)
        except binascii.Error as exc:
            raise ValueError("expected base64 behind whsec_") from exc
    if not found:
        raise ValueError("expected a secret")
    return found


def place(url: str) -> str:
    """What logs may say of an address: paths and queries hold secrets of their own."""
    scheme, _, rest = url.partition("://")
    host = rest.partition("/")[0].partition("?")[0].rpartition("@")[2]
    return f"{scheme}://{host} ({mark(url)})"


def mark(url: str) -> str:
    """How a record says that this address was told."""
    return hashlib.sha256(url.encode()).hexdigest()[:16]
