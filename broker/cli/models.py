"""`millrace models`: what the edge says can be asked."""

from __future__ import annotations

import typer

from broker.cli.api import check, client
from broker.settings import Settings


def show(settings: Settings) -> None:
    """Print one model a line, provider first."""
    with client(settings) as http:
        response = http.get("/v1/models")
        check(response)
        names = sorted(str(model["id"]) for model in response.json()["data"])
    for name in names:
        typer.echo(name)
    if not names:
        typer.echo(
            "no model is listed; provider/model works for every provider that is on", err=True
        )
