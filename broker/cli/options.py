"""The flags that every command shares, and how a command ends with an error.

Flags are named like the environment variables they override: --data is MILLRACE_DATA.
"""

from __future__ import annotations

import functools
import inspect
import logging
import sys
from collections.abc import Callable
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console

from broker.config import ConfigError, Settings, load_settings

FLAGS = {
    "data": "Data folder.",
    "http": "host:port of the HTTP API.",
    "grpc": "host:port of the gRPC API.",
    "config": "YAML file of settings.",
    "nats": "URL of an existing NATS, credentials included.",
    "advertise": "host:port that workers dial back to.",
    "api_key": "API key.",
}


def fail(message: str, code: int = 1) -> NoReturn:
    """End the command: one line that says what is wrong and what to do."""
    typer.echo(f"millrace: {message}", err=True)
    raise typer.Exit(code)


def console() -> Console:
    """Where tables go; into a pipe rows are written whole, since another program may read them."""
    return Console() if sys.stdout.isatty() else Console(width=10_000)


def with_settings(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command all of `FLAGS`; it gets the resolved `Settings` as its first argument."""
    parameters = list(inspect.signature(function, eval_str=True).parameters.values())[1:]

    @functools.wraps(function)
    def command(**given: Any) -> None:
        overrides = {name: given.pop(name) for name in FLAGS}
        function(_load(overrides), **given)

    shared = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[
                str | None,
                typer.Option(
                    f"--{name.replace('_', '-')}",
                    help=text,
                    metavar="TEXT",
                    envvar=None,
                    rich_help_panel="Settings",
                ),
            ],
        )
        for name, text in FLAGS.items()
    ]
    own = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in parameters]
    vars(command)["__signature__"] = inspect.Signature([*own, *shared])
    command.__annotations__ = {p.name: p.annotation for p in (*own, *shared)}
    # typer would look at the wrapped function's annotations instead.
    del command.__wrapped__
    return command


def _load(overrides: dict[str, Any]) -> Settings:
    # Commands say themselves what went wrong; the bus would tell of every try.
    logging.basicConfig(level=logging.ERROR, format="millrace: %(message)s")
    try:
        return load_settings(overrides=overrides)
    except ConfigError as exc:
        fail(str(exc))
