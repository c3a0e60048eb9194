"""Providers of several formats on one socket: what their models are called says what they answer."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import pytest

from broker.bus.keyring import Keyring
from tests.clients import formats
from tests.clients.asked import Call
from tests.system.provider import FakeProvider, Received, Said, fake_provider
from tests.system.shared import shared_stack
from tests.system.stack import Stack
from tests.workers import responses_answers as recorded

# Provider -> what its address ends with.
PREFIXES = {"openai": "/v1", "xai": "/v1", "anthropic": ""}
_FORMATS = {
    "/v1/responses": formats.openai_responses,
    "/v1/messages": formats.anthropic_messages,
    "/v1/messages/count_tokens": formats.anthropic_count,
    "/v1/chat/completions": formats.openai_chat,
}
# One of each: chat's format, Anthropic's, and the Responses API's own.
MODELS = ("sim/echo", "anthropic/claude-haiku-4-5", "openai/gpt-4o")
OTHER = {"authorization": "Bearer mr-a-key-of-another-tenant-0123456789"}
COLLEAGUE = {"authorization": "Bearer mr-a-second-key-of-that-tenant-0123456"}
# Like the stack's own key it has no tenant.
STRANGER = {"authorization": "Bearer mr-a-key-without-a-tenant-0123456789"}
_STREAM = {"content-type": "text/event-stream"}


def named(model: str) -> str:
    """The recorded answer that a model's name stands for, such as `two-phases`."""
    return model.removeprefix("gpt-").replace("-", " ")


def answer(received: Received) -> Said:
    """A recorded answer where the model is named after one, else what was heard."""
    body = received.json
    if received.path == "/v1/responses" and (name := named(body["model"])) in recorded.ANSWERS:
        if body.get("stream"):
            return Said(body=recorded.sse(recorded.streamed(name)), headers=_STREAM)
        return Said(body=recorded.whole(name))
    call = Call(received.provider, received.path, received.headers, body)
    said = _FORMATS[received.path](call)
    return Said(said.status, said.body, {"content-type": said.type})


def settings(fake: FakeProvider) -> dict[str, object]:
    """Rows of `providers` in the settings file."""
    return {
        name: {"base_url": fake.url(name) + prefix, "api_key": "k", "models": ["everywhere"]}
        for name, prefix in PREFIXES.items()
    }


@contextlib.asynccontextmanager
async def providers_stack(
    folders: pytest.TempPathFactory, fake: FakeProvider
) -> AsyncIterator[Stack]:
    """A stack with sim and these providers, and the keys above."""
    async with shared_stack(folders, providers=settings(fake), serves=("sim", *PREFIXES)) as stack:
        keyring = Keyring(stack.bus)
        for key, tenant in ((OTHER, "another"), (COLLEAGUE, "another"), (STRANGER, "default")):
            await keyring.add(key["authorization"][7:], "a key", tenant=tenant)
        yield stack


@contextlib.asynccontextmanager
async def upstreams() -> AsyncIterator[FakeProvider]:
    async with fake_provider(answer) as fake:
        yield fake
