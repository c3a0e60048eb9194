"""Which providers are on, and what the file, their variables and files of keys say of them."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any

import msgspec

from broker.checking import ConfigError, convert, section, words
from broker.limits import Configured
from broker.providers import REGISTRY, canonical
from broker.settings import ProviderSettings
from broker.timeouts import Timeouts

# Why a provider is off that the file switches off.
DISABLED = "enabled is false"

_Count = Annotated[int, msgspec.Meta(ge=1)]


class _Limits(msgspec.Struct, forbid_unknown_fields=True):
    """What a provider allows, as written in YAML."""

    concurrent: _Count | None = None
    requests_per_second: Annotated[float, msgspec.Meta(gt=0)] | None = None
    tokens_per_minute: Annotated[float, msgspec.Meta(gt=0)] | None = None


class _ProviderFile(msgspec.Struct, forbid_unknown_fields=True):
    """A provider as written in YAML."""

    kind: str | None = None
    base_url: str | None = None
    api_key: str | list[str] | None = None
    api_key_file: str | None = None
    api_key_env: str | None = None
    models: list[str] = []
    slots: _Count = 64
    limits: _Limits | None = None
    pool: str = "main"
    headers: dict[str, str] = {}
    options: dict[str, str] = {}
    enabled: bool = True


# Variables that replace the field of the same name; a key's variable comes on top of these.
VARIABLES: Mapping[str, Any] = {
    "BASE_URL": str,
    "MODELS": list[str],
    "SLOTS": _Count,
    "POOL": str,
}


def providers(
    given: Mapping[str, Any], env: Mapping[str, str]
) -> tuple[dict[str, ProviderSettings], dict[str, str]]:
    """The providers that are on by name, and why each of the others that were named is off."""
    named = {
        canonical(name) or name: (name, {} if row is None else row) for name, row in given.items()
    }
    on: dict[str, ProviderSettings] = {}
    off: dict[str, str] = {}
    for name in (*REGISTRY, *(extra for extra in named if extra not in REGISTRY)):
        written, row = named.get(name, (name, {}))
        found = _provider(name, row, env, f"providers.{written}")
        if isinstance(found, ProviderSettings):
            on[name] = found
        else:
            off[name] = found
    return on, off


def timeouts(given: Mapping[str, Mapping[str, Any]], known: Collection[str]) -> dict[str, Timeouts]:
    """The time limits of providers and models by name; `known` are all providers, on or off."""
    found = {}
    for written, row in given.items():
        path = f"timeouts.{written}"
        provider, slash, model = written.partition("/")
        provider = canonical(provider) or provider
        if provider not in known or (slash and not model):
            raise ConfigError(path, "expected a provider, or one and a model: openai/gpt-4o")
        found[provider + slash + model] = section(Timeouts, row, {}, path, "")
    return found


def _provider(name: str, row: object, env: Mapping[str, str], path: str) -> ProviderSettings | str:
    """One provider, or the reason why it is off.

    A key that is missing switches it off and is no error: edges and brokers may share the file
    with workers, and they hold no provider keys.
    """
    file = _with_variables(name, convert(row, _ProviderFile, path, strict=True), env)
    kind = canonical(file.kind or name)
    if kind is None:
        all_words = ", ".join(REGISTRY)
        wrong = f"unknown kind {file.kind!r}, use" if file.kind else "expected"
        raise ConfigError(f"{path}.kind", f"{wrong} one of {all_words}")
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,62}", name):
        raise ConfigError(path, "names are lower-case letters, digits, - and _")
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,63}", file.pool):
        raise ConfigError(f"{path}.pool", "pools are letters, digits, - and _")
    variable = variable_of(name, "BASE_URL")
    base_url = file.base_url
    if base_url and not re.fullmatch(r"https?://[^\s/?#]+[^\s?#]*", base_url):
        where = variable if env.get(variable) else f"{path}.base_url"
        raise ConfigError(where, f"expected an http:// or https:// URL, got {base_url!r}")
    if not file.enabled:
        return DISABLED
    options = _options(name, kind, file, env, path)
    api_keys, missing = _api_keys(name, file, env)
    if not (api_keys or missing):
        found = (words(env.get(variable)) for variable in REGISTRY[kind].keys)
        api_keys = next((keys for keys in found if keys), ())
    ambient = REGISTRY[kind].ambient
    if not api_keys and (missing or not (REGISTRY[kind].keyless or ambient in options)):
        other = f", nor is {variable_of(name, ambient.upper())}" if ambient else ""
        return missing or f"{variable_of(name, 'API_KEY')} is not set{other}"
    if not base_url and (REGISTRY[kind].keyless or not REGISTRY[kind].addressed):
        return f"{variable} is not set"
    return ProviderSettings(
        name=name,
        kind=kind,
        api_keys=api_keys,
        base_url=base_url.rstrip("/") if base_url else None,
        slots=file.slots,
        limits=Configured(**msgspec.structs.asdict(file.limits)) if file.limits else None,
        pool=file.pool,
        models=tuple(file.models),
        headers=MappingProxyType(dict(file.headers)),
        options=MappingProxyType(options),
    )


def _options(
    name: str, kind: str, file: _ProviderFile, env: Mapping[str, str], path: str
) -> dict[str, str]:
    """The options of this kind of provider that somebody set; variables win."""
    known = REGISTRY[kind].options
    if unknown := sorted(file.options.keys() - known.keys()):
        all_words = ", ".join(known) or "none"
        where = f"{path}.options.{unknown[0]}"
        raise ConfigError(where, f"unknown option, {kind} takes: {all_words}")
    found = {}
    for option, others in known.items():
        own = env.get(variable_of(name, option.upper())) or file.options.get(option)
        if value := own or next((env[other] for other in others if env.get(other)), None):
            found[option] = value
    return found


def _with_variables(name: str, file: _ProviderFile, env: Mapping[str, str]) -> _ProviderFile:
    """The provider as written, with what its variables say instead."""
    said: dict[str, Any] = {}
    for suffix, kind in VARIABLES.items():
        variable = variable_of(name, suffix)
        if text := env.get(variable):
            value = words(text) if suffix == "MODELS" else text
            said[suffix.lower()] = convert(value, kind, variable, strict=False)
    return msgspec.structs.replace(file, **said)


def _api_keys(
    name: str, file: _ProviderFile, env: Mapping[str, str]
) -> tuple[tuple[str, ...], str]:
    """The keys of a provider, and what is missing where the file says to find one."""
    if keys := words(env.get(variable_of(name, "API_KEY"))):
        return keys, ""
    if file.api_key:
        return words(file.api_key), ""
    if file.api_key_env:
        keys = words(env.get(file.api_key_env))
        return keys, "" if keys else f"{file.api_key_env} is not set"
    if file.api_key_file:
        try:
            keys = words(Path(file.api_key_file).expanduser().read_text().replace("\n", ","))
        except (OSError, UnicodeDecodeError):
            keys = ()
        return keys, "" if keys else f"{file.api_key_file} holds no key that can be read"
    return (), ""


def variable_of(provider: str, suffix: str) -> str:
    return f"{provider.upper().replace('-', '_')}_{suffix}"
