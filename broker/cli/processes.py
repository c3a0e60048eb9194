"""`millrace edge|worker|broker|sim`: become that process, or keep several workers running.

Nothing is imported from the edge or the workers: they are programs here.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from typing import NoReturn

import typer

from broker.child import Child, ChildError, Program
from broker.cli.attach import with_nats
from broker.cli.options import fail
from broker.config import child_environment
from broker.providers import REGISTRY, canonical
from broker.settings import Settings


def run_module(settings: Settings, module: str) -> NoReturn:
    """Become `python -m module` with these settings."""
    _become([module], child_environment(with_nats(settings)))


def run_sim(host: str, port: int) -> NoReturn:
    """Become the make-believe provider."""
    _become(["workers.sim", "--host", host, "--port", str(port)], None)


def run_workers(settings: Settings, names: Sequence[str]) -> None:
    """Become one worker, or keep several running until SIGINT or SIGTERM."""
    providers = [_provider(settings, name) for name in dict.fromkeys(names)]
    settings = with_nats(settings)
    if len(providers) == 1:
        _become(["workers", providers[0]], child_environment(settings, providers[0]))
    try:
        asyncio.run(_keep(settings, providers))
    except ChildError as exc:
        fail(str(exc))


def _provider(settings: Settings, name: str) -> str:
    known = name if name in settings.providers else canonical(name) or name
    if known in settings.providers:
        return known
    if why := settings.providers_off.get(known):
        fail(f"{known} is off: {why}")
    words = ", ".join(dict.fromkeys((*REGISTRY, *settings.providers)))
    return fail(f"unknown provider {name!r}; known are {words}", code=2)


def _become(arguments: list[str], env: Mapping[str, str] | None) -> NoReturn:
    """Replace this process, so that signals and the exit code are the program's own."""
    command = [sys.executable, "-m", *arguments]
    sys.stdout.flush()
    if env is None:
        os.execv(sys.executable, command)  # noqa: S606 - no shell is wanted
    os.execve(sys.executable, command, dict(env))  # noqa: S606


async def _keep(settings: Settings, providers: Sequence[str]) -> None:
    grace = settings.limits.drain_grace_s + 5
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, stop.set)
    children = [_child(settings, provider) for provider in providers]
    tasks = [asyncio.ensure_future(child.run()) for child in children]
    stopped = asyncio.ensure_future(stop.wait())
    try:
        ended, _ = await asyncio.wait({stopped, *tasks}, return_when=asyncio.FIRST_COMPLETED)
        for task in ended:
            task.result()
    finally:
        stopped.cancel()
        await asyncio.gather(*(child.stop(grace) for child in children))
        await asyncio.gather(*tasks, return_exceptions=True)


def _child(settings: Settings, provider: str) -> Child:
    command = (sys.executable, "-m", "workers", provider)
    program = Program("worker", provider, lambda: command, child_environment(settings, provider))
    return Child(program, say=_say, pass_on=_pass_on, changed=lambda: None)


def _say(line: str) -> None:
    typer.echo(f"millrace: {line}", err=True)


def _pass_on(line: str) -> None:
    typer.echo(line, err=True)
