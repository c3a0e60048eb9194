"""Which lines go to a provider's batch API, and as what."""

from __future__ import annotations

import json
from typing import Any

import pytest

from broker.batch import lines
from broker.batch.chunks import Raw
from workers.handover import Handed, call_of
from workers.provider import Provider
from workers.providers.anthropic import PROVIDER as ANTHROPIC
from workers.providers.groq import PROVIDER as GROQ
from workers.providers.openai import PROVIDER as OPENAI
from workers.providers.xai import PROVIDER as XAI

CHAT = "/v1/chat/completions"
HELLO = {"messages": [{"role": "user", "content": "hello"}]}


def handed(body: dict[str, Any], endpoint: str) -> Handed:
    line = {"custom_id": "a", "method": "POST", "url": endpoint, "body": {"model": "m", **body}}
    data = json.dumps(line).encode()
    return Handed(Raw(1, 0, data), lines.read(data)[0])


TAKEN: list[tuple[Provider, str, dict[str, Any], str]] = [
    (OPENAI, CHAT, HELLO, "/chat/completions"),
    (OPENAI, "/v1/embeddings", {"input": "hello"}, "/embeddings"),
    (OPENAI, "/v1/responses", {"input": "hello"}, "/responses"),
    (ANTHROPIC, CHAT, HELLO, "/v1/messages"),
    (ANTHROPIC, "/v1/responses", {"input": "hello"}, "/v1/messages"),
    (GROQ, CHAT, HELLO, "/chat/completions"),
    (GROQ, "/v1/responses", {"input": "hello"}, "/chat/completions"),
]


@pytest.mark.parametrize(("provider", "endpoint", "body", "path"), TAKEN)
def test_a_line_is_the_call_that_it_would_be_live(
    provider: Provider, endpoint: str, body: dict[str, Any], path: str
) -> None:
    call = call_of(handed(body, endpoint), endpoint, "gpt-4o", provider)
    assert call is not None
    assert (call.path, json.loads(call.body)["model"]) == (path, "gpt-4o")
    assert not json.loads(call.body).get("stream")


LIVE: list[tuple[Provider, dict[str, Any]]] = [
    (XAI, {}),
    (OPENAI, {"extra_headers": {"x-trace": "1"}}),
    (OPENAI, {"provider": {"zdr": True}}),
    (OPENAI, {"provider": {"data_collection": "deny"}}),
    (OPENAI, {"provider": {"compliance": "EU"}}),
    (OPENAI, {"provider": {"compliance": 7}}),
    (OPENAI, {"stream": True}),
    (OPENAI, {"messages": "nonsense"}),
    (GROQ, {"n": 3}),
    (ANTHROPIC, {"n": 2}),
    (ANTHROPIC, {"extra_headers": {"anthropic-beta": "x"}}),
]


@pytest.mark.parametrize(("provider", "fields"), LIVE)
def test_a_line_that_a_batch_api_cannot_do_justice_to_goes_its_ordinary_way(
    provider: Provider, fields: dict[str, Any]
) -> None:
    assert call_of(handed({**HELLO, **fields}, CHAT), CHAT, "gpt-4o", provider) is None


def test_preferences_that_say_nothing_of_the_data_keep_no_line_from_it() -> None:
    body = {**HELLO, "provider": {"sort": "price", "data_collection": "allow", "zdr": False}}
    assert call_of(handed(body, CHAT), CHAT, "gpt-4o", OPENAI) is not None
