"""How a command reaches what runs: the NATS and the HTTP API, of `millrace up` or of its own."""

from __future__ import annotations

from dataclasses import replace

from broker.cli.options import fail
from broker.config import nats_from_url
from broker.rundir import RunFolder
from broker.settings import Settings


def with_nats(settings: Settings) -> Settings:
    """The settings with a NATS: the one that is set, else that of `millrace up` on this folder."""
    found = find_nats(settings)
    if found is None:
        fail(
            f"no NATS: nothing runs on the data folder {settings.data}; start millrace up, "
            "or set --nats or MILLRACE_NATS"
        )
    return found


def find_nats(settings: Settings) -> Settings | None:
    """As `with_nats`, or None."""
    if settings.nats.url:
        return settings
    folder = RunFolder(settings.data)
    url = folder.nats_url() if folder.locked() else None
    if url is None:
        return None
    return replace(settings, nats=nats_from_url(url))


def api_key(settings: Settings) -> str:
    """The API key that is set, else the one `millrace up` generated."""
    key = settings.api_key or RunFolder(settings.data).api_key()
    if key is None:
        fail("no API key: set --api-key or MILLRACE_API_KEY, or start millrace up once")
    return key


def base_url(settings: Settings) -> str:
    """Where the HTTP API is found from this machine, without a slash at the end."""
    return f"http://{settings.http.reachable}"
