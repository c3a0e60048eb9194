"""Settings: where a value comes from, what is refused and how the wrong field is named."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml

from broker import timeouts
from broker.config import (
    Address,
    ConfigError,
    FetchSettings,
    ProviderSettings,
    Settings,
    child_environment,
    load_settings,
)
from broker.limits import Configured
from broker.providers import REGISTRY
from broker.routing.rules import Section
from broker.settings import CapacitySettings, Limits, LogSettings, NatsSettings
from broker.timeouts import Timeouts

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "millrace.yaml"


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def load(text: str = "", env: Mapping[str, str] | None = None, **flags: object) -> Settings:
    if text:
        Path("millrace.yaml").write_text(text)
    return load_settings(env or {}, flags)


def refused(text: str = "", env: Mapping[str, str] | None = None, **flags: object) -> str:
    with pytest.raises(ConfigError) as caught:
        load(text, env, **flags)
    assert str(caught.value) == f"{caught.value.path}: {caught.value.message}"
    return str(caught.value)


def test_time_limits_are_by_provider_and_by_model_wherever_the_keys_are() -> None:
    text = """
        providers: {mine: {kind: openai_compatible, base_url: "http://h"}}
        timeouts:
          openai: {connect_s: 2, total_s: 300}
          openai/gpt-4o: {first_token_s: 4.5, stall_s: 3}
          together/openai/gpt-oss-120b: {stall_s: 30}
          mine: {first_token_s: 60}
    """
    settings = load(text)
    assert settings.timeouts == {
        "openai": Timeouts(connect_s=2, total_s=300),
        "openai/gpt-4o": Timeouts(first_token_s=4.5, stall_s=3),
        "together_ai/openai/gpt-oss-120b": Timeouts(stall_s=30),
        "mine": Timeouts(first_token_s=60),
    }
    both = timeouts.of(settings.timeouts, "openai", "gpt-4o")
    assert both == Timeouts(connect_s=2, first_token_s=4.5, stall_s=3, total_s=300)
    assert timeouts.of(settings.timeouts, "groq", "m") == timeouts.NONE


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{openai: {connect_s: 0}}", "timeouts.openai.connect_s: expected float > 0.0"),
        ("{openai: {stall_s: soon}}", "timeouts.openai.stall_s: expected float"),
        ("{openai: {whole_s: 3}}", "timeouts.openai.whole_s: unknown field"),
        ("{opnai: {stall_s: 3}}", "timeouts.opnai: expected a provider"),
        ("{openai/: {stall_s: 3}}", "timeouts.openai/: expected a provider"),
        ("{openai: 3}", "timeouts"),
    ],
)
def test_a_wrong_time_limit_is_named(text: str, said: str) -> None:
    assert refused(f"timeouts: {text}").startswith(said)


def test_without_any_source_the_defaults_hold() -> None:
    settings = load()
    assert settings == Settings(providers_off=settings.providers_off)
    assert (str(settings.http), str(settings.grpc)) == ("127.0.0.1:8000", "127.0.0.1:8001")
    assert settings.providers == {}
    assert set(settings.providers_off) == set(REGISTRY)


def test_flags_win_over_the_environment_and_that_over_the_file() -> None:
    text, env = (
        "http: h:1\ngrpc: h:1\nadvertise: h:1\n",
        {"MILLRACE_GRPC": "h:2", "MILLRACE_ADVERTISE": "h:2"},
    )
    settings = load(text, env, advertise="h:3")
    assert [str(a) for a in (settings.http, settings.grpc, settings.advertise)] == [
        "h:1",
        "h:2",
        "h:3",
    ]


def test_an_empty_variable_and_a_flag_that_was_not_given_count_as_unset() -> None:
    settings = load("http: h:1", {"MILLRACE_HTTP": "", "OPENAI_API_KEY": ""}, http=None)
    assert settings.http == Address("h", 1)
    assert "openai" not in settings.providers


def test_a_named_file_must_exist_but_the_default_one_need_not(tmp_path: Path) -> None:
    assert load().config is None
    assert refused(env={"MILLRACE_CONFIG": "gone.yaml"}) == (
        "gone.yaml: cannot be read: No such file or directory"
    )
    (tmp_path / "other.yaml").write_text("http: h:9")
    assert load("http: h:1", {"MILLRACE_CONFIG": "other.yaml"}).http == Address("h", 9)
    assert load("http: h:1", {"MILLRACE_CONFIG": "gone.yaml"}, config="other.yaml").http.port == 9


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("providers: {my_vllm: {kind: openai_compatible, slots: many}}", "providers.my_vllm.slots: expected int, got str"),
        ("providers: {my_vllm: {kind: openai_compatible, slots: 0}}", "providers.my_vllm.slots: expected int >= 1"),
        ("providers: {my_vllm: {kind: openai_compatible, slotz: 1}}", "providers.my_vllm.slotz: unknown field"),
        ("providers: {my_vllm: {kind: openai_compatible, models: [a, 1]}}", "providers.my_vllm.models[1]: expected str, got int"),
        ("providers: {my_vllm: {base_url: 'http://h/v1'}}", f"providers.my_vllm.kind: expected one of {', '.join(REGISTRY)}"),
        ("providers: {my_vllm: {kind: vlm}}", f"providers.my_vllm.kind: unknown kind 'vlm', use one of {', '.join(REGISTRY)}"),
        ("providers: {openai: {base_url: h/v1}}", "providers.openai.base_url: expected an http:// or https:// URL, got 'h/v1'"),
        ("providers: {openai: {pool: a.b}}", "providers.openai.pool: pools are letters, digits, - and _"),
        ("providers: {'my.vllm': {kind: sim}}", "providers.my.vllm: names are lower-case letters, digits, - and _"),
        ("providers: {openai: 3}", "providers.openai: expected mapping, got int"),
        ("providers: 3", "providers: expected mapping | null, got int"),
        ("limits: {queue_size: '3'}", "limits.queue_size: expected int, got str"),
        ("limits: {keepalive_s: 0}", "limits.keepalive_s: expected float > 0.0"),
        ("limits: {queue_sice: 3}", "limits.queue_sice: unknown field"),
        ("log: {level: loud}", "log.level: expected one of debug, info, warning, error"),
        ("nats: {url: 'nats://h', pasword: x}", "nats.pasword: unknown field"),
        ("nats: {url: 'http://h'}", "nats.url: expected a NATS URL such as nats://127.0.0.1:4222"),
        ("nats: 'nats://h:port'", "nats: expected a NATS URL such as nats://127.0.0.1:4222"),
        ("nats: {port: 99999}", "nats.port: expected int <= 65535"),
        ("http: 8000", "http: expected str | null, got int"),
        ("http: localhost", "http: expected host:port such as 127.0.0.1:8000, got 'localhost'"),
        ("http: 'h:70000'", "http: expected host:port such as 127.0.0.1:8000, got 'h:70000'"),
        ("cors_origins: '*'", "cors_origins: expected list | null, got str"),
        ("replicas: 9", "replicas: expected int <= 5"),
        ("colour: blue", "colour: unknown field"),
        ("- a list", "the file: expected mapping, got list"),
    ],
)  # fmt: skip
def test_a_wrong_field_of_the_file_is_named_by_its_path(text: str, message: str) -> None:
    assert refused(text) == message


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ({"MILLRACE_HTTP": "8000"}, "MILLRACE_HTTP: expected host:port such as 127.0.0.1:8000, got '8000'"),
        ({"MILLRACE_ADVERTISE": "h"}, "MILLRACE_ADVERTISE: expected host:port such as 127.0.0.1:8000, got 'h'"),
        ({"MILLRACE_QUEUE_SIZE": "big"}, "MILLRACE_QUEUE_SIZE: expected int, got str"),
        ({"MILLRACE_LOG_FORMAT": "xml"}, "MILLRACE_LOG_FORMAT: expected one of auto, json, pretty"),
        ({"MILLRACE_NATS_PORT": "-1"}, "MILLRACE_NATS_PORT: expected int >= 0"),
        ({"MILLRACE_SYNC_ALWAYS": "maybe"}, "MILLRACE_SYNC_ALWAYS: expected bool, got str"),
        ({"OPENAI_SLOTS": "x"}, "OPENAI_SLOTS: expected int, got str"),
        ({"OPENAI_BASE_URL": "h"}, "OPENAI_BASE_URL: expected an http:// or https:// URL, got 'h'"),
    ],
)  # fmt: skip
def test_a_wrong_variable_is_named(env: dict[str, str], message: str) -> None:
    assert refused(env=env) == message


def test_a_wrong_flag_is_named() -> None:
    assert refused(http="8000").startswith("--http: expected host:port")


def test_a_file_that_is_no_yaml_is_refused_in_one_line() -> None:
    message = refused("http: [")
    assert message.startswith("millrace.yaml: not YAML: ")
    assert "\n" not in message


def test_a_wrong_nats_url_is_not_repeated_since_it_may_hold_a_password() -> None:
    assert "secret" not in refused(env={"MILLRACE_NATS": "nats://u:secret@h:port"})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:8000", Address("127.0.0.1", 8000)),
        ("[::1]:8000", Address("::1", 8000)),
        (":8000", Address("0.0.0.0", 8000)),
        ("edge-1.internal:0", Address("edge-1.internal", 0)),
    ],
)
def test_an_address_is_host_and_port(text: str, expected: Address) -> None:
    settings = load(http=text)
    assert settings.http == expected
    assert load(http=str(expected)).http == expected


def test_an_advertised_address_without_a_host_is_this_machine() -> None:
    assert load(advertise=":8002").advertise == Address(socket.gethostname(), 8002)


def test_what_listens_everywhere_is_reached_on_loopback() -> None:
    rows = {"0.0.0.0": "127.0.0.1", "::": "::1", "10.0.0.7": "10.0.0.7"}
    assert {host: Address(host, 1).reachable.host for host in rows} == rows


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("nats://h", NatsSettings(url="nats://h:4222")),
        ("h:1", NatsSettings(url="nats://h:1")),
        ("tls://u:p%40ss@h:1", NatsSettings(url="tls://h:1", user="u", password="p@ss")),
        ("nats://to%2Fken@h:1", NatsSettings(url="nats://h:1", token="to/ken")),
        ("nats://u:p@a:1,nats://b:2", NatsSettings(url="nats://a:1,nats://b:2", user="u", password="p")),
    ],
)  # fmt: skip
def test_credentials_are_taken_out_of_the_nats_url(url: str, expected: NatsSettings) -> None:
    assert load(env={"MILLRACE_NATS": url}).nats == expected
    assert load(nats=url).nats == expected


def test_nats_credentials_have_variables_of_their_own() -> None:
    env = {"MILLRACE_NATS": "nats://h:1", "MILLRACE_NATS_USER": "u", "MILLRACE_NATS_PASSWORD": "p"}
    assert load(env=env).nats == NatsSettings(url="nats://h:1", user="u", password="p")


@pytest.mark.parametrize("name", [name for name, entry in REGISTRY.items() if not entry.keyless])
def test_a_provider_is_on_when_its_key_is_set(name: str) -> None:
    prefix = name.upper()
    off = load(env={f"{prefix}_BASE_URL": "http://h/v1"})
    assert name not in off.providers
    ambient = REGISTRY[name].ambient
    other = f", nor is {prefix}_{ambient.upper()}" if ambient else ""
    assert off.providers_off[name] == f"{prefix}_API_KEY is not set{other}"
    on = load(env={f"{prefix}_API_KEY": "k1, k2,", f"{prefix}_BASE_URL": "http://h/v1/"})
    assert on.providers[name] == ProviderSettings(
        name=name, kind=name, api_keys=("k1", "k2"), base_url="http://h/v1"
    )
    alone = load(env={f"{prefix}_API_KEY": "k"})
    if REGISTRY[name].addressed:
        assert alone.providers[name].base_url is None
    else:
        assert alone.providers_off[name] == f"{prefix}_BASE_URL is not set"


@pytest.mark.parametrize("name", [name for name, entry in REGISTRY.items() if entry.keyless])
def test_a_provider_without_keys_is_on_when_its_base_url_is_set(name: str) -> None:
    prefix = name.upper()
    assert name not in load(env={f"{prefix}_API_KEY": "k"}).providers
    on = load(env={f"{prefix}_BASE_URL": "http://h/v1"})
    assert on.providers[name] == ProviderSettings(name=name, kind=name, base_url="http://h/v1")


def test_a_provider_of_the_file_has_a_name_of_its_own_and_variables_that_win() -> None:
    text = """
providers:
  my-vllm:
    kind: openai-compatible
    base_url: http://h/v1
    api_key: k
    models: [a]
    slots: 8
    pool: gpu
    headers: {x-team: search}
"""
    expected = ProviderSettings(
        "my-vllm",
        "openai_compatible",
        ("k",),
        "http://h/v1",
        8,
        "gpu",
        ("a",),
        {"x-team": "search"},
    )
    assert load(text).providers == {"my-vllm": expected}
    env = {
        "MY_VLLM_API_KEY": "k2",
        "MY_VLLM_BASE_URL": "http://other/v1",
        "MY_VLLM_MODELS": "b, c",
        "MY_VLLM_SLOTS": "9",
        "MY_VLLM_POOL": "cpu",
    }
    assert load(text, env).providers["my-vllm"] == ProviderSettings(
        "my-vllm", "openai_compatible", ("k2",), "http://other/v1", 9, "cpu", ("b", "c"), {"x-team": "search"}
    )  # fmt: skip


def test_what_a_provider_allows_is_read_with_its_path_in_errors() -> None:
    text = "providers: {sim: {base_url: 'http://h', limits: {concurrent: 5, %s}}}"
    on = load(text % "requests_per_second: 0.5").providers["sim"]
    assert on.limits == Configured(concurrent=5, requests_per_second=0.5)
    assert load("providers: {sim: {base_url: 'http://h'}}").providers["sim"].limits is None
    assert refused(text % "tokens_per_minute: 0").startswith("providers.sim.limits.tokens_per")
    assert refused(text % "slots: 1").startswith("providers.sim.limits")


def test_a_kind_of_provider_has_options_of_its_own() -> None:
    text = "providers: {azure: {api_key: k, base_url: 'http://h', options: {api_version: '1'}}}"
    assert load(text).providers["azure"].options == {"api_version": "1"}
    env = {"OPENAI_API_VERSION": "2"}
    assert load(text, env).providers["azure"].options == {"api_version": "1"}
    env["AZURE_API_VERSION"] = "3"
    assert load(text, env).providers["azure"].options == {"api_version": "3"}
    others = {
        "AZURE_API_KEY": "k",
        "AZURE_BASE_URL": "http://h",
        "OPENAI_API_KEY": "k",
        "OPENAI_API_VERSION": "2",
    }
    found = load("{}", others).providers
    assert {name: on.options for name, on in found.items()} == {
        "azure": {"api_version": "2"},
        "openai": {},
    }
    wrong = "providers: {azure: {api_key: k, options: {version: '1'}}}"
    assert (
        refused(wrong)
        == "providers.azure.options.version: unknown option, azure takes: api_version"
    )


def test_a_provider_with_credentials_of_the_machine_needs_no_key() -> None:
    assert "vertex_ai" not in load(env={"VERTEX_AI_LOCATION": "us"}).providers
    on = load(env={"VERTEX_AI_PROJECT": "p"}).providers["vertex_ai"]
    assert (on.api_keys, on.options) == ((), {"project": "p"})
    # Where a key is said to be and is not, nothing stands in for it.
    elsewhere = "providers: {vertex_ai: {api_key_env: K, options: {project: p}}}"
    assert load(elsewhere).providers_off["vertex_ai"] == "K is not set"


@pytest.mark.parametrize(
    ("env", "keys", "options"),
    [
        ({"AWS_BEARER_TOKEN_BEDROCK": "k"}, ("k",), {}),
        ({"AWS_BEARER_TOKEN_BEDROCK": "k", "BEDROCK_API_KEY": "own"}, ("own",), {}),
        ({"AWS_ACCESS_KEY_ID": "AKIA1"}, (), {"credentials": "AKIA1"}),
        ({"AWS_PROFILE": "p"}, (), {"credentials": "p"}),
        ({"BEDROCK_CREDENTIALS": "machine"}, (), {"credentials": "machine"}),
        ({"BEDROCK_PROFILE": "p"}, (), {"credentials": "p", "profile": "p"}),
    ],
)
def test_bedrock_is_on_by_what_aws_itself_reads(
    env: dict[str, str], keys: tuple[str, ...], options: dict[str, str]
) -> None:
    on = load(env={**env, "AWS_REGION": "eu-west-1"}).providers["bedrock"]
    assert (on.api_keys, on.options) == (keys, {"region": "eu-west-1", **options})
    assert "bedrock" not in load(env={"AWS_REGION": "eu-west-1"}).providers


def test_secrets_of_aws_are_handed_to_workers_of_bedrock_alone() -> None:
    secrets = {"AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_BEARER_TOKEN_BEDROCK"}
    env = {**dict.fromkeys(secrets, "s"), "AWS_ACCESS_KEY_ID": "AKIA1", "GROQ_API_KEY": "k"}
    settings = load(env=env)
    for who, expected in (("bedrock", secrets), ("groq", set()), ("", set())):
        assert secrets & child_environment(settings, {who}, env).keys() == expected


def test_another_spelling_of_a_provider_means_the_same_one() -> None:
    settings = load("providers: {openai-compatible: {base_url: 'http://h/v1'}}")
    assert list(settings.providers) == ["openai_compatible"]


def test_a_key_may_come_from_a_file_or_from_a_variable_of_any_name(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("k1\nk2\n")
    text = "providers: {openai: {api_key_file: key}, anthropic: {api_key_env: CLAUDE}}"
    settings = load(text, {"CLAUDE": "k3"})
    assert {n: p.api_keys for n, p in settings.providers.items()} == {
        "openai": ("k1", "k2"),
        "anthropic": ("k3",),
    }


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ("{kind: openai_compatible, base_url: 'http://h', api_key_env: NOPE}", "NOPE is not set"),
        ("{kind: openai_compatible, base_url: 'http://h', api_key_file: nope}", "nope holds no key that can be read"),
        ("{kind: openai_compatible, base_url: 'http://h', enabled: false}", "enabled is false"),
        ("{kind: openai_compatible}", "MINE_BASE_URL is not set"),
        ("{kind: openai}", "MINE_API_KEY is not set"),
    ],
)  # fmt: skip
def test_a_provider_that_lacks_something_is_off_and_the_reason_kept(row: str, why: str) -> None:
    settings = load(f"providers: {{mine: {row}}}")
    assert "mine" not in settings.providers
    assert settings.providers_off["mine"] == why


def test_every_limit_and_log_setting_has_a_variable() -> None:
    limits: dict[str, Any] = {f.name: 7 for f in fields(Limits)} | {"share_per_key": 0.7}
    env = {f"MILLRACE_{name.upper()}": str(value) for name, value in limits.items()}
    settings = load(
        "limits: {queue_size: 3}",
        env | {"MILLRACE_LOG_LEVEL": "debug", "MILLRACE_LOG_FORMAT": "json"},
    )
    assert settings.limits == Limits(**limits)
    assert settings.log == LogSettings("debug", "json")


def test_no_secret_shows_in_a_repr() -> None:
    text = """
nats: {url: 'nats://u:sekret-1@h', token: sekret-2}
api_key: sekret-3
fleet_token: sekret-4
providers: {openai: {api_key: [sekret-5], headers: {authorization: sekret-6}}}
"""
    settings = load(text)
    assert settings.nats.password == "sekret-1"
    assert settings.providers["openai"].api_keys == ("sekret-5",)
    assert "sekret" not in repr(settings)


def test_a_child_process_resolves_to_the_same_settings(tmp_path: Path) -> None:
    text = "limits: {queue_size: 3}\nproviders: {openai: {base_url: 'http://h'}}"
    env = {"MILLRACE_HTTP": "h:1", "OPENAI_API_KEY": "k", "ANTHROPIC_API_KEY": "k", "OTHER": "1"}
    settings = load(
        text, env, data="state", grpc="h:2", advertise=":3", nats="nats://u:p@n:1", api_key="mr-1"
    )
    child = load_settings(child_environment(settings, settings.providers, env))
    assert child.data == tmp_path / "state"
    assert child.config == tmp_path / "millrace.yaml"
    same = {"data": child.data, "config": child.config}
    for field in fields(Settings):
        if field.name not in same:
            assert getattr(child, field.name) == getattr(settings, field.name), field.name


def test_a_child_gets_the_keys_of_its_own_providers_only() -> None:
    env = {
        "OPENAI_API_KEY": "k",
        "ANTHROPIC_API_KEY": "k",
        "MINE_BASE_URL": "http://h",
        "OTHER": "1",
    }
    settings = load("providers: {mine: {kind: openai_compatible}}", env)
    handed = {
        who: {name for name in child_environment(settings, who, env) if name in env}
        for who in ((), ("openai",), ("mine", "anthropic"))
    }
    assert handed == {
        (): {"OTHER"},
        ("openai",): {"OPENAI_API_KEY", "OTHER"},
        ("mine", "anthropic"): {"ANTHROPIC_API_KEY", "MINE_BASE_URL", "OTHER"},
    }


def leaves(value: Any, path: str = "") -> Iterator[str]:
    """The fields of a file, as paths; a provider's own name and a header's are not fields."""
    if not isinstance(value, dict) or not value:
        yield path
        return
    for name, inner in value.items():
        if path == "providers":
            yield from leaves(inner, "providers.*")
        elif path == "timeouts":
            yield from leaves(inner, "timeouts.*")
        elif path.endswith(".headers"):
            yield path
        elif path == "routing":  # whose fields hold names of the operator's own
            yield f"routing.{name}"
        else:
            yield from leaves(inner, f"{path}.{name}".removeprefix("."))


WRONG_ROUTING = [
    ("aliases: {a: []}", "routing.aliases"),
    ("aliases: {a: {deployments: []}}", "routing.aliases"),
    ("aliases: {a: {deployments: [{model: m, weight: 0}]}}", "routing.aliases"),
    ("aliases: {openai/gpt-4o: x}", "routing.aliases.openai/gpt-4o"),
    ("compliance: {bedrock: [Mars]}", "routing.compliance.bedrock"),
    ("fallback: {}", "routing.fallback"),
    ("private: bedrock", "routing.private"),
    ("offers: [{provider: openai}]", "routing.offers[0]"),
    ("offers: [{provider: openai, model: m, max_input: many}]", "routing.offers[0]"),
]


@pytest.mark.parametrize(("text", "path"), WRONG_ROUTING)
def test_routing_that_is_wrong_is_named(text: str, path: str) -> None:
    with pytest.raises(ConfigError) as told:
        load(f"routing: {{{text}}}")
    assert told.value.path.startswith(path)


def test_routing_is_read_into_rules() -> None:
    rules = load_settings({"MILLRACE_CONFIG": str(EXAMPLE)}).routing
    assert [d.weight for d in rules.aliases["auto"].deployments] == [3, 1]
    assert rules.aliases["fast"].deployments[0].model == "groq/llama-3.3-70b-versatile"
    assert rules.fallbacks == {"openai/gpt-4o": ("anthropic/claude-sonnet-4-5",)}
    assert rules.compliance == {"bedrock": frozenset({"EU", "US"})}


def test_who_draws_is_named_in_the_file_or_by_a_variable() -> None:
    assert load().tools.image_generation.model is None
    text = "tools: {image_generation: {model: openai/gpt-image-2}}"
    assert load(text).tools.image_generation.model == "openai/gpt-image-2"
    env = {"MILLRACE_IMAGE_GENERATION_MODEL": "sim/sim"}
    assert load(text, env).tools.image_generation.model == "sim/sim"


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("tools: {web_search: {}}", "tools.web_search"),
        ("webhooks: [{secret: x}]", "webhooks[0].url"),
        ("webhooks: [{url: 'http://h/'}]", "webhooks[0].secret"),
        ("webhooks: [{url: 'http://h/', secret: ''}]", "webhooks[0].secret"),
        ("webhooks: [{url: 'http://h/', secret: whsec_x}]", "webhooks[0].secret"),
        ("webhooks: [{url: 'ftp://h/', secret: x}]", "webhooks[0].url"),
        ("webhooks: [{url: 'http://h/', secret: x, events: [x]}]", "webhooks[0].events[0]"),
        ("webhooks: [{url: 'http://h/', secret: x, event: []}]", "webhooks[0].event"),
        ("tools: {image_generation: {mode: x}}", "tools.image_generation.mode"),
        ("tools: {image_generation: {model: 5}}", "tools.image_generation.model"),
        ("tools: {image_generation: {model: ''}}", "tools.image_generation.model"),
        ("tools: {image_generation: openai}", "tools.image_generation"),
    ],
)
def test_a_tool_that_is_wrong_is_named(text: str, path: str) -> None:
    assert refused(text).startswith(f"{path}: ")


def test_the_example_file_is_valid() -> None:
    settings = load_settings({"MILLRACE_CONFIG": str(EXAMPLE)})
    assert settings.providers["my_vllm"].models == ("llama-3", "qwen-3")


def test_the_example_file_documents_every_field_and_shows_the_defaults() -> None:
    document = yaml.safe_load(EXAMPLE.read_text())
    shown = set(leaves(document))
    own = {"config", "providers", "providers_off", "nats", "limits", "fetch", "capacity", "log"}
    expected = {f.name for f in fields(Settings)} - own - {"routing", "offers", "tools", "timeouts"}
    expected |= {f"routing.{name}" for name in Section.__struct_fields__}
    expected |= {"tools.image_generation.model"}
    expected |= {f"timeouts.*.{f.name}" for f in fields(Timeouts)}
    sections = {
        "nats": NatsSettings,
        "limits": Limits,
        "fetch": FetchSettings,
        "capacity": CapacitySettings,
        "log": LogSettings,
    }
    for section, cls in sections.items():
        expected |= {f"{section}.{f.name}" for f in fields(cls)}
    provider = {f.name for f in fields(ProviderSettings)} - {"name", "api_keys", "limits"}
    provider |= {f"limits.{name}" for name in Configured.__struct_fields__}
    provider |= {"api_key", "api_key_env", "api_key_file", "enabled"}
    expected |= {f"providers.*.{name}" for name in provider}
    assert shown == expected
    read = load_settings({"MILLRACE_CONFIG": str(EXAMPLE)})
    defaults = Settings()
    for name in ("data", "http", "grpc", "limits", "fetch", "capacity", "log", "replicas"):
        assert getattr(read, name) == getattr(defaults, name), name


def test_every_line_of_the_example_file_stands_under_a_comment() -> None:
    bare = []
    told = False
    for line in EXAMPLE.read_text().splitlines():
        if not line.strip():
            told = False
        elif "#" in line:
            told = True
        elif not told and not re.fullmatch(r"\w+:", line):
            bare.append(line)
    assert bare == []
