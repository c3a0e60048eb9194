"""`millrace edge|worker|broker|sim`: become that process.

Nothing is imported from the edge or the workers: they are programs here.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from typing import NoReturn

from broker.cli.attach import with_nats
from broker.cli.options import fail
from broker.config import child_environment
from broker.providers import REGISTRY, canonical
from broker.settings import Settings


def run_module(settings: Settings, module: str) -> NoReturn:
    """Become `python -m module` with these settings."""
    _become([module], child_environment(with_nats(settings)))


def run_workers(settings: Settings, names: Sequence[str]) -> NoReturn:
    """Become one worker process for these providers, which must be on."""
    providers = [_provider(settings, name) for name in dict.fromkeys(names)]
    _become(["workers", *providers], child_environment(with_nats(settings), providers))


def run_sim(host: str, port: int) -> NoReturn:
    """Become the make-believe provider."""
    _become(["workers.sim", "--host", host, "--port", str(port)], None)


def _provider(settings: Settings, name: str) -> str:
    """The name that the settings know this provider by."""
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
