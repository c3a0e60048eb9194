"""`millrace up`: runs the supervisor and tells the user what it says."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Iterator, Mapping

import typer

from broker.cli.options import fail
from broker.settings import Address, Settings
from broker.supervisor import Running, Supervisor, SupervisorError

# What the reason says of a provider that lacks nothing but its key or address.
UNSET = "is not set"


def run(settings: Settings) -> None:
    """Serve until stopped; ends the command with an error line when that cannot go on."""
    supervisor = Supervisor(settings, say=_say, pass_on=_pass_on, announce=_announce)
    try:
        asyncio.run(supervisor.run())
    except SupervisorError as exc:
        fail(str(exc))


def _say(line: str) -> None:
    with contextlib.suppress(OSError):
        typer.echo(f"millrace: {line}", err=True)


def _pass_on(line: str) -> None:
    # The terminal may be gone; that is no reason to stop serving.
    with contextlib.suppress(OSError):
        sys.stderr.write(line + "\n")
        sys.stderr.flush()


def _announce(running: Running) -> None:
    with contextlib.suppress(OSError):
        typer.echo(banner(running))


def banner(running: Running) -> str:
    """What the user sees once requests are served."""
    http = running.http.reachable
    lines = [
        "",
        f"Millrace is ready:  http://{http}  (gRPC {running.grpc.reachable})",
        f"API key:            {running.api_key}",
        f"Providers on:       {', '.join(running.providers) or 'none'}",
        *_off(running.providers_off),
        "",
        "Try it:",
        "",
        curl(http, running.api_key),
        "",
    ]
    return "\n".join(lines)


def _off(providers: Mapping[str, str]) -> Iterator[str]:
    """Providers that are off: in one line those that nobody set up, one by one those that fail."""
    unset = [name for name, why in providers.items() if UNSET in why]
    if unset:
        yield "Providers off:      " + ", ".join(unset)
        yield "                    set a key such as OPENAI_API_KEY; see: millrace doctor"
    for name, why in providers.items():
        if name not in unset:
            yield f"  {name} is off: {why}"


def curl(http: Address, api_key: str) -> str:
    """A line to paste: a streamed answer of the make-believe provider."""
    return (
        f"curl -N http://{http}/v1/chat/completions "
        f"-H 'Authorization: Bearer {api_key}' -H 'Content-Type: application/json' "
        """-d '{"model": "sim/hello", "stream": true, """
        """"messages": [{"role": "user", "content": "Hello"}]}'"""
    )
