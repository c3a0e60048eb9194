from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib.machinery import ModuleSpec
from types import ModuleType

import pytest

from broker.providers import REGISTRY
from broker.v1 import generation_pb2
from workers import registry
from workers.parameters import Table
from workers.provider import Alternative, Provider


@dataclass(frozen=True)
class Settings:
    kind: str
    name: str = "mine"
    base_url: str | None = None
    models: tuple[str, ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, str] = field(default_factory=dict)


@pytest.mark.parametrize("name", REGISTRY)
def test_every_registered_provider_is_declared(name: str) -> None:
    provider = registry.provider(name)
    assert provider.name == name
    # Where the operator need not say it, the address is there, and no path is joined twice.
    assert provider.base_url or REGISTRY[name].keyless or not REGISTRY[name].addressed
    assert not provider.base_url.endswith("/")
    assert provider.keyless == REGISTRY[name].keyless


SPELLINGS = {
    "openai-compatible": "openai_compatible",
    "OpenAI": "openai",
    "google": "gemini",
    **dict.fromkeys(("together", "togetherai", "together-ai", "TogetherAI"), "together_ai"),
    **dict.fromkeys(("vertexai", "vertex-ai", "VertexAI"), "vertex_ai"),
    **dict.fromkeys(("azure_openai", "azure_ai", "azure-openai"), "azure"),
    **dict.fromkeys(("aws-bedrock", "aws_bedrock"), "bedrock"),
}


@pytest.mark.parametrize(("spelling", "name"), SPELLINGS.items())
def test_other_spellings_are_understood(spelling: str, name: str) -> None:
    assert registry.provider(spelling).name == name


def test_an_unknown_provider_is_answered_with_the_known_ones() -> None:
    with pytest.raises(registry.ProviderError) as caught:
        registry.provider("opnai")
    assert "'opnai'" in str(caught.value)
    assert all(name in str(caught.value) for name in REGISTRY)


def test_settings_replace_what_is_declared() -> None:
    provider = registry.load(
        Settings("openai", base_url="http://127.0.0.1:1/v1/", models=("a",), headers={"x": "y"})
    )
    assert (provider.name, provider.base_url) == ("mine", "http://127.0.0.1:1/v1")
    assert (provider.models, provider.headers) == (("a",), {"x": "y"})
    declared = registry.provider("openai")
    assert (provider.dialect, provider.quirks) == (declared.dialect, declared.quirks)


def test_options_of_the_operator_stand_among_the_quirks() -> None:
    provider = registry.load(Settings("openai", options={"api_version": "1"}))
    assert provider.quirks == {**registry.provider("openai").quirks, "api_version": "1"}


def test_what_settings_leave_open_stays_as_declared() -> None:
    provider, declared = registry.load(Settings("openai")), registry.provider("openai")
    assert (provider.base_url, provider.models) == (declared.base_url, declared.models)


def test_a_provider_without_an_address_names_the_variable_to_set() -> None:
    with pytest.raises(registry.ProviderError, match="VLLM_BASE_URL"):
        registry.load(Settings("openai_compatible", name="vllm"))


def test_loading_one_provider_imports_no_other() -> None:
    code = (
        "import sys; from workers import registry; registry.provider('sim');"
        "print(*sorted(m for m in sys.modules if m.startswith('workers.providers.')))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.split() == ["workers.providers.sim"]


# Libraries that take long to load or much memory, and who alone needs them.
HEAVY = {"google.auth": ("vertex_ai",), "botocore": ("bedrock",), "boto3": ()}


@pytest.mark.parametrize("owner", ["vertex_ai", "bedrock", ""])
def test_a_worker_loads_no_heavy_library_of_another_provider(owner: str) -> None:
    """With its credentials made ready, as `python -m workers PROVIDER` does."""
    others = {name for owners in HEAVY.values() for name in owners}
    names = [owner] if owner else [name for name in REGISTRY if name not in others]
    code = (
        "import importlib, sys, workers.__main__; from workers import registry\n"
        "for name in sys.argv[1:]:\n"
        "    found = registry.provider(name)\n"
        "    if found.credentials:\n"
        "        importlib.import_module(f'workers.credentials.{found.credentials}').make(found)\n"
        "print(*sys.modules)"
    )
    command = [sys.executable, "-c", code, *names]
    out = subprocess.run(command, capture_output=True, text=True, check=True)
    loaded = set(out.stdout.split())
    assert {f"workers.providers.{name}" for name in names} <= loaded
    for library, owners in HEAVY.items():
        if owner not in owners:
            assert library not in loaded


def test_a_provider_concludes_from_the_options_it_is_given() -> None:
    def configure(declared: Provider) -> Provider:
        if "region" not in declared.quirks:
            raise ValueError("set region")
        return replace(declared, base_url=f"https://{declared.quirks['region']}.example")

    module = ModuleType("workers.providers.sim")
    module.PROVIDER = replace(registry.provider("sim"), configure=configure)  # type: ignore[attr-defined]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "workers.providers.sim", module)
        module.__spec__ = ModuleSpec(module.__name__, None)
        found = registry.load(Settings("sim", options={"region": "eu"}))
        assert found.base_url == "https://eu.example"
        told = registry.load(Settings("sim", base_url="http://here", options={"region": "eu"}))
        assert told.base_url == "http://here"
        with pytest.raises(registry.ProviderError, match="'mine': set region"):
            registry.load(Settings("sim"))


def test_some_models_of_a_provider_are_spoken_to_in_another_format() -> None:
    ours, claude = registry.provider("sim"), registry.provider("anthropic").dialect
    table = Table()
    both = replace(ours, alternative=Alternative("Messages", claude, table, models="^claude-"))
    assert both.dialect_for("claude-opus-5") is claude
    assert both.dialect_for("not-claude-opus-5") is ours.dialect
    # With what becomes of parameters there.
    asked = generation_pb2.Request(generate=generation_pb2.GenerateRequest())
    assert both.serving(asked, "claude-opus-5").parameters is table
    assert both.serving(asked, "not-claude-opus-5") is both
