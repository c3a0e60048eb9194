"""The settings: one YAML file, the environment and flags, resolved once at start.

The only module that reads the environment. Every process builds `Settings` in its entry point and
passes them down. Later sources win: defaults, YAML file, environment, overrides (flags). An empty
variable counts as unset. Secrets are left out of every repr.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal, TypeVar, cast, get_type_hints
from urllib.parse import unquote, urlsplit

import msgspec
import yaml

from broker.providers import REGISTRY, canonical

ENV_PREFIX = "MILLRACE_"
DEFAULT_FILE = "millrace.yaml"
DEFAULT_DATA = "millrace-data"

_Count = Annotated[int, msgspec.Meta(ge=1)]
_Seconds = Annotated[float, msgspec.Meta(gt=0)]
_Port = Annotated[int, msgspec.Meta(ge=0, le=65535)]
_T = TypeVar("_T")


class ConfigError(Exception):
    """A setting is wrong. `path` says which: `limits.queue_size`, `MILLRACE_HTTP` or `--http`."""

    def __init__(self, path: str, message: str) -> None:
        super().__init__(f"{path}: {message}")
        self.path = path
        self.message = message


@dataclass(frozen=True, slots=True)
class Address:
    """A TCP address; `str()` gives host:port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


DEFAULT_HTTP = Address("127.0.0.1", 8000)
DEFAULT_GRPC = Address("127.0.0.1", 8001)


@dataclass(frozen=True, slots=True)
class NatsSettings:
    """How to reach NATS. `url` None means the embedded server, which only `up` can start.

    `url` holds no credentials and may be a comma-separated list. `creds`, `tls_ca`, `tls_cert` and
    `tls_key` are paths of files. `port` is the embedded server's, 0 for any free one.
    """

    url: str | None = None
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)
    nkey_seed: str | None = field(default=None, repr=False)
    creds: str | None = None
    tls_ca: str | None = None
    tls_cert: str | None = None
    tls_key: str | None = None
    port: _Port = 0

    @property
    def servers(self) -> list[str]:
        """The URLs, one by one."""
        return [part for part in (self.url or "").split(",") if part]


@dataclass(frozen=True, slots=True)
class ProviderSettings:
    """One provider that is on; `kind` is its word in the registry, `name` what models start with.

    `slots` is the number of calls one worker makes at a time. `base_url` None: the kind's own.
    """

    name: str
    kind: str
    api_keys: tuple[str, ...] = field(default=(), repr=False)
    base_url: str | None = None
    slots: int = 64
    pool: str = "main"
    models: tuple[str, ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds and timeouts; `_s` are seconds."""

    max_body_bytes: _Count = 32 * 1024 * 1024
    max_header_bytes: _Count = 64 * 1024
    streams_per_key: _Count = 1000
    queue_size: _Count = 10_000
    request_timeout_s: _Seconds = 600.0
    keepalive_s: _Seconds = 15.0
    drain_grace_s: _Seconds = 30.0
    slow_reader_s: _Seconds = 60.0
    connect_timeout_s: _Seconds = 5.0
    first_token_timeout_s: _Seconds = 120.0
    stall_timeout_s: _Seconds = 60.0


@dataclass(frozen=True, slots=True)
class LogSettings:
    """How much is logged and in which form; auto is pretty on a terminal and JSON elsewhere."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "json", "pretty"] = "auto"


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything a process can be told.

    `advertise` None: workers reach the edge on 127.0.0.1 and a free port. `providers` holds those
    that are on, `providers_off` why each other named one is not. `replicas` is the number of NATS
    servers that keep each stream; `sync_always` makes the embedded server fsync every write.
    """

    data: Path = Path(DEFAULT_DATA)
    config: Path | None = None
    http: Address = DEFAULT_HTTP
    grpc: Address = DEFAULT_GRPC
    advertise: Address | None = None
    nats: NatsSettings = NatsSettings()
    api_key: str | None = field(default=None, repr=False)
    fleet_token: str | None = field(default=None, repr=False)
    providers: Mapping[str, ProviderSettings] = field(default_factory=dict)
    providers_off: Mapping[str, str] = field(default_factory=dict)
    limits: Limits = Limits()
    log: LogSettings = LogSettings()
    cors_origins: tuple[str, ...] = ()
    replicas: int = 1
    sync_always: bool = False


class _ProviderFile(msgspec.Struct, forbid_unknown_fields=True):
    """A provider as written in YAML."""

    kind: str | None = None
    base_url: str | None = None
    api_key: str | list[str] | None = None
    api_key_file: str | None = None
    api_key_env: str | None = None
    models: list[str] = []
    slots: _Count = 64
    pool: str = "main"
    headers: dict[str, str] = {}
    enabled: bool = True


class _File(msgspec.Struct, forbid_unknown_fields=True):
    """The YAML file; its sections are decoded one by one, so that errors name the whole path."""

    data: str | None = None
    http: str | None = None
    grpc: str | None = None
    advertise: str | None = None
    nats: str | dict[str, Any] | None = None
    api_key: str | None = None
    fleet_token: str | None = None
    providers: dict[str, Any] | None = None
    limits: dict[str, Any] | None = None
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
    providers, off = _providers(file.providers or {}, env)
    return Settings(
        data=Path(pick("data", str, DEFAULT_DATA)).expanduser(),
        config=path,
        http=pick.address("http", "0.0.0.0") or DEFAULT_HTTP,
        grpc=pick.address("grpc", "0.0.0.0") or DEFAULT_GRPC,
        advertise=pick.address("advertise", socket.gethostname()),
        nats=_nats(pick, file.nats),
        api_key=pick("api_key", str, None),
        fleet_token=pick("fleet_token", str, None),
        providers=MappingProxyType(providers),
        providers_off=MappingProxyType(off),
        limits=_section(Limits, file.limits or {}, env, "limits", ENV_PREFIX),
        log=_section(LogSettings, file.log or {}, env, "log", ENV_PREFIX + "LOG_"),
        cors_origins=tuple(_words(pick("cors_origins", str | list[str], ()))),
        replicas=pick("replicas", Annotated[int, msgspec.Meta(ge=1, le=5)], 1),
        sync_always=pick("sync_always", bool, False),
    )


def child_environment(
    settings: Settings, provider: str | None = None, env: Mapping[str, str] | None = None
) -> dict[str, str]:
    """The environment of a child process that shall resolve to these settings.

    Of the provider variables only those of `provider` are handed on: nobody else needs its keys.
    `env` None is this process's environment.
    """
    child = dict(os.environ if env is None else env)
    for name in {*REGISTRY, *settings.providers, *settings.providers_off} - {provider}:
        for suffix in ("API_KEY", "BASE_URL"):
            child.pop(_variable(name, suffix), None)
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


class _Sources:
    """Looks one top-level setting up: flag, then environment, then file."""

    def __init__(self, env: Mapping[str, str], flags: Mapping[str, object], file: _File) -> None:
        self._env = env
        self._flags = flags
        self._file = file

    def raw(self, name: str) -> tuple[object, str]:
        """The value given and where, as an error would name it; None when nobody gave one."""
        if name in self._flags:
            return self._flags[name], "--" + name.replace("_", "-")
        if value := self._env.get(ENV_PREFIX + name.upper()):
            return value, ENV_PREFIX + name.upper()
        return getattr(self._file, name), name

    def __call__(self, name: str, kind: Any, default: Any) -> Any:
        value, path = self.raw(name)
        if value is None:
            return default
        return _convert(str(value) if isinstance(value, Path) else value, kind, path, strict=False)

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
    return path, _convert({} if content is None else content, _File, "", strict=True)


def _convert(value: object, kind: Any, path: str, *, strict: bool) -> Any:
    """`value` as `kind`, or `ConfigError` with the path of the field at fault below `path`."""
    try:
        return msgspec.convert(value, kind, strict=strict)
    except msgspec.ValidationError as exc:
        message, _, inner = str(exc).partition(" - at ")
        below = inner.strip("`").removeprefix("$").replace(".[", "[")
        if unknown := re.fullmatch(r"Object contains unknown field `(.*)`", message):
            below, message = f"{below}.{unknown[1]}", "unknown field"
        where = (path + below).removeprefix(".") or "the file"
        text = message.replace("`", "")
        raise ConfigError(where, text[:1].lower() + text[1:]) from exc


def _section(
    cls: type[_T], given: Mapping[str, Any], env: Mapping[str, str], path: str, prefix: str
) -> _T:
    """A dataclass of settings from its part of the file and from variables named after fields."""
    hints = get_type_hints(cls, include_extras=True)
    known = [(f.name, hints[f.name]) for f in fields(cast("Any", cls))]
    shape = msgspec.defstruct(
        cls.__name__, [(*row, msgspec.UNSET) for row in known], forbid_unknown_fields=True
    )
    decoded = _convert(given, shape, path, strict=True)
    values = {name: getattr(decoded, name) for name, _ in known if name in given}
    for name, hint in known:
        if text := env.get(prefix + name.upper()):
            values[name] = _convert(text, hint, prefix + name.upper(), strict=False)
    return cls(**values)


def _address(text: str, path: str, any_host: str) -> Address:
    match = re.fullmatch(r"(\[[0-9a-fA-F:.%]+\]|[^\s:/\[\]]*):(\d{1,5})", text.strip())
    if not match or int(match[2]) > 65535:
        raise ConfigError(path, f"expected host:port such as 127.0.0.1:8000, got {text!r}")
    return Address(match[1].strip("[]") or any_host, int(match[2]))


def _nats(pick: _Sources, given: str | dict[str, Any] | None) -> NatsSettings:
    """NATS settings; credentials written in the URL are taken out of it."""
    value, path = pick.raw("nats")
    section = given if isinstance(given, dict) else {}
    settings = _section(NatsSettings, section, pick._env, "nats", ENV_PREFIX + "NATS_")
    if isinstance(value, dict):
        value, path = settings.url, "nats.url"
    if not value:
        return settings
    bare: list[str] = []
    found: dict[str, str] = {}
    for part in str(value).split(","):
        url, credentials = _split_url(part.strip(), path)
        bare.append(url)
        found = found or credentials
    known = {f.name: getattr(settings, f.name) for f in fields(settings)}
    return NatsSettings(**{**known, "url": ",".join(bare), **found})


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


def _providers(
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


def _provider(name: str, row: object, env: Mapping[str, str], path: str) -> ProviderSettings | str:
    """One provider, or the reason why it is off.

    A key that is missing switches it off and is no error: edges and brokers may share the file
    with workers, and they hold no provider keys.
    """
    file: _ProviderFile = _convert(row, _ProviderFile, path, strict=True)
    kind = canonical(file.kind or name)
    if kind is None:
        words = ", ".join(REGISTRY)
        wrong = f"unknown kind {file.kind!r}, use" if file.kind else "expected"
        raise ConfigError(f"{path}.kind", f"{wrong} one of {words}")
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,62}", name):
        raise ConfigError(path, "names are lower-case letters, digits, - and _")
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,63}", file.pool):
        raise ConfigError(f"{path}.pool", "pools are letters, digits, - and _")
    variable = _variable(name, "BASE_URL")
    base_url, where = env.get(variable), variable
    if not base_url:
        base_url, where = file.base_url, f"{path}.base_url"
    if base_url and not re.fullmatch(r"https?://[^\s/?#]+[^\s?#]*", base_url):
        raise ConfigError(where, f"expected an http:// or https:// URL, got {base_url!r}")
    if not file.enabled:
        return "enabled is false"
    api_keys, missing = _api_keys(name, file, env)
    if not api_keys and (missing or not REGISTRY[kind].keyless):
        return missing or f"{_variable(name, 'API_KEY')} is not set"
    if not base_url and REGISTRY[kind].keyless:
        return f"{variable} is not set"
    return ProviderSettings(
        name=name,
        kind=kind,
        api_keys=api_keys,
        base_url=base_url.rstrip("/") if base_url else None,
        slots=file.slots,
        pool=file.pool,
        models=tuple(file.models),
        headers=MappingProxyType(dict(file.headers)),
    )


def _api_keys(
    name: str, file: _ProviderFile, env: Mapping[str, str]
) -> tuple[tuple[str, ...], str]:
    """The keys of a provider, and what is missing where the file says to find one."""
    if keys := _words(env.get(_variable(name, "API_KEY"))):
        return keys, ""
    if file.api_key:
        return _words(file.api_key), ""
    if file.api_key_env:
        keys = _words(env.get(file.api_key_env))
        return keys, "" if keys else f"{file.api_key_env} is not set"
    if file.api_key_file:
        try:
            keys = _words(Path(file.api_key_file).expanduser().read_text().replace("\n", ","))
        except (OSError, UnicodeDecodeError):
            keys = ()
        return keys, "" if keys else f"{file.api_key_file} holds no key that can be read"
    return (), ""


def _words(value: str | list[str] | tuple[str, ...] | None) -> tuple[str, ...]:
    """The parts of a comma-separated text, or of a list."""
    parts = value.split(",") if isinstance(value, str) else value or ()
    return tuple(word for part in parts if (word := part.strip()))


def _variable(provider: str, suffix: str) -> str:
    return f"{provider.upper().replace('-', '_')}_{suffix}"
