"""The settings: one YAML file, the environment and flags, resolved once at start.

The only module that reads the environment. Every process builds `Settings` in its entry point and
passes them down. Later sources win: defaults, YAML file, environment, overrides (flags). An empty
variable counts as unset. Secrets are left out of every repr.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any
from urllib.parse import unquote, urlsplit

import msgspec
import yaml

from broker import provider_config
from broker.batch import webhooks
from broker.checking import ConfigError, convert, section, words
from broker.providers import REGISTRY
from broker.routing import rules
from broker.settings import (
    DEFAULT_DATA,
    DEFAULT_GRPC,
    DEFAULT_HTTP,
    Address,
    CapacitySettings,
    FetchSettings,
    ImageToolSettings,
    Limits,
    LogSettings,
    NatsSettings,
    ProviderSettings,
    Settings,
    ToolSettings,
    Webhook,
)

__all__ = [
    "Address",
    "ConfigError",
    "FetchSettings",
    "Limits",
    "LogSettings",
    "NatsSettings",
    "ProviderSettings",
    "Settings",
    "child_environment",
    "load_settings",
    "nats_from_url",
]

ENV_PREFIX = "MILLRACE_"
DEFAULT_FILE = "millrace.yaml"
# What 16 random bytes take in base64.
_MASTER_KEY_LENGTH = 22


class _File(msgspec.Struct, forbid_unknown_fields=True):
    """The YAML file; its sections are decoded one by one, so that errors name the whole path."""

    data: str | None = None
    http: str | None = None
    grpc: str | None = None
    advertise: str | None = None
    metrics: str | None = None
    nats: str | dict[str, Any] | None = None
    api_key: str | None = None
    fleet_token: str | None = None
    master_key: str | list[str] | None = None
    providers: dict[str, Any] | None = None
    limits: dict[str, Any] | None = None
    timeouts: dict[str, dict[str, Any]] | None = None
    fetch: dict[str, Any] | None = None
    capacity: dict[str, Any] | None = None
    routing: dict[str, Any] | None = None
    tools: dict[str, Any] | None = None
    webhooks: list[dict[str, Any]] | None = None
    log: dict[str, Any] | None = None
    cors_origins: list[str] | None = None
    replicas: Annotated[int, msgspec.Meta(ge=1, le=5)] | None = None
    sync_always: bool | None = None


def load_settings(
    env: Mapping[str, str] | None = None, overrides: Mapping[str, object] | None = None
) -> Settings:
    """Resolve all sources; `overrides` are keyed like the fields of `Settings` (None: not given).

    `env` None is this process's environment. Raises `ConfigError`.
    """
    env = os.environ if env is None else env
    flags = {name: value for name, value in (overrides or {}).items() if value is not None}
    path, file = _read_file(env, flags)
    pick = _Sources(env, flags, file)
    providers, off = provider_config.providers(file.providers or {}, env)
    timeouts = provider_config.timeouts(file.timeouts or {}, {*providers, *off})
    routing = convert(file.routing or {}, rules.Section, "routing", strict=True)
    return Settings(
        data=Path(pick("data", str, DEFAULT_DATA)).expanduser(),
        config=path,
        http=pick.address("http", "0.0.0.0") or DEFAULT_HTTP,
        grpc=pick.address("grpc", "0.0.0.0") or DEFAULT_GRPC,
        advertise=pick.address("advertise", socket.gethostname()),
        metrics=pick.address("metrics", "0.0.0.0"),
        nats=_nats(pick, file.nats),
        api_key=pick("api_key", str, None),
        fleet_token=pick("fleet_token", str, None),
        master_key=_master_key(pick),
        providers=MappingProxyType(providers),
        providers_off=MappingProxyType(off),
        limits=section(Limits, file.limits or {}, env, "limits", ENV_PREFIX),
        timeouts=MappingProxyType(timeouts),
        fetch=section(FetchSettings, file.fetch or {}, env, "fetch", ENV_PREFIX + "FETCH_"),
        capacity=section(
            CapacitySettings, file.capacity or {}, env, "capacity", ENV_PREFIX + "CAPACITY_"
        ),
        routing=_rules(routing),
        offers=tuple(routing.offers),
        tools=_tools(file.tools or {}, env),
        webhooks=_webhooks(file.webhooks or []),
        log=section(LogSettings, file.log or {}, env, "log", ENV_PREFIX + "LOG_"),
        cors_origins=tuple(words(pick("cors_origins", str | list[str], ()))),
        replicas=pick("replicas", Annotated[int, msgspec.Meta(ge=1, le=5)], 1),
        sync_always=pick("sync_always", bool, False),
    )


def child_environment(
    settings: Settings, providers: Collection[str] = (), env: Mapping[str, str] | None = None
) -> dict[str, str]:
    """The environment of a child process that shall resolve to these settings.

    Of the provider variables only those of `providers` are handed on: nobody else needs their keys.
    `env` None is this process's environment.
    """
    child = dict(os.environ if env is None else env)
    # One port cannot be served by several children.
    child.pop(ENV_PREFIX + "METRICS", None)
    # gRPC's core tells of each connection that a leaving peer closes.
    child.setdefault("GRPC_VERBOSITY", "ERROR")
    if providers:  # a worker, which is given callers' keys in grants
        child.pop(ENV_PREFIX + "MASTER_KEY", None)
    for name in {*REGISTRY, *settings.providers, *settings.providers_off} - {*providers}:
        on = settings.providers.get(name)
        entry = REGISTRY.get(on.kind if on else name)
        options = entry.options if entry else ()
        for suffix in ("API_KEY", *provider_config.VARIABLES, *map(str.upper, options)):
            child.pop(provider_config.variable_of(name, suffix), None)
    given = {settings.providers[name].kind for name in providers if name in settings.providers}
    for kind in REGISTRY.keys() - given:
        for variable in (*REGISTRY[kind].keys, *REGISTRY[kind].secrets):
            child.pop(variable, None)
    values = {
        "DATA": settings.data.absolute(),
        "CONFIG": settings.config and settings.config.absolute(),
        "HTTP": settings.http,
        "GRPC": settings.grpc,
        "ADVERTISE": settings.advertise,
        "API_KEY": settings.api_key,
        "FLEET_TOKEN": settings.fleet_token,
        "NATS": settings.nats.url,
        "NATS_USER": settings.nats.user,
        "NATS_PASSWORD": settings.nats.password,
        "NATS_TOKEN": settings.nats.token,
    }
    child.update({ENV_PREFIX + key: str(value) for key, value in values.items() if value})
    return child


def _rules(section: rules.Section) -> rules.Rules:
    try:
        return rules.rules(section)
    except ValueError as exc:
        path, _, message = str(exc).partition(": ")
        raise ConfigError(f"routing.{path}", message) from exc


def _master_key(pick: _Sources) -> tuple[str, ...]:
    keys = words(pick("master_key", str | list[str], ()))
    if any(len(key) < _MASTER_KEY_LENGTH for key in keys):
        where = pick.raw("master_key")[1]
        raise ConfigError(where, f"expected at least {_MASTER_KEY_LENGTH} random characters")
    return keys


class _Sources:
    """Looks one top-level setting up: flag, then environment, then file."""

    def __init__(self, env: Mapping[str, str], flags: Mapping[str, object], file: _File) -> None:
        self.env = env
        self._flags = flags
        self._file = file

    def raw(self, name: str) -> tuple[object, str]:
        """The value given and where, as an error would name it; None when nobody gave one."""
        if name in self._flags:
            return self._flags[name], "--" + name.replace("_", "-")
        if value := self.env.get(ENV_PREFIX + name.upper()):
            return value, ENV_PREFIX + name.upper()
        return getattr(self._file, name), name

    def __call__(self, name: str, kind: Any, default: Any) -> Any:
        value, path = self.raw(name)
        if value is None:
            return default
        return convert(str(value) if isinstance(value, Path) else value, kind, path, strict=False)

    def address(self, name: str, any_host: str) -> Address | None:
        """An address; a missing host, as in ":8000", becomes `any_host`."""
        value, path = self.raw(name)
        if value is None or isinstance(value, Address):
            return value
        return _address(str(value), path, any_host)


def _read_file(env: Mapping[str, str], flags: Mapping[str, object]) -> tuple[Path | None, _File]:
    """The YAML file named by flag or environment (must exist), else ./millrace.yaml if there."""
    named = flags.get("config") or env.get(ENV_PREFIX + "CONFIG")
    path = Path(str(named)).expanduser() if named else Path(DEFAULT_FILE)
    if not named and not path.is_file():
        return None, _File()
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "not UTF-8"
        raise ConfigError(str(path), f"cannot be read: {reason}") from exc
    except yaml.YAMLError as exc:
        raise ConfigError(str(path), f"not YAML: {' '.join(str(exc).split())}") from exc
    return path, convert({} if content is None else content, _File, "", strict=True)


def _tools(given: Mapping[str, Any], env: Mapping[str, str]) -> ToolSettings:
    for name in given.keys() - {"image_generation"}:
        raise ConfigError(f"tools.{name}", "unknown tool, expected image_generation")
    path, prefix = "tools.image_generation", ENV_PREFIX + "IMAGE_GENERATION_"
    written = convert(given.get("image_generation") or {}, dict[str, Any], path, strict=True)
    return ToolSettings(section(ImageToolSettings, written, env, path, prefix))


def _webhooks(given: list[dict[str, Any]]) -> tuple[Webhook, ...]:
    found = []
    for place, fields in enumerate(given):
        path = f"webhooks[{place}]"
        for name in ("url", "secret"):
            if name not in fields:
                raise ConfigError(f"{path}.{name}", "missing")
        hook = section(Webhook, fields, {}, path, "")
        if urlsplit(hook.url).scheme not in ("http", "https") or not urlsplit(hook.url).hostname:
            raise ConfigError(f"{path}.url", "expected a URL such as https://example.com/hook")
        try:
            webhooks.key(hook.secret)
        except ValueError as exc:
            raise ConfigError(f"{path}.secret", str(exc)) from exc
        found.append(hook)
    return tuple(found)


def _address(text: str, path: str, any_host: str) -> Address:
    match = re.fullmatch(r"(\[[0-9a-fA-F:.%]+\]|[^\s:/\[\]]*):(\d{1,5})", text.strip())
    if not match or int(match[2]) > 65535:
        raise ConfigError(path, f"expected host:port such as 127.0.0.1:8000, got {text!r}")
    return Address(match[1].strip("[]") or any_host, int(match[2]))


def nats_from_url(text: str, path: str = "nats") -> NatsSettings:
    """Settings for one URL or a comma-separated list; credentials are taken out of it.

    Raises `ConfigError`, which names `path`.
    """
    bare: list[str] = []
    found: dict[str, Any] = {}
    for part in text.split(","):
        url, credentials = _split_url(part.strip(), path)
        bare.append(url)
        found = found or credentials
    return NatsSettings(url=",".join(bare), **found)


def _nats(pick: _Sources, given: str | dict[str, Any] | None) -> NatsSettings:
    """NATS settings from their section and their URL, whose credentials win."""
    value, path = pick.raw("nats")
    written = given if isinstance(given, dict) else {}
    settings = section(NatsSettings, written, pick.env, "nats", ENV_PREFIX + "NATS_")
    if isinstance(value, dict):
        value, path = settings.url, "nats.url"
    if not value:
        return settings
    named = nats_from_url(str(value), path)
    return replace(
        settings,
        url=named.url,
        user=named.user or settings.user,
        password=named.password or settings.password,
        token=named.token or settings.token,
    )


def _split_url(text: str, path: str) -> tuple[str, dict[str, str]]:
    """A NATS URL without its credentials, and these: user and password, or a token."""
    parts = urlsplit(text if "://" in text else f"nats://{text}")
    try:
        good = parts.scheme in ("nats", "tls", "ws", "wss") and bool(parts.hostname)
        port = parts.port
    except ValueError:
        good, port = False, None
    if not good:
        # The text may hold a password, so it is not repeated.
        raise ConfigError(path, "expected a NATS URL such as nats://127.0.0.1:4222")
    host = Address(str(parts.hostname), port or 4222)
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    if user and password:
        return f"{parts.scheme}://{host}", {"user": user, "password": password}
    return f"{parts.scheme}://{host}", {"token": user} if user else {}
