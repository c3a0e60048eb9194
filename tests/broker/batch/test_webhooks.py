"""Webhooks: OpenAI's events, signed as Standard Webhooks have it."""

from __future__ import annotations

import base64
import json

import openai
import pytest

from broker.batch import states, webhooks
from broker.v1 import batch_pb2

SECRET = "whsec_" + base64.b64encode(b"a secret of this test").decode()
RECORD = batch_pb2.StoredBatch(
    id="batch_" + "a" * 32, status=states.COMPLETED, completed_at=1_800_000_000
)
NOW = 1_800_000_005


def test_the_signature_is_that_of_the_published_example() -> None:
    # From the specification of Standard Webhooks.
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    body = b'{"test": 2432232314}'
    made = webhooks.headers(secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, body)
    assert made["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_the_openai_sdk_verifies_and_reads_an_event(monkeypatch: pytest.MonkeyPatch) -> None:
    body = webhooks.payload(RECORD)
    headers = webhooks.headers(SECRET, webhooks.event_id(RECORD), NOW, body)
    monkeypatch.setattr("time.time", lambda: float(NOW))
    client = openai.OpenAI(api_key="unused", webhook_secret=SECRET)
    event = client.webhooks.unwrap(body, headers)
    assert event.type == "batch.completed"
    assert event.data.id == RECORD.id
    with pytest.raises(openai.InvalidWebhookSignatureError):
        client.webhooks.unwrap(body.replace(b"completed", b"failed"), headers)


@pytest.mark.parametrize("status", webhooks.EVENTS)
def test_every_end_has_its_event_and_an_id_of_its_own(
    status: batch_pb2.BatchStatus.ValueType,
) -> None:
    record = batch_pb2.StoredBatch(id=RECORD.id, status=status, failed_at=7)
    told = json.loads(webhooks.payload(record))
    assert told["type"].startswith("batch.")
    assert told["id"].endswith(told["type"].removeprefix("batch."))
    assert told["created_at"] == 7


@pytest.mark.parametrize("secret", ["", "whsec_", "whsec_not base64"])
def test_a_secret_that_cannot_sign_is_refused(secret: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        webhooks.key(secret)
    assert webhooks.key("any text") == b"any text"
