"""`millrace models`: what the edge says can be asked, and what for."""

from __future__ import annotations

import typer

from broker.cli.api import check, client
from broker.settings import Settings

# What nearly all of them are for is not said.
_USUAL = ["generate"]


def show(settings: Settings, operation: str | None) -> None:
    """Print one model a line, provider first, and behind it what else than chat it is for."""
    with client(settings) as http:
        response = http.get("/v1/models", params={"operation": operation} if operation else {})
        check(response)
        models = {str(model["id"]): model for model in response.json()["data"]}
    width = max(map(len, models), default=0)
    for name in sorted(models):
        serves = models[name].get("operations", _USUAL)
        said = "" if serves == _USUAL or operation else ", ".join(serves)
        typer.echo(f"{name:{width}}  {said}".rstrip())
    if not models:
        typer.echo(
            "no model is listed; provider/model works for every provider that is on", err=True
        )
