"""`millrace route`: where a request would go, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from broker.cli.api import check, client
from broker.cli.options import fail
from broker.settings import Settings


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is asked for: a model, further ones, and the `provider` object as JSON."""

    model: str
    models: Sequence[str] = ()
    provider: str | None = None


def show(settings: Settings, wanted: Wanted, *, explain: bool, as_json: bool) -> None:
    """Print the candidates, first choice first; with `explain` what is known of each, too."""
    body: dict[str, Any] = {
        "model": wanted.model,
        "messages": [{"role": "user", "content": ""}],
        "models": list(wanted.models),
    }
    if wanted.provider is not None:
        body["provider"] = _provider(wanted.provider)
    with client(settings) as http:
        response = http.post("/v0/route", json=body)
        check(response)
    if as_json:
        typer.echo(response.text)
    elif explain:
        _explain(response.json())
    else:
        for candidate in response.json()["candidates"]:
            typer.echo(_name(candidate))


def _provider(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError as exc:
        fail(f'--provider: not JSON: {exc}; write it as in --provider \'{{"sort": "latency"}}\'')


def _explain(decision: Mapping[str, Any]) -> None:
    console = Console()
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("", justify="right")
    table.add_column("candidate", no_wrap=True)
    for name in ("in $/M", "out $/M", "context", "first token", "in flight"):
        table.add_column(name, justify="right")
    for place, candidate in enumerate(decision["candidates"], 1):
        table.add_row(str(place), _name(candidate), *_figures(candidate))
    typer.echo(f"{decision['requested']}, by {decision['strategy']}")
    console.print(table)
    for candidate in decision["candidates"]:
        if candidate["resting"]:
            typer.echo(f"tried last: {_name(candidate)}: it has been failing")
    for candidate in decision["candidates"]:
        if claim := candidate["compliance"]:
            read = f" ({claim['date']})" if claim["date"] else ""
            regions = ", ".join(claim["regions"]) or "nowhere"
            typer.echo(f"compliant: {_name(candidate)}: {regions}, by {claim['source']}{read}")
    for candidate in decision.get("context_fallbacks", ()):  # an older edge has none
        typer.echo(f"for longer prompts: {_name(candidate)}")
    for candidate in decision["left_out"]:
        typer.echo(f"left out: {_name(candidate)}: {candidate['reason']}")


def _name(candidate: Mapping[str, Any]) -> str:
    return f"{candidate['provider']}/{candidate['model']}"


def _figures(candidate: Mapping[str, Any]) -> tuple[str, ...]:
    first = candidate["first_token_ms"]
    flight = str(candidate["in_flight"])
    return (
        _number(candidate["input_price"]),
        _number(candidate["output_price"]),
        _number(candidate["max_input_tokens"]),
        "?" if first is None else f"{first:.0f} ms",
        f"{flight}/{candidate['slots']}" if candidate["slots"] else flight,
    )


def _number(value: float | None) -> str:
    return "?" if value is None else f"{value:,g}" if value < 1000 else f"{value:,.0f}"
