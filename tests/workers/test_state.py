"""A provider's state of its reasoning goes back to that provider, and to no other."""

from __future__ import annotations

from typing import Any

import pytest

from broker.answer import Fold
from broker.v1 import content_pb2, event_pb2, generation_pb2
from tests.broker.translate.hub import asked
from tests.workers.test_openai_responses_request import body
from workers.state import own_state


def after(issuer: str, provider: str) -> generation_pb2.Request:
    """A second turn, behind one with reasoning that this provider answered."""
    fold = Fold()
    blob = content_pb2.Blob(issuer=issuer, kind="encrypted_content", data=b"gAAA")
    fold.feed(
        [
            event_pb2.Event(started=event_pb2.Started(provider=provider)),
            event_pb2.Event(reasoning=event_pb2.ReasoningDelta(text="hm", summary=True)),
            event_pb2.Event(blob=event_pb2.BlobEvent(blob=blob)),
            event_pb2.Event(text=event_pb2.TextDelta(item=1, text="Hi")),
        ]
    )
    request = asked()
    request.generate.messages.insert(0, fold.answer("resp_1", 1).choices[0].message)
    return request


def sent(request: generation_pb2.Request, provider: str) -> list[Any]:
    items: list[Any] = body(own_state(request, provider), "gpt-5", provider)["input"]
    return items


@pytest.mark.parametrize("issuing", ["openai", "azure"])
@pytest.mark.parametrize("asked_", ["openai", "azure"])
def test_encrypted_reasoning_is_sent_only_to_the_provider_it_came_from(
    issuing: str, asked_: str
) -> None:
    found = sent(after("openai_responses", issuing), asked_)
    states = [item["encrypted_content"] for item in found if item.get("type") == "reasoning"]
    assert states == (["gAAA"] if issuing == asked_ else [])
    assert found[-2:] == [
        {"role": "assistant", "content": "Hi"},
        {"role": "user", "content": "Hello!"},
    ]


@pytest.mark.parametrize(
    ("issuer", "issuing", "provider", "kept"),
    [
        ("anthropic_messages", "anthropic", "vertex_ai", True),
        ("openai_chat", "openrouter", "groq", False),
        ("openai_chat", "openrouter", "openrouter", True),
        ("openai_responses", "", "openai", True),
    ],
)
def test_what_several_providers_read_goes_to_all_of_them(
    issuer: str, issuing: str, provider: str, *, kept: bool
) -> None:
    request = after(issuer, issuing)
    before = request.SerializeToString(deterministic=True)
    found = own_state(request, provider).generate.messages[0].parts[0].reasoning
    assert bool(found.blobs) == kept
    assert list(found.summary) == ["hm"]
    assert request.SerializeToString(deterministic=True) == before
