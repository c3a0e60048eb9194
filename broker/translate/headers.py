"""Which of a caller's headers go on to the provider: all that are not in a table; pure.

Left out are credentials, what speaks of this connection and not of the request, what proxies and
clients add by themselves, and what is for us. What goes on lies in the queue as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

PROVIDER_KEY = "x-provider-key"

_CREDENTIALS = (
    *("authorization", "cookie", "cookie2", "proxy-authorization", "proxy-authenticate"),
    *("api-key", "x-api-key", "x-goog-api-key", "x-auth-token", "x-csrf-token", "x-xsrf-token"),
)
_CONNECTION = (
    *("connection", "expect", "host", "http2-settings", "keep-alive", "proxy-connection", "te"),
    *("trailer", "transfer-encoding", "upgrade", "content-encoding", "content-language"),
    *("content-length", "content-location", "content-md5", "content-range", "content-type"),
    *("content-digest", "date", "digest", "max-forwards", "range", "if-match", "if-modified-since"),
    *("if-none-match", "if-range", "if-unmodified-since"),
)
_CLIENT = (
    *("accept", "accept-charset", "accept-datetime", "accept-encoding", "accept-language"),
    *("cache-control", "dnt", "from", "origin", "pragma", "priority", "purpose", "referer"),
    *("save-data", "upgrade-insecure-requests", "user-agent", "x-http-method-override"),
    *("x-requested-with", "anthropic-version", "anthropic-dangerous-direct-browser-access"),
)
_PROXIES = (
    *("cdn-loop", "client-ip", "forwarded", "true-client-ip", "via", "x-client-ip"),
    *("x-cluster-client-ip", "x-original-host", "x-original-uri", "x-original-url", "x-real-ip"),
    *("x-request-start",),
)
_TRACING = (
    *("b3", "baggage", "sentry-trace", "traceparent", "tracestate", "uber-trace-id"),
    *("x-amzn-trace-id", "x-cloud-trace-context", "x-correlation-id"),
)
_OURS = (
    *("idempotency-key", PROVIDER_KEY, "x-request-id"),
    *("x-openrouter-metadata", "x-openrouter-experimental-metadata"),
)

LEFT_OUT = frozenset((*_CREDENTIALS, *_CONNECTION, *_CLIENT, *_PROXIES, *_TRACING, *_OURS))
LEFT_OUT_FAMILIES = (
    *("access-control-", "cf-", "fly-", "proxy-", "sec-", "x-amz-", "x-b3-", "x-datadog-"),
    *("x-envoy-", "x-forwarded-", "x-millrace-", "x-stainless-", "x-vercel-"),
)
# SDKs send these by themselves, from the environment of whoever has an account there: they go with
# the caller's own key, and with ours the provider would refuse them, or bill somebody else.
ACCOUNT = frozenset(("openai-organization", "openai-project", "x-goog-user-project"))

# Names seen in requests that go on or not, so that a name is looked at once; callers choose them.
_MOST_NAMES = 4096
_seen: dict[bytes, str] = {name.encode(): "" for name in LEFT_OUT}


def goes_on(name: str) -> bool:
    """Whether a header of this name is sent to providers; upper and lower case are the same."""
    lower = name.lower()
    return lower not in LEFT_OUT and not lower.startswith(LEFT_OUT_FAMILIES)


def forwarded(headers: Mapping[bytes, bytes]) -> Iterator[tuple[str, str]]:
    """The headers of a request that go on; `headers` have lower-case names.

    Of what is not ASCII on one line nothing goes on: SDKs and proxies may have put it there.
    """
    for raw in headers:
        name = _seen.get(raw)
        if name is None:
            name = _learn(raw)
        if name:
            value = headers[raw]
            if value.isascii() and (text := value.decode()).isprintable():
                yield name, text


def _learn(raw: bytes) -> str:
    name = raw.decode("latin-1")
    kept = name if raw.isascii() and goes_on(name) else ""
    if len(_seen) < _MOST_NAMES:
        _seen[raw] = kept
    return kept
