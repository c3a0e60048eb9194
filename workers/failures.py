"""How a call to a provider goes wrong: its limits in time, and what HTTP's exceptions mean.

One table; which of a row's reasons it is depends on how far the call had come.
"""

from __future__ import annotations

import errno
import os
import ssl
from dataclasses import dataclass
from typing import NamedTuple, Self

import httpx

_MAX_DETAIL = 200


class Reasons(NamedTuple):
    """What an exception means before the headers are in, before the body begins, and after."""

    opening: str
    waiting: str
    flowing: str

    @classmethod
    def always(cls, reason: str) -> Self:
        """The same at any time."""
        return cls(reason, reason, reason)


_QUIET = Reasons("first_token_timeout", "first_token_timeout", "stalled")
_BROKEN = Reasons("upstream_error", "upstream_incomplete", "upstream_incomplete")

# An exception counts as the nearest of its ancestors that is listed.
REASONS: dict[type[BaseException], Reasons] = {
    httpx.ConnectTimeout: Reasons.always("connect_timeout"),
    httpx.PoolTimeout: Reasons.always("connect_timeout"),
    httpx.ReadTimeout: _QUIET,
    httpx.WriteTimeout: _QUIET,
    httpx.TimeoutException: Reasons.always("deadline"),
    httpx.ConnectError: Reasons.always("upstream_unreachable"),
    httpx.ProxyError: Reasons.always("upstream_unreachable"),
    httpx.UnsupportedProtocol: Reasons.always("upstream_unreachable"),
    httpx.InvalidURL: Reasons.always("upstream_unreachable"),
    httpx.NetworkError: _BROKEN,
    httpx.ProtocolError: _BROKEN,
    httpx.LocalProtocolError: Reasons.always("internal"),
    httpx.DecodingError: Reasons.always("upstream_error"),
    httpx.TooManyRedirects: Reasons.always("upstream_error"),
    httpx.RequestError: Reasons.always("upstream_error"),
}
FOREIGN = (httpx.RequestError, httpx.InvalidURL)
# Of a call that failed so, nothing has reached the provider.
CONNECTING = (
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.ConnectError,
    httpx.ProxyError,
    httpx.UnsupportedProtocol,
    httpx.InvalidURL,
)
# Of the others, the text may name hosts and proxies, with their passwords.
_SPEAKING = (httpx.ProtocolError, httpx.ProxyError, httpx.DecodingError)
_MESSAGES = {
    "connect_timeout": "{name} accepted no connection within {limits.connect_s:g} s",
    "first_token_timeout": "{name} sent nothing within {limits.first_byte_s:g} s",
    "stalled": "{name} stopped sending: nothing came for {limits.stall_s:g} s",
    "deadline": "the deadline of {limits.deadline_s:g} s passed before {name} had answered",
    "upstream_unreachable": "{name} could not be reached{why}",
    "upstream_error": "{name} sent no valid answer{why}",
    "upstream_incomplete": "the answer of {name} was cut off{why}",
    "internal": "the request to {name} could not be written as HTTP{why}",
}
_TLS = (
    ": TLS failed ({said}); check the provider's base URL, the clock and, for a private "
    "certificate authority, SSL_CERT_FILE in the worker's environment"
)


@dataclass(frozen=True, slots=True)
class Limits:
    """In seconds, 0 = none.

    `first_byte_s` runs from the connection to the first byte of the body, or with `first_token` to
    what its reader takes for one; `stall_s` between bytes from then on, while somebody wants them;
    `deadline_s` from `open` to the last byte.
    """

    connect_s: float = 0.0
    first_byte_s: float = 0.0
    stall_s: float = 0.0
    deadline_s: float = 0.0
    first_token: bool = False


def reasons_of(exc: BaseException) -> Reasons:
    """What one of `FOREIGN` means."""
    return next(REASONS[base] for base in type(exc).__mro__ if base in REASONS)


def message_of(reason: str, exc: BaseException, name: str, limits: Limits) -> str:
    """What callers are told of it; `name` is the provider's."""
    return _MESSAGES[reason].format(name=name, limits=limits, why=_why(exc))


def _why(exc: BaseException) -> str:
    """The cause in words, without addresses: callers see it."""
    causes = [exc]
    while (cause := causes[-1].__cause__) is not None:
        causes.append(cause)
    for cause in causes:
        if isinstance(cause, ssl.SSLError):
            said = getattr(cause, "verify_message", None) or getattr(cause, "reason", None)
            if said:
                return _TLS.format(said=said)
    for cause in causes:
        if isinstance(cause, OSError) and cause.errno:
            known = cause.errno in errno.errorcode
            return f": {os.strerror(cause.errno) if known else cause.strerror}"
    if isinstance(exc, _SPEAKING):
        return ": " + " ".join(str(exc).split())[:_MAX_DETAIL]
    if isinstance(exc, (httpx.UnsupportedProtocol, httpx.InvalidURL)):
        return ": its base URL is no http or https URL"
    return ""
