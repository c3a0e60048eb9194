"""The commands of `millrace batch` and their arguments."""
# ruff: noqa: PLC0415

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from broker.cli.options import fail, with_settings
from broker.settings import Settings

app = typer.Typer(
    help="Run files of prompts as batches, and look after them.", no_args_is_help=True
)

_Source = Annotated[
    Path,
    typer.Argument(
        metavar="FILE",
        help="Rows in .jsonl, .csv, .tsv or .parquet, or lines of a batch in .jsonl.",
    ),
]
_Id = Annotated[str, typer.Argument(metavar="BATCH", help="batch_...; see millrace batch list")]
_Model = Annotated[str | None, typer.Option("--model", "-m", help="For rows that name none.")]
_Template = Annotated[
    str | None,
    typer.Option("--template", "-t", help="The prompt, with a row's fields as {field}."),
]
_System = Annotated[str | None, typer.Option(help="System prompt of every row.")]
_Endpoint = Annotated[str, typer.Option(help="What the prompts are sent to.")]
_Execution = Annotated[
    str,
    typer.Option(help="live; or native, auto: at the provider's batch API, at half the price."),
]
_Window = Annotated[str, typer.Option(help="Time to run in: 10m to 14d.")]
_Dedupe = Annotated[bool, typer.Option(help="Ask once what several rows ask.")]
_Param = Annotated[
    list[str] | None,
    typer.Option("--param", "-p", metavar="NAME=VALUE", help="Of each body, JSON; repeatable."),
]
_Output = Annotated[
    Path | None, typer.Option("--output", "-o", help="Where to write; FILE.answers.jsonl if unset.")
]
_CHAT = "/v1/chat/completions"
_LIVE = "live"
_DAY = "24h"


def _params(given: list[str] | None) -> dict[str, Any]:
    import json

    params: dict[str, Any] = {}
    for text in given or ():
        name, sign, value = text.partition("=")
        if not (name and sign):
            fail(f"--param has to be NAME=VALUE, not {text!r}")
        try:
            params[name] = json.loads(value)
        except ValueError:
            params[name] = value
    return params


@app.command()
@with_settings
def run(  # noqa: PLR0917 - typer calls it by name
    settings: Settings,
    source: _Source,
    model: _Model = None,
    output: _Output = None,
    template: _Template = None,
    system: _System = None,
    endpoint: _Endpoint = _CHAT,
    param: _Param = None,
    window: _Window = _DAY,
    max_cost: Annotated[float | None, typer.Option(help="Stop at this, in USD.")] = None,
    max_error_rate: Annotated[
        float | None, typer.Option(help="Stop when this share of lines failed, 0 to 1.")
    ] = None,
    execution: _Execution = _LIVE,
    dedupe: _Dedupe = False,
    again: Annotated[bool, typer.Option(help="Run it anew although it was run before.")] = False,
    retry: Annotated[
        bool, typer.Option(help="Run the rows again that failed, and put their answers in.")
    ] = False,
    detach: Annotated[
        bool, typer.Option(help="Print the batch's id and leave it running.")
    ] = False,
) -> None:
    """Run FILE and write its answers; Ctrl-C leaves it running, the same command goes on."""
    from broker.cli.batch.lines import Wish
    from broker.cli.batch.run import Job
    from broker.cli.batch.run import run as start

    options: dict[str, Any] = {
        "completion_window": window,
        "mixed_models": True,
        "large": True,
        "dedupe": dedupe,
        "execution": execution if execution != _LIVE else None,
        "max_cost": max_cost,
        "max_error_rate": max_error_rate,
    }
    wish = Wish(endpoint, model, system, template, _params(param))
    chosen = output or source.with_suffix(".answers.jsonl")
    given = {name: value for name, value in options.items() if value not in {None, False}}
    start(settings, Job(source, chosen, wish, given, again=again, retry=retry, detach=detach))


@app.command()
@with_settings
def estimate(  # noqa: PLR0917 - typer calls it by name
    settings: Settings,
    source: _Source,
    model: _Model = None,
    template: _Template = None,
    system: _System = None,
    endpoint: _Endpoint = _CHAT,
    param: _Param = None,
    window: _Window = _DAY,
    execution: _Execution = _LIVE,
    dedupe: _Dedupe = False,
) -> None:
    """Check every row of FILE, and say what it would cost and take, without running it."""
    from broker.cli.batch.lines import Wish
    from broker.cli.batch.look import estimate as look
    from broker.cli.batch.run import Job

    wish = Wish(endpoint, model, system, template, _params(param))
    options = {"completion_window": window, "execution": execution, "dedupe": dedupe}
    look(settings, Job(source, source, wish, options))


@app.command("list")
@with_settings
def list_(
    settings: Settings,
    limit: Annotated[int, typer.Option(min=1, max=100, help="How many.")] = 20,
) -> None:
    """List batches, newest first."""
    from broker.cli.batch.look import show_list

    show_list(settings, limit)


@app.command()
@with_settings
def status(
    settings: Settings,
    batch_id: _Id,
    as_json: Annotated[bool, typer.Option("--json", help="The whole object.")] = False,
) -> None:
    """Show how far a batch is."""
    from broker.cli.batch.look import show

    show(settings, batch_id, as_json=as_json)


@app.command()
@with_settings
def watch(settings: Settings, batch_id: _Id) -> None:
    """Follow a batch until it is over."""
    from broker.cli.batch.look import watch as look

    look(settings, batch_id)


@app.command()
@with_settings
def results(
    settings: Settings,
    batch_id: _Id,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Where to write; the terminal if unset.")
    ] = None,
) -> None:
    """Write the lines that have ended so far, in the order of the input."""
    from broker.cli.batch.look import results as look

    look(settings, batch_id, output)


@app.command()
@with_settings
def cancel(settings: Settings, batch_id: _Id) -> None:
    """Begin no more lines of a batch; what it has answered is kept."""
    from broker.cli.batch.look import act

    act(settings, batch_id, "cancel")


@app.command()
@with_settings
def pause(settings: Settings, batch_id: _Id) -> None:
    """Begin no more lines until it is resumed."""
    from broker.cli.batch.look import act

    act(settings, batch_id, "pause")


@app.command()
@with_settings
def resume(settings: Settings, batch_id: _Id) -> None:
    """Go on with a batch that is paused."""
    from broker.cli.batch.look import act

    act(settings, batch_id, "resume")


@app.command()
@with_settings
def retry(settings: Settings, batch_id: _Id) -> None:
    """Run the lines again that have no answer, as a batch of their own.

    For a FILE that was run, millrace batch run FILE --retry puts their answers into its output.
    """
    from broker.cli.batch.look import act

    act(settings, batch_id, "retry")
