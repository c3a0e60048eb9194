"""Callers' own provider keys: which ones a request is run with, and at which providers.

They come with the request, or are stored, encrypted, with its API key. They leave this process in
grants alone (R20).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from broker.errors import InferenceError
from broker.keys import KeyRecord
from broker.routing import Target
from broker.settings import Settings
from broker.translate.headers import PROVIDER_KEY
from broker.v1 import generation_pb2

if TYPE_CHECKING:
    from broker.vault import Vault

_log = logging.getLogger(__name__)

_MOST_BYTES = 16 << 10


class ProviderKeys:
    """Finds the keys for requests. The master key is looked for when the first one is needed."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._vault: Vault | None = None

    def of(
        self,
        platform: generation_pb2.Platform,
        key: KeyRecord,
        given: str | None,
        targets: Sequence[Target],
    ) -> tuple[Sequence[Target], Mapping[str, str]]:
        """The targets that a request may go to, and its own key for each of their providers.

        `given` is what came with the request, None for nothing. Where the operator's keys are to be
        used there are none. Raises `InferenceError`.
        """
        wanted = platform.use_custom_keys if platform.HasField("use_custom_keys") else None
        if wanted is False or (given is None and not wanted):
            return targets, {}
        names = list(dict.fromkeys(target.provider for target in targets if not target.spare))
        if given is not None:
            if len(names) > 1:
                raise InferenceError(
                    "invalid_request",
                    f"{PROVIDER_KEY} is the key of one provider, and the model is served by "
                    f"{', '.join(names)}: name one of them, as in {names[0]}/{targets[0].model}",
                    param="model",
                )
            found = {names[0]: _checked(given)}
            return [target for target in targets if target.provider in found], found
        found = {name: self._stored(key, name) for name in names if name in key.provider_keys}
        if not found:
            raise _refused(
                f"use_custom_keys is true and there is no key of yours for {' or '.join(names)}: "
                f"send it as {PROVIDER_KEY}, or have it stored (millrace key provider-key set "
                f"{key.id} {names[0]})"
            )
        return [target for target in targets if target.provider in found], found

    def _stored(self, key: KeyRecord, provider: str) -> str:
        # cryptography takes 7 MB, which most edges have no use for.
        from broker.vault import VaultError, open_vault  # noqa: PLC0415

        try:
            if self._vault is None:
                self._vault = open_vault(self._settings)
            return self._vault.decrypt(key.provider_keys[provider], key.id, provider)
        except VaultError as exc:
            _log.error("%s", exc)  # its text is all there is to it
            message = f"your stored key for {provider} cannot be read; the edge's log says why"
            raise InferenceError("internal", message) from exc


def _checked(given: str) -> str:
    """A key that a header can carry; raises `InferenceError` without repeating it."""
    secret = given.strip()
    if not secret:
        raise _refused(f"{PROVIDER_KEY} is empty")
    if len(secret) > _MOST_BYTES or not (secret.isascii() and secret.isprintable()):
        raise _refused(f"{PROVIDER_KEY} is no key: it has to be ASCII text on one line")
    return secret


def _refused(message: str) -> InferenceError:
    return InferenceError("invalid_provider_key", message)
