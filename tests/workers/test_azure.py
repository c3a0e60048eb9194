"""Azure's three kinds of addresses, and its two kinds of keys."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest

from broker.errors import InferenceError
from broker.v1 import generation_pb2
from workers import credentials, registry

HOST = "https://name.openai.azure.com"


@dataclass(frozen=True)
class Settings:
    base_url: str | None
    options: Mapping[str, str] = field(default_factory=dict)
    kind: str = "azure"
    name: str = "azure"
    models: tuple[str, ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)


@pytest.mark.parametrize(
    ("base", "version", "called"),
    [
        ("", "", "/openai/v1/chat/completions"),
        ("/openai", "", "/openai/v1/chat/completions"),
        ("/openai/v1", "", "/openai/v1/chat/completions"),
        ("/openai/v1/", "", "/openai/v1/chat/completions"),
        ("", "preview", "/openai/v1/chat/completions?api-version=preview"),
        ("", "2024-10-21", "/openai/deployments/my%2Fgpt/chat/completions?api-version=2024-10-21"),
        ("/openai", "2024-10-21", "/openai/deployments/my%2Fgpt/chat/completions?api-version=2024-10-21"),
        ("/openai/deployments/d", "2024-10-21", "/openai/deployments/d/chat/completions?api-version=2024-10-21"),
        ("/models", "", "/models/chat/completions?api-version=2024-05-01-preview"),
        ("/v1", "", "/v1/chat/completions"),
    ],
)  # fmt: skip
def test_the_path_is_what_the_address_and_the_version_ask_for(
    base: str, version: str, called: str
) -> None:
    options = {"api_version": version} if version else {}
    provider = registry.load(Settings(HOST + base, options))
    request = generation_pb2.Request()
    request.generate.messages.add().parts.add().text.text = "hi"
    call = provider.dialect.call(request, "my/gpt", provider)
    assert provider.base_url + call.path == HOST + called


def test_without_a_resource_there_is_nothing_to_call() -> None:
    with pytest.raises(registry.ProviderError, match="AZURE_BASE_URL"):
        registry.load(Settings(None))


@pytest.mark.parametrize(
    ("key", "headers"),
    [
        ("0123abcd", {"api-key": "0123abcd"}),
        ("eyJ0eXAiOiJKV1QifQ.e30.x", {"authorization": "Bearer eyJ0eXAiOiJKV1QifQ.e30.x"}),
        (None, {}),
    ],
)
async def test_a_key_and_a_token_of_entra_go_into_different_headers(
    key: str | None, headers: dict[str, str]
) -> None:
    provider = registry.load(Settings(HOST))
    found = credentials.load(provider)
    assert found is not None
    request = generation_pb2.Request()
    request.generate.messages.add().parts.add().text.text = "hi"
    call = provider.dialect.call(request, "m", provider)
    assert await found.headers(key, call, HOST) == headers


async def test_a_key_that_no_header_can_hold_is_refused_and_not_repeated() -> None:
    provider = registry.load(Settings(HOST))
    found = credentials.load(provider)
    assert found is not None
    request = generation_pb2.Request()
    request.generate.messages.add().parts.add().text.text = "hi"
    call = provider.dialect.call(request, "m", provider)
    with pytest.raises(InferenceError) as caught:
        await found.headers("se\ncret", call, HOST)
    assert "cret" not in caught.value.message
    # The attempt makes the caller's fault of it where the key is the caller's.
    assert caught.value.reason == "upstream_credentials"
