"""Headers: which of a caller's go to a provider, and what those of its answer say; pure.

All functions take headers with lower-case names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

_REQUEST_ID = ("x-request-id", "request-id", "apim-request-id", "x-amzn-requestid")

# Framing, routing and credentials of a call are ours; what is said of the caller's own call to us
# is nobody else's business.
_OURS = re.compile(
    r"authorization|x-provider-key|x-request-id|cookie2?|host|forwarded|expect|user-agent"
    r"|accept-encoding|content-length|content-encoding|connection|keep-alive|te|trailer"
    r"|transfer-encoding|upgrade|proxy-.*|x-stainless-.*|x-forwarded-.*|x-millrace-.*"
)


def goes_on(name: str) -> bool:
    """Whether a header that a caller asks for is sent to the provider."""
    return _OURS.fullmatch(name) is None


def request_id(headers: Mapping[str, str]) -> str:
    """The provider's id of the call, or an empty string."""
    for name in _REQUEST_ID:
        if value := headers.get(name):
            return value
    return ""


def rate_limits(headers: Mapping[str, str]) -> dict[str, str]:
    """The headers that speak of rate limits, unchanged: every provider spells them its own way."""
    return {name: value for name, value in headers.items() if "ratelimit" in name}


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait before the next try: `retry-after-ms`, else `retry-after`; None if not said.

    A date counts from the answer's own `date` header, so that clocks need not agree.
    """
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    value = headers.get("retry-after")
    seconds = _number(value)
    if seconds is not None or value is None:
        return seconds
    try:
        wait = parsedate_to_datetime(value) - parsedate_to_datetime(headers.get("date", ""))
    except (TypeError, ValueError):
        return None
    return max(0.0, wait.total_seconds())


def _number(value: str | None) -> float | None:
    try:
        number = float(value or "")
    except ValueError:
        return None
    # NaN compares false, infinity is no wait to plan with.
    return number if 0 <= number < float("inf") else None
