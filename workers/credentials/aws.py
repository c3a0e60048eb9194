"""Lets calls in at AWS: a Bedrock API key as a bearer, else a signature of version 4.

A key is one of
    nothing                  what AWS's own chain finds: variables, profiles, single sign-on, a web
                             identity, the container's or the instance's role
    an access key            `AKIA...:SECRET`, or `ASIA...:SECRET:TOKEN` for a temporary one
    a Bedrock API key        anything else

What is not Bedrock itself, such as S3, takes no API key: there the chain is asked.

Signing and the chain are botocore's, which is loaded with the first call that needs it.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import re
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from broker.errors import InferenceError
from workers.provider import Call, Credentials, Provider

_log = logging.getLogger(__name__)

# Every API of Bedrock signs by this name, whatever its host is called.
_SERVICE = "bedrock"
# This one has a way of its own to sign.
_STORAGE = "s3"
_ACCESS_KEY = re.compile(r"(A[KS]IA[A-Z0-9]{8,124}):([A-Za-z0-9/+=]{16,}):?([!-~]*)")
_REGION_OF_HOST = re.compile(
    r"(?:^|\.)(?:bedrock|s3)[a-z-]*\.([a-z0-9-]+)\.(?:vpce\.)?(?:amazonaws\.com|api\.aws)(?:\.cn)?$"
)
_ANYWHERE = "us-east-1"
# A body of so many bytes takes a while to hash.
_LARGE = 1 << 20
# Looking for credentials that are not there can take seconds: not done for every call.
_PAUSE_S = 10.0


def make(provider: Provider) -> Credentials:
    """The credentials of one worker; the provider's quirks may name a region and a profile."""
    return AwsCredentials(provider.quirks.get("region", ""), provider.quirks.get("profile", ""))


class AwsCredentials:
    """See the module. `region` counts where the host of a call does not name one."""

    def __init__(self, region: str, profile: str) -> None:
        self._region = region
        self._profile = profile
        self._found: Any = None
        self._searching = asyncio.Lock()
        self._rests_until = 0.0

    async def headers(self, key: str | None, call: Call, url: str) -> Mapping[str, str]:
        """The headers for a call, in lower case. Raises `InferenceError`."""
        key = (key or "").strip()
        pair = _ACCESS_KEY.fullmatch(key)
        if key and pair is None and not call.service:
            if not (key.isascii() and key.isprintable()):
                raise _refused("the key has characters that no key has, such as a line break")
            return {"authorization": f"Bearer {key}"}
        if pair is not None:
            frozen = await asyncio.to_thread(_frozen, *pair.groups())
        else:
            frozen = await self._own()
        host = urlsplit(url).hostname or ""
        named = _REGION_OF_HOST.search(host)
        region = named[1] if named else self._region or _ANYWHERE
        if len(call.body) > _LARGE:
            return await asyncio.to_thread(_signed, frozen, call, url, region)
        return _signed(frozen, call, url, region)

    def refused(self, key: str | None) -> None:
        """Nothing is kept that was refused: the chain renews what it gave before it ends."""

    async def _own(self) -> Any:
        """The machine's credentials as they are now; waits only when they are due to be renewed."""
        if self._found is None:
            async with self._searching:
                if self._found is None:
                    await self._search()
        due = getattr(self._found, "refresh_needed", None)
        try:
            if due is None or not due():
                return self._found.get_frozen_credentials()
            return await asyncio.to_thread(self._found.get_frozen_credentials)
        except Exception as exc:
            raise _unusable("renewed", exc) from exc

    async def _search(self) -> None:
        if time.monotonic() >= self._rests_until:
            try:
                self._found = await asyncio.to_thread(_find, self._profile)
            except Exception as exc:
                self._rest()
                raise _unusable("read", exc) from exc
        if self._found is None:
            self._rest()
            raise _refused(
                "no AWS credentials were found: set BEDROCK_API_KEY, AWS's own variables, or "
                "BEDROCK_PROFILE"
            )

    def _rest(self) -> None:
        self._rests_until = max(self._rests_until, time.monotonic() + _PAUSE_S)


def _refused(message: str) -> InferenceError:
    return InferenceError("upstream_credentials", message, phase="connect")


def _unusable(what: str, exc: Exception) -> InferenceError:
    # Paths, roles and accounts are for the operator alone.
    _log.error("AWS credentials could not be %s: %s", what, exc)
    return _refused(f"AWS credentials could not be {what}; the worker's log says why")


def _find(profile: str) -> Any:
    _load()
    session = importlib.import_module("botocore.session").Session(profile=profile or None)
    return session.get_credentials()


def _frozen(access_key: str, secret_key: str, token: str) -> Any:
    _load()
    kind = importlib.import_module("botocore.credentials").ReadOnlyCredentials
    return kind(access_key, secret_key, token or None)


def _load() -> None:
    """Imports what signing takes, in the thread that this runs in: it takes a tenth of a second."""
    importlib.import_module("botocore.auth")
    # At level debug it writes the session token of every call into the log.
    logging.getLogger("botocore").setLevel(logging.INFO)


def _signed(frozen: Any, call: Call, url: str, region: str) -> Mapping[str, str]:
    auth = importlib.import_module("botocore.auth")
    request_of = importlib.import_module("botocore.awsrequest").AWSRequest
    # What the call's other headers are may change on the way; these may not.
    named = {
        "Host": urlsplit(url).netloc.rpartition("@")[2],
        "Content-Type": call.headers.get("content-type", "application/json"),
    }
    request = request_of(method=call.method, url=url, data=call.body, headers=named)
    method = auth.S3SigV4Auth if call.service == _STORAGE else auth.SigV4Auth
    method(frozen, call.service or _SERVICE, region).add_auth(request)
    signed = {name.lower(): value for name, value in request.headers.items()}
    del signed["host"]
    return signed
