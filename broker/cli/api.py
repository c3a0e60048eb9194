"""Calls to the edge's HTTP API, with every failure as one line for the user."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import httpx

from broker.cli.attach import api_key, base_url
from broker.cli.options import fail
from broker.settings import Settings


@contextlib.contextmanager
def client(settings: Settings) -> Iterator[httpx.Client]:
    """A client of the edge that carries the API key; network failures end the command."""
    url = base_url(settings)
    timeout = httpx.Timeout(settings.limits.request_timeout_s, connect=5)
    headers = {"authorization": f"Bearer {api_key(settings)}"}
    try:
        # A proxy meant for the internet has no business between us and our own edge.
        with httpx.Client(base_url=url, headers=headers, timeout=timeout, trust_env=False) as http:
            yield http
    except httpx.ConnectError:
        fail(f"nothing answers at {url}; start millrace up, or say where with --http")
    except httpx.HTTPError as exc:
        fail(f"the connection to {url} failed: {exc or type(exc).__name__}")


def check(response: httpx.Response) -> None:
    """End the command when the answer is an error; the body must have been read."""
    if response.is_success:
        return
    try:
        body = response.json()
    except ValueError:
        body = None
    fail(error_line(body, response.status_code))


def error_line(body: Any, status: int | None = None) -> str:
    """An OpenAI error body as one line: message, field, code and status."""
    error = body.get("error") if isinstance(body, dict) else None
    if not isinstance(error, dict):
        return f"the edge answered with status {status}" if status else "the answer was an error"
    notes = [f"field {error['param']}"] if error.get("param") else []
    notes += [str(error["code"])] if error.get("code") else []
    notes += [str(status)] if status else []
    message = " ".join(str(error.get("message") or "the request failed").split())
    return f"{message} ({', '.join(notes)})" if notes else message
