"""The shape of the settings: what every process can be told, with defaults; pure.

`broker.config` fills these in. Secrets are left out of every repr.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import msgspec

from broker.limits import Configured
from broker.routing.world import Rules
from broker.timeouts import Timeouts

DEFAULT_DATA = "millrace-data"

_Count = Annotated[int, msgspec.Meta(ge=1)]
_Seconds = Annotated[float, msgspec.Meta(gt=0)]
_Share = Annotated[float, msgspec.Meta(gt=0, le=1)]
_Port = Annotated[int, msgspec.Meta(ge=0, le=65535)]


@dataclass(frozen=True, slots=True)
class Address:
    """A TCP address; `str()` gives host:port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def reachable(self) -> Address:
        """Where a client on this machine finds a server that listens here."""
        return Address({"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host), self.port)


DEFAULT_HTTP = Address("127.0.0.1", 8000)
DEFAULT_GRPC = Address("127.0.0.1", 8001)


@dataclass(frozen=True, slots=True)
class NatsSettings:
    """How to reach NATS. `url` None means the embedded server, which only `up` can start.

    `url` holds no credentials and may be a comma-separated list. `nkey_seed`, `creds`, `tls_ca`,
    `tls_cert` and `tls_key` are paths of files. `port` is the embedded server's, 0 for any free
    one.
    """

    url: str | None = None
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)
    nkey_seed: str | None = None
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
    # What only this kind of provider has, such as a region; see `broker.providers.Entry`.
    options: Mapping[str, str] = field(default_factory=dict)
    # What each key and model allows the whole fleet.
    limits: Configured | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds and timeouts; `_s` are seconds."""

    max_body_bytes: _Count = 32 * 1024 * 1024
    max_header_bytes: _Count = 64 * 1024
    streams_per_key: _Count = 1000
    queue_size: _Count = 10_000
    # Of `queue_size` and `held_bytes`, the most that one API key's requests may take.
    share_per_key: _Share = 0.8
    # Bodies of requests that an edge holds, from their first byte until they are answered.
    held_bytes: _Count = 1024 * 1024 * 1024
    request_timeout_s: _Seconds = 600.0
    keepalive_s: _Seconds = 15.0
    drain_grace_s: _Seconds = 30.0
    slow_reader_s: _Seconds = 60.0
    connect_timeout_s: _Seconds = 5.0
    # While another candidate is left; of the last one; and of a model that reasons.
    first_token_timeout_s: _Seconds = 10.0
    last_first_token_timeout_s: _Seconds = 120.0
    reasoning_first_token_timeout_s: _Seconds = 600.0
    # Of an answer that is not streamed, while another candidate is left; of a model that reasons.
    whole_timeout_s: _Seconds = 90.0
    reasoning_whole_timeout_s: _Seconds = 300.0
    stall_timeout_s: _Seconds = 10.0
    # Of a model that reasons, and where tools may be called.
    reasoning_stall_timeout_s: _Seconds = 60.0
    # One run of a background response.
    background_timeout_s: _Seconds = 3600.0
    # Of a line of a batch, where its provider answers others meanwhile.
    batch_tries: _Count = 7
    # How often a provider is asked how far lines are that were handed over to its own batch API.
    batch_poll_s: _Seconds = 30.0
    # How long responses and conversations are kept.
    response_retention_s: _Seconds = 30 * 86_400.0


@dataclass(frozen=True, slots=True)
class FetchSettings:
    """How workers fetch images and files by their addresses, for providers that want bytes.

    `max_bytes` bounds all that one request names. Without `allow_private` only hosts on the public
    internet are asked.
    """

    max_bytes: _Count = 20 * 1024 * 1024
    timeout_s: _Seconds = 10.0
    allow_private: bool = False


@dataclass(frozen=True, slots=True)
class ImageToolSettings:
    """Who draws for the hosted tool image_generation, where the model's provider does not."""

    # As in a request: `provider/model`. Unset: the tool is refused there.
    model: Annotated[str, msgspec.Meta(min_length=1)] | None = None


@dataclass(frozen=True, slots=True)
class ToolSettings:
    """Tools that the broker runs for models."""

    image_generation: ImageToolSettings = ImageToolSettings()


WebhookEvent = Literal["batch.completed", "batch.failed", "batch.expired", "batch.cancelled"]


@dataclass(frozen=True, slots=True)
class Webhook:
    """Who is told of batches that are over; `secret` signs, as Standard Webhooks have it."""

    url: str
    secret: str = field(repr=False)
    events: tuple[WebhookEvent, ...] = get_args(WebhookEvent)


@dataclass(frozen=True, slots=True)
class CapacitySettings:
    """How the fleet shares what providers allow.

    `shared` false: each worker goes by what it is refused alone. `interactive_reserve` is the part
    that background and batch work leave free.
    """

    shared: bool = True
    interactive_reserve: Annotated[float, msgspec.Meta(ge=0, le=0.9)] = 0.05


@dataclass(frozen=True, slots=True)
class LogSettings:
    """How much is logged and in which form; auto is pretty on a terminal and JSON elsewhere."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "json", "pretty"] = "auto"


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything a process can be told.

    `metrics` is where workers and broker processes serve theirs (edges: on `http`).
    `advertise` None: workers reach the edge on 127.0.0.1 and a free port. `providers` holds those
    that are on, `providers_off` why each other named one is not. `master_key` encrypts callers' own
    provider keys: the first of several does, all of them decrypt. `replicas` is the number of NATS
    servers that keep each stream; `sync_always` makes the embedded server fsync every write.
    """

    data: Path = Path(DEFAULT_DATA)
    config: Path | None = None
    http: Address = DEFAULT_HTTP
    grpc: Address = DEFAULT_GRPC
    advertise: Address | None = None
    metrics: Address | None = None
    nats: NatsSettings = NatsSettings()
    api_key: str | None = field(default=None, repr=False)
    fleet_token: str | None = field(default=None, repr=False)
    master_key: tuple[str, ...] = field(default=(), repr=False)
    providers: Mapping[str, ProviderSettings] = field(default_factory=dict)
    providers_off: Mapping[str, str] = field(default_factory=dict)
    limits: Limits = Limits()
    # `provider` or `provider/model` -> its own time limits.
    timeouts: Mapping[str, Timeouts] = field(default_factory=dict)
    fetch: FetchSettings = FetchSettings()
    capacity: CapacitySettings = CapacitySettings()
    routing: Rules = field(default_factory=Rules)
    # Changes to the catalogue: fields of offers.
    offers: tuple[Mapping[str, Any], ...] = ()
    tools: ToolSettings = ToolSettings()
    webhooks: tuple[Webhook, ...] = ()
    log: LogSettings = LogSettings()
    cors_origins: tuple[str, ...] = ()
    replicas: int = 1
    sync_always: bool = False
