"""What an API key is: its format, its digest and the record kept of it; pure.

Only the digest is stored. A plain SHA-256 is enough, and a slow password hash would be wrong: the
secret is 256 random bits, so there is nothing to guess, and every edge digests one per request.
That argument holds for generated keys only; whoever chooses a key must choose a long random one.
"""

from __future__ import annotations

import base64
import hashlib
from typing import Annotated

import msgspec

PREFIX = "mr-"
RANDOM_BYTES = 32
DEFAULT_TENANT = "default"
MAX_WEIGHT = 100


class KeyRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What edges know of one API key. Times are unix seconds.

    `id` names the key in lists and logs, `tenant` is who pays. `provider_keys` are the caller's own
    keys by provider, as `broker.vault` encrypts them. `weight` is its share of the turns where
    requests of several keys wait. Fields of newer versions are
    ignored when read.
    """

    id: str
    name: str
    tenant: str = DEFAULT_TENANT
    created_at: float
    revoked: bool = False
    revoked_at: float | None = None
    provider_keys: dict[str, str] = {}
    weight: Annotated[int, msgspec.Meta(ge=1, le=MAX_WEIGHT)] = 1

    @property
    def owner(self) -> str:
        """Whose responses and conversations it sees: its tenant's, or its own where it has none."""
        return self.id if self.tenant == DEFAULT_TENANT else self.tenant


def key_of(owner: str, tenant: str) -> str:
    """The id of the key that an owner of something durable is; empty where that is a tenant."""
    return owner if tenant == DEFAULT_TENANT else ""


_decoder = msgspec.json.Decoder(KeyRecord)


def generate(random_bytes: bytes) -> str:
    """The secret made of these `RANDOM_BYTES` random bytes: "mr-" and 43 URL-safe characters."""
    if len(random_bytes) != RANDOM_BYTES:
        raise ValueError(f"an API key takes {RANDOM_BYTES} random bytes, got {len(random_bytes)}")
    return PREFIX + base64.urlsafe_b64encode(random_bytes).rstrip(b"=").decode()


def digest(secret: str) -> str:
    """The name a key is stored under: SHA-256 of the secret, 64 hex digits."""
    return hashlib.sha256(secret.encode()).hexdigest()


def identifier(digest_hex: str) -> str:
    """The id of the key with this digest: the same secret always has the same id."""
    return "key_" + digest_hex[:16]


def encode(record: KeyRecord) -> bytes:
    """The record as it is stored: JSON."""
    return msgspec.json.encode(record)


def decode(value: bytes) -> KeyRecord:
    """The stored record; raises `msgspec.DecodeError` when it is none."""
    return _decoder.decode(value)
