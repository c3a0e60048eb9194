"""Encrypts callers' own provider keys for storage: AES-256-GCM under the fleet's master key.

What is encrypted is bound to the API key and the provider it was given for: moved to another
record it cannot be read. The master key is a setting, or the file `master_key` of the data folder.
"""

from __future__ import annotations

import base64
import contextlib
import os
import secrets
from collections.abc import Sequence
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from broker.settings import Settings

FILE = "master_key"
_NONCE_BYTES = 12
_PURPOSE = b"millrace: callers' own provider keys"
_VERSION = "1."


class VaultError(Exception):
    """A stored key cannot be read or written; the message says what to do."""


class Vault:
    """Encrypts with the first master key, decrypts with any of them, so that they can change."""

    def __init__(self, masters: Sequence[str]) -> None:
        self._ciphers = [AESGCM(_derived(master)) for master in masters]

    def encrypt(self, secret: str, key_id: str, provider: str) -> str:
        """The provider key of an API key as text to be stored."""
        nonce = os.urandom(_NONCE_BYTES)
        sealed = self._ciphers[0].encrypt(nonce, secret.encode(), _bound_to(key_id, provider))
        return _VERSION + base64.urlsafe_b64encode(nonce + sealed).decode()

    def decrypt(self, stored: str, key_id: str, provider: str) -> str:
        """The provider key itself. Raises `VaultError`."""
        data = b""
        if stored.startswith(_VERSION):
            with contextlib.suppress(ValueError):
                data = base64.urlsafe_b64decode(stored.removeprefix(_VERSION))
        nonce, sealed = data[:_NONCE_BYTES], data[_NONCE_BYTES:]
        for cipher in self._ciphers if sealed else ():
            with contextlib.suppress(InvalidTag):
                return cipher.decrypt(nonce, sealed, _bound_to(key_id, provider)).decode()
        raise VaultError(
            f"the key for {provider} stored with {key_id} was not encrypted with the master key "
            "known here: set MILLRACE_MASTER_KEY to the one it was, or store the key again"
        )


def open_vault(settings: Settings) -> Vault:
    """The vault of the master key that is set, else of the file. Raises `VaultError`."""
    masters = settings.master_key
    if not masters:
        with contextlib.suppress(OSError, UnicodeDecodeError):
            masters = ((settings.data / FILE).read_text("utf-8").strip(),)
    if not any(masters):
        raise VaultError(
            "there is no master key: set MILLRACE_MASTER_KEY, the same for every edge and for "
            "whoever stores provider keys"
        )
    return Vault(masters)


def make_master_key(data: Path) -> None:
    """Write a new master key into the data folder, unless there is one. Raises `OSError`."""
    # Hidden until it is whole, and a link fails where the file is there already.
    made = data / f".{FILE}.{os.getpid()}"
    descriptor = os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(secrets.token_urlsafe(32) + "\n")
        with contextlib.suppress(FileExistsError):
            os.link(made, data / FILE)
    finally:
        made.unlink()


def _derived(master: str) -> bytes:
    return HKDF(SHA256(), length=32, salt=None, info=_PURPOSE).derive(master.encode())


def _bound_to(key_id: str, provider: str) -> bytes:
    # Neither has a slash in it.
    return f"{key_id}/{provider}".encode()
