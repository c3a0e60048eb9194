"""Reads the platform's own arguments, which every front end takes beside the format's fields.

Values have been checked against the types in `wire.ChatRequest` before they get here.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from broker.translate.headers import goes_on
from broker.translate.refusals import invalid, json_text
from broker.v1 import generation_pb2

_Platform = generation_pb2.Platform

# RFC 9110 field names and values; anything else could smuggle a second header.
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")

_RESUME = {
    "verified": generation_pb2.RESUME_VERIFIED,
    "prefill": generation_pb2.RESUME_PREFILL,
}


def _as_it_is(name: str) -> Callable[[_Platform, Any], None]:
    def read(platform: _Platform, value: Any) -> None:
        setattr(platform, name, value)

    return read


def _tags(platform: _Platform, value: str | list[str]) -> None:
    tags = value.split(",") if isinstance(value, str) else value
    platform.tags.extend(tag for tag in map(str.strip, tags) if tag)


def _provider(platform: _Platform, value: dict[str, Any]) -> None:
    platform.provider = json_text(value, "provider")


def _resume(platform: _Platform, value: str) -> None:
    platform.resume = _RESUME[value]


def _models(platform: _Platform, value: list[str]) -> None:
    platform.models.extend(value)


def _extra_headers(platform: _Platform, value: dict[str, str | None]) -> None:
    for name, text in value.items():
        if text is None:
            continue
        if not _HEADER_NAME.fullmatch(name) or not _HEADER_VALUE.fullmatch(text):
            message = f"Invalid 'extra_headers': {name!r} is not a valid HTTP header."
            raise invalid("extra_headers", message)
        if goes_on(name):
            platform.extra_headers[name] = text


PLATFORM: dict[str, Callable[[_Platform, Any], None]] = {
    "tags": _tags,
    "signature": _as_it_is("signature"),
    "log_query_body": _as_it_is("log_query_body"),
    "log_response_body": _as_it_is("log_response_body"),
    "region": _as_it_is("region"),
    "use_custom_keys": _as_it_is("use_custom_keys"),
    "drop_params": _as_it_is("drop_params"),
    "resume": _resume,
    "hedge_after_ms": _as_it_is("hedge_after_ms"),
    "connect_timeout_ms": _as_it_is("connect_timeout_ms"),
    "first_token_timeout_ms": _as_it_is("first_token_timeout_ms"),
    "stall_timeout_ms": _as_it_is("stall_timeout_ms"),
    "provider": _provider,
    "models": _models,
    "extra_headers": _extra_headers,
}
