"""The command line `millrace`: talks to people, starts the other packages as processes."""

from __future__ import annotations

from broker.cli.app import app


def main() -> None:
    """The entry point of the installed command."""
    app()
