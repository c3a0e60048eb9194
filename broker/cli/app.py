"""The commands of `millrace` and their arguments.

A command's module is loaded when the command runs, so that --help needs neither NATS nor HTTP.
"""
# ruff: noqa: PLC0415

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from broker.cli.batch.commands import app as batch_app
from broker.cli.options import with_settings
from broker.keys import MAX_WEIGHT
from broker.settings import Settings

app = typer.Typer(
    name="millrace",
    help="An inference broker: OpenAI HTTP and gRPC in front, NATS in the middle, a worker pool "
    "per provider behind.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
_key = typer.Typer(help="Create, list and revoke API keys.", no_args_is_help=True)
_provider_key = typer.Typer(
    help="Keep callers' own provider keys with their API keys, encrypted.", no_args_is_help=True
)
_files = typer.Typer(help="Upload, list, download and delete files.", no_args_is_help=True)
_config = typer.Typer(help="Look at the settings.", no_args_is_help=True)
app.add_typer(_key, name="key")
_key.add_typer(_provider_key, name="provider-key")
app.add_typer(_files, name="files")
app.add_typer(_config, name="config")
app.add_typer(batch_app, name="batch")


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"millrace {version('millrace')}")
        raise typer.Exit


@app.callback()
def _options(
    show_version: Annotated[
        bool,
        typer.Option("--version", help="Show the version.", callback=_show_version, is_eager=True),
    ] = False,
) -> None:
    pass


@app.command()
@with_settings
def up(settings: Settings) -> None:
    """Start everything on this machine: NATS, broker, edge, a worker per provider, and sim."""
    from broker.cli.up import run

    run(settings)


@app.command()
@with_settings
def edge(settings: Settings) -> None:
    """Start one edge: the HTTP and gRPC APIs."""
    from broker.cli.processes import run_module

    run_module(settings, "edge")


@app.command()
@with_settings
def worker(
    settings: Settings,
    providers: Annotated[
        list[str], typer.Argument(metavar="PROVIDER...", help="openai, anthropic, ...")
    ],
) -> None:
    """Start a worker process for these providers."""
    from broker.cli.processes import run_workers

    run_workers(settings, providers)


@app.command()
@with_settings
def broker(settings: Settings) -> None:
    """Start the broker process: it creates the streams and leases capacity."""
    from broker.cli.processes import run_module

    run_module(settings, "broker")


@app.command()
def sim(
    host: Annotated[str, typer.Option(help="Where to listen.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Where to listen; 0 takes a free port.")
    ] = 0,
) -> None:
    """Start the make-believe provider; it prints its address as one line of JSON."""
    from broker.cli.processes import run_sim

    run_sim(host, port)


@app.command()
@with_settings
def chat(  # noqa: PLR0917 - typer calls it by name
    settings: Settings,
    model: Annotated[str, typer.Argument(help="Such as openai/gpt-4o or sim/hello.")],
    prompt: Annotated[str, typer.Argument(help="What to say; - reads it from standard input.")],
    system: Annotated[str | None, typer.Option(help="System prompt.")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Longest answer.")] = None,
    temperature: Annotated[float | None, typer.Option(help="0 to 2.")] = None,
) -> None:
    """Ask MODEL something; the answer streams in the terminal."""
    from broker.cli.chat import Question, ask

    ask(settings, Question(model, prompt, system, max_tokens, temperature))


@app.command()
@with_settings
def models(
    settings: Settings,
    operation: Annotated[
        str | None, typer.Option("--for", help="Only those for this, such as embed or rerank.")
    ] = None,
) -> None:
    """List the models of the providers that are on, and what else than chat they are for."""
    from broker.cli.models import show

    show(settings, operation)


@app.command()
@with_settings
def route(  # noqa: PLR0917 - typer calls it by name
    settings: Settings,
    model: Annotated[str, typer.Argument(help="Such as openai/gpt-4o, gpt-4o or llama@ttft.")],
    also: Annotated[
        list[str] | None, typer.Option("--or", metavar="MODEL", help="Tried after it; repeatable.")
    ] = None,
    provider: Annotated[
        str | None, typer.Option(metavar="JSON", help="The provider object of a request.")
    ] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Prices, load, and who was left out, and why.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The whole decision as JSON.")] = False,
) -> None:
    """Show where a request for MODEL would go, first choice first."""
    from broker.cli.route import Wanted, show

    show(settings, Wanted(model, also or (), provider), explain=explain, as_json=as_json)


@app.command()
@with_settings
def usage(  # noqa: PLR0917 - typer calls it by name
    settings: Settings,
    by: Annotated[
        str, typer.Option(help="What has lines: any of tenant,key,provider,model,day.")
    ] = "tenant,model",
    since: Annotated[str | None, typer.Option(metavar="DAY", help="The first day, UTC.")] = None,
    until: Annotated[
        str | None, typer.Option(metavar="DAY", help="The first day not to count.")
    ] = None,
    tenant: Annotated[str | None, typer.Option(help="Only this one's.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="With all classes of tokens.")] = False,
) -> None:
    """Sum up what was used and what it costs."""
    from broker.cli.usage import show

    show(settings, by, since, until, tenant, as_json=as_json)


@app.command()
@with_settings
def capacity(
    settings: Settings,
    provider: Annotated[str | None, typer.Argument(help="Only this one's models.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="With the share of each worker.")] = False,
) -> None:
    """Show what providers allow, how much of it is used, and what they refused (429)."""
    from broker.cli.capacity import show

    show(settings, provider, as_json=as_json)


@app.command()
@with_settings
def doctor(settings: Settings) -> None:
    """Check NATS, streams, workers, provider keys, ports and versions."""
    from broker.cli.doctor import examine

    examine(settings)


@_config.command("check")
@with_settings
def config_check(settings: Settings) -> None:
    """Show the resolved settings, secrets masked; fails with the path of a wrong field."""
    from broker.cli.settings_view import show

    show(settings)


@_key.command("create")
@with_settings
def key_create(
    settings: Settings,
    name: Annotated[str, typer.Argument(help="Who or what will use the key.")],
    tenant: Annotated[str, typer.Option(help="Who pays.")] = "default",
    weight: Annotated[
        int, typer.Option(min=1, max=MAX_WEIGHT, help="Its share of turns where keys wait.")
    ] = 1,
) -> None:
    """Make an API key and print it: it is shown this once."""
    from broker.cli.keys import create

    create(settings, name, tenant, weight)


@_key.command("list")
@with_settings
def key_list(settings: Settings) -> None:
    """List the API keys, never their secrets."""
    from broker.cli.keys import show

    show(settings)


@_key.command("revoke")
@with_settings
def key_revoke(
    settings: Settings, key_id: Annotated[str, typer.Argument(metavar="ID", help="key_...")]
) -> None:
    """Make an API key useless, for ever."""
    from broker.cli.keys import revoke

    revoke(settings, key_id)


_KeyId = Annotated[str, typer.Argument(metavar="KEY_ID", help="key_...; see millrace key list")]
_ProviderName = Annotated[str, typer.Argument(metavar="PROVIDER", help="openai, anthropic, ...")]


@_provider_key.command("set")
@with_settings
def provider_key_set(settings: Settings, key_id: _KeyId, provider: _ProviderName) -> None:
    """Store a provider key, asked for or read from standard input, in place of any before it.

    Requests made with the API key use it when they say use_custom_keys.
    """
    from broker.cli.provider_keys import store

    store(settings, key_id, provider)


@_provider_key.command("list")
@with_settings
def provider_key_list(settings: Settings, key_id: _KeyId) -> None:
    """List the providers that a key is stored for."""
    from broker.cli.provider_keys import show

    show(settings, key_id)


@_provider_key.command("remove")
@with_settings
def provider_key_remove(settings: Settings, key_id: _KeyId, provider: _ProviderName) -> None:
    """Forget a stored provider key."""
    from broker.cli.provider_keys import remove

    remove(settings, key_id, provider)


_FileId = Annotated[str, typer.Argument(metavar="ID", help="file-...; see millrace files list")]


@_files.command("upload")
@with_settings
def files_upload(
    settings: Settings,
    path: Annotated[Path, typer.Argument(metavar="FILE", help="What to upload, up to 8 GiB.")],
    purpose: Annotated[str, typer.Option(help="batch, user_data, vision, ...")] = "batch",
    expires: Annotated[
        int | None,
        typer.Option(metavar="SECONDS", help="How long to keep it: 3600 to 2592000."),
    ] = None,
) -> None:
    """Upload FILE and print its id."""
    from broker.cli.files import upload

    upload(settings, path, purpose, expires)


@_files.command("list")
@with_settings
def files_list(
    settings: Settings,
    purpose: Annotated[str | None, typer.Option(help="Only those with this purpose.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many, newest first.")] = 100,
) -> None:
    """List the files that the API key may see."""
    from broker.cli.files import show

    show(settings, purpose, limit)


@_files.command("get")
@with_settings
def files_get(
    settings: Settings,
    file_id: _FileId,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Where to write it; what broke off goes on there."),
    ] = None,
) -> None:
    """Write the content of a file to standard output, or to a file."""
    from broker.cli.files import get

    get(settings, file_id, output)


@_files.command("delete")
@with_settings
def files_delete(
    settings: Settings,
    file_ids: Annotated[list[str], typer.Argument(metavar="ID...", help="file-...")],
) -> None:
    """Delete files and their bytes."""
    from broker.cli.files import delete

    delete(settings, file_ids)
