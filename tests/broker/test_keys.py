"""API keys: format, digest, record."""

from __future__ import annotations

import hashlib
import re

import msgspec
import pytest

from broker import keys
from broker.keys import KeyRecord


def test_a_generated_key_carries_all_256_bits_in_url_safe_characters() -> None:
    assert re.fullmatch(r"mr-[A-Za-z0-9_-]{43}", keys.generate(bytes(range(224, 256))))
    seen = {keys.generate(bytes(31) + bytes([last])) for last in range(256)}
    assert len(seen) == 256


WEIGHTLESS = b'{"id":"key_1","name":"ci","created_at":1.5,"weight":0}'


@pytest.mark.parametrize("size", [0, 16, 31, 33])
def test_a_key_of_too_little_randomness_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match="32 random bytes"):
        keys.generate(bytes(size))


def test_the_digest_is_a_valid_bucket_key_that_does_not_show_the_secret() -> None:
    secret = keys.generate(bytes(32))
    assert keys.digest(secret) == hashlib.sha256(secret.encode()).hexdigest()
    assert re.fullmatch(r"[0-9a-f]{64}", keys.digest(secret))


def test_a_chosen_key_may_hold_any_text() -> None:
    assert len(keys.digest("schlüssel-\N{KEY}")) == 64


def test_the_same_secret_has_the_same_id() -> None:
    digest = keys.digest("mr-1")
    assert keys.identifier(digest) == "key_" + digest[:16]


def test_a_record_survives_storage_and_ignores_fields_of_newer_versions() -> None:
    record = KeyRecord(id="key_1", name="ci", created_at=1.5, revoked=True, revoked_at=2.5)
    assert keys.decode(keys.encode(record)) == record
    newer = keys.encode(record)[:-1] + b',"budget":{"usd":1}}'
    assert keys.decode(newer) == record


@pytest.mark.parametrize("value", [b"", b"{}", b"null", b'{"id":1}', WEIGHTLESS])
def test_what_is_no_record_is_refused(value: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        keys.decode(value)
