"""`millrace key provider-key set|list|remove`: callers' own provider keys, stored with API keys.

A secret is asked for or read from standard input: arguments show in lists of processes.
"""

from __future__ import annotations

import sys

import orjson
import typer

from broker.cli.attach import with_nats
from broker.cli.keys import with_keyring
from broker.cli.options import fail
from broker.providers import canonical
from broker.settings import Settings
from broker.vault import Vault, VaultError, make_master_key, open_vault


def store(settings: Settings, key_id: str, provider: str) -> None:
    """Encrypt a provider key and keep it with the API key of this id."""
    name = _name(settings, provider)
    record = with_keyring(settings, lambda keyring: keyring.find(key_id))
    if record.revoked:
        fail(f"{key_id} is revoked")
    vault = _vault(settings)
    stored = vault.encrypt(_secret(name), record.id, name)
    with_keyring(settings, lambda keyring: keyring.set_provider_key(record.id, name, stored))
    typer.echo(f"{record.id} ({record.name}) has its own key for {name}")


def show(settings: Settings, key_id: str) -> None:
    """Print the providers, one a line."""
    record = with_keyring(settings, lambda keyring: keyring.find(key_id))
    for name in sorted(record.provider_keys):
        typer.echo(name)


def remove(settings: Settings, key_id: str, provider: str) -> None:
    """Forget the provider key."""
    name = _name(settings, provider)
    record = with_keyring(settings, lambda keyring: keyring.find(key_id))
    if name not in record.provider_keys:
        fail(f"{key_id} has no key of its own for {name}")
    with_keyring(settings, lambda keyring: keyring.set_provider_key(record.id, name, None))
    typer.echo(f"{record.id} ({record.name}) has no key of its own for {name} any more")


def _name(settings: Settings, provider: str) -> str:
    """The name that models of the provider start with."""
    known = {**settings.providers, **settings.providers_off}
    name = provider if provider in known else canonical(provider)
    if name is None:
        fail(f"unknown provider {provider!r}; one of your own has to stand in the settings file")
    return name


def _secret(name: str) -> str:
    if sys.stdin.isatty():
        text = str(typer.prompt(f"Key for {name}", hide_input=True))
    else:
        text = sys.stdin.read()
    secret = text.strip()
    if secret.startswith("{"):  # a service account's key, which comes as lines of JSON
        try:
            secret = orjson.dumps(orjson.loads(secret)).decode()
        except ValueError:
            fail("the key begins like JSON and is none")
    if not secret or not (secret.isascii() and secret.isprintable()):
        fail("a key is ASCII text on one line")
    return secret


def _vault(settings: Settings) -> Vault:
    try:
        if not settings.nats.url:
            # What runs here is `millrace up`: its edge reads the same data folder.
            make_master_key(with_nats(settings).data)
        return open_vault(settings)
    except (VaultError, OSError) as exc:
        fail(str(exc))
