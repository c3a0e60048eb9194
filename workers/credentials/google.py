"""Headers for Google Cloud: an OAuth token of the machine or of a service account, or an API key.

A key is one of
    nothing                  what the machine has: GOOGLE_APPLICATION_CREDENTIALS (a service account
                             or workload identity), gcloud's login, the metadata server
    a service account's key  its JSON, as it is or in base64
    an access token          `ya29.` and more
    an API key               anything else

Tokens are renewed some minutes before they end, beside the calls, which go on with the old one.
google-auth is loaded with the first token; it blocks, so it runs in a thread.
"""

from __future__ import annotations

import asyncio
import base64
import functools
import importlib
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import orjson

from broker.errors import InferenceError
from workers.provider import Call, Credentials, Provider

_log = logging.getLogger(__name__)

SCOPE = "https://www.googleapis.com/auth/cloud-platform"
# The only place that a service account's key is sent a signature to: its JSON may be a caller's.
TOKEN_URL = "https://oauth2.googleapis.com/token"  # noqa: S105  # an address, no secret
# A token is renewed when it lasts no longer than this.
AHEAD_S = 300.0
# Of a token that came without an end.
_UNKNOWN_LIFE_S = 600.0
# After a failure to renew ahead of time; and how young a token may be refused without being lost.
_PAUSE_S = 10.0
_TIMEOUT_S = 10.0
# Callers may bring keys of their own.
_MOST_TOKENS = 256

_TOKEN = "ya29."  # noqa: S105  # how Google's tokens begin
_JSON_IN_BASE64 = ("eyJ", "ewo", "ew0", "eyA")


def make(_provider: Provider) -> Credentials:
    """The credentials of one worker; they hold tokens, so each worker has its own."""
    return GoogleCredentials()


class GoogleCredentials:
    """See the module."""

    def __init__(self) -> None:
        self._tokens: OrderedDict[str, _Token] = OrderedDict()

    async def headers(self, key: str | None, call: Call, url: str) -> Mapping[str, str]:
        """The headers for a call, in lower case. Raises `InferenceError`."""
        key = (key or "").strip()
        if key and not _is_account(key):
            if not (key.isascii() and key.isprintable()):
                raise InferenceError("upstream_credentials", "The key is none of Google's.")
            bearer = key.startswith(_TOKEN)
            return {"authorization": f"Bearer {key}"} if bearer else {"x-goog-api-key": key}
        return await self._token(key).headers()

    def refused(self, key: str | None) -> None:
        """A token that Google refuses is not used again."""
        if token := self._tokens.get((key or "").strip()):
            token.forget()

    def _token(self, key: str) -> _Token:
        token = self._tokens.get(key)
        if token is None:
            token = self._tokens[key] = _Token(functools.partial(_load, key))
            if len(self._tokens) > _MOST_TOKENS:
                self._tokens.popitem(last=False)
        self._tokens.move_to_end(key)
        return token


class _Token:
    """The token of one key, and its renewal."""

    def __init__(self, load: Callable[[], Any]) -> None:
        self._load = load
        self._credentials: Any = None
        self._headers: Mapping[str, str] = {}
        self._ends = 0.0
        # Not renewed before then, in monotonic time.
        self._rests_until = 0.0
        self._renewal: asyncio.Task[InferenceError | None] | None = None

    async def headers(self) -> Mapping[str, str]:
        now = time.monotonic()
        left = self._ends - now
        if left < AHEAD_S:
            if self._renewal is None and (left <= 0 or now >= self._rests_until):
                self._renewal = asyncio.create_task(self._renew(), name="token")
            if left <= 0 and self._renewal is not None:
                # Whoever gives up waiting must not take it from the others.
                failed = await asyncio.shield(self._renewal)
                if failed is not None:
                    raise InferenceError(failed.reason, failed.message)
        return self._headers

    def forget(self) -> None:
        if time.monotonic() >= self._rests_until:
            self._ends = 0.0

    async def _renew(self) -> InferenceError | None:
        """Fetch a token; the error where that failed, told to those who wait for it."""
        try:
            self._headers, life_s = await asyncio.to_thread(self._fetch)
        except Exception as exc:  # noqa: BLE001  # google-auth lets errors of many libraries out
            failed = _failure(exc)
            _log.warning("no token for Google Cloud: %s", failed.message)
            return failed
        else:
            self._ends = time.monotonic() + life_s
            return None
        finally:
            self._rests_until = time.monotonic() + _PAUSE_S
            self._renewal = None

    def _fetch(self) -> tuple[Mapping[str, str], float]:
        """Headers with a new token, and how many seconds it lasts; blocks."""
        if self._credentials is None:
            self._credentials = self._load()
        requests: Any = importlib.import_module("google.auth.transport.requests")
        credentials = self._credentials
        credentials.refresh(functools.partial(requests.Request(), timeout=_TIMEOUT_S))
        headers: dict[str, str] = {}
        credentials.apply(headers)
        if credentials.expiry is None:
            return headers, _UNKNOWN_LIFE_S
        left = credentials.expiry.replace(tzinfo=UTC) - datetime.now(UTC)
        return headers, left.total_seconds()


def _is_account(key: str) -> bool:
    return key.startswith(("{", *_JSON_IN_BASE64))


def _load(key: str) -> Any:
    """The credentials of google-auth for the JSON of an account, or the machine's for nothing."""
    if not key:
        auth: Any = importlib.import_module("google.auth")
        return auth.default(scopes=[SCOPE])[0]
    try:
        given = orjson.loads(key if key.startswith("{") else base64.b64decode(key))
    except ValueError as exc:
        raise InferenceError("upstream_credentials", "The key is not valid JSON.") from exc
    if not isinstance(given, dict) or given.get("type") != "service_account":
        # Other kinds name files to read and addresses to call.
        raise InferenceError("upstream_credentials", "The key is not a service account's.")
    accounts: Any = importlib.import_module("google.oauth2.service_account")
    info = {**given, "token_uri": TOKEN_URL}
    return accounts.Credentials.from_service_account_info(info, scopes=[SCOPE])


def _failure(exc: Exception) -> InferenceError:
    """What google-auth's failure means, without anything of the key."""
    if isinstance(exc, InferenceError):
        return exc
    if isinstance(exc, ModuleNotFoundError):
        return InferenceError("upstream_credentials", f"google-auth is not installed: {exc}")
    exceptions: Any = importlib.import_module("google.auth.exceptions")
    said = str(exc.args[0] if exc.args else exc)
    if isinstance(exc, ValueError):
        reason, said = "upstream_credentials", f"Google's credentials cannot be used: {said}"
    elif isinstance(exc, exceptions.DefaultCredentialsError):
        reason = "upstream_credentials"
        said = "The worker has no credentials for Google Cloud: set GOOGLE_APPLICATION_CREDENTIALS."
    elif isinstance(exc, exceptions.TransportError):
        reason, said = "upstream_unreachable", "Google's token service could not be reached."
    elif getattr(exc, "retryable", False):
        reason, said = "upstream_overloaded", f"Google gave no token: {said}"
    else:
        reason, said = "upstream_credentials", f"Google gave no token: {said}"
    return InferenceError(reason, said)
