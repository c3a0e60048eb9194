"""OpenRouter's metadata: the decision and what came of it, put into answers of any format."""

from __future__ import annotations

import json
from typing import Any

import pytest

from broker.dispatch import Plan
from broker.errors import InferenceError
from broker.routing import Decision, Target
from broker.routing.candidates import Candidate
from broker.routing.names import Wish
from broker.translate import router_metadata
from broker.v1 import generation_pb2


def candidate(provider: str, model: str = "m", rank: int = 0, excluded: str = "") -> Candidate:
    target = Target(provider, "main", model, listed=True)
    return Candidate(target, Wish(model), None, rank=rank, excluded=excluded)


CHOSEN = (candidate("a"), candidate("b"), candidate("c", "other", rank=1))
OUT = (candidate("d", excluded="in provider.ignore"),)


def told(requested: str = "m", index: int = 0, *errors: InferenceError, **more: Any) -> Any:
    decision = Decision(requested, "price", CHOSEN, OUT)
    plan = Plan(decision.targets, index=index, errors=list(errors))
    given = {"route": "", "byok": False, **more}
    return json.loads(router_metadata.metadata(decision, plan, len(errors) + 1, **given))


def test_it_has_the_fields_that_openrouter_documents() -> None:
    failed = InferenceError(
        "upstream_overloaded", "x", provider="a", model="m", upstream_status=529
    )
    lost = InferenceError("worker_lost", "x", provider="a", model="m")
    assert told("m", 1, failed, lost, route="price; a/m, b/m", byok=True) == {
        "requested": "m",
        "strategy": "direct",
        "region": None,
        "summary": "available=3, selected=b; price; a/m, b/m",
        "attempt": 3,
        "is_byok": True,
        "endpoints": {
            "total": 4,
            "available": [
                {"provider": "a", "model": "m", "selected": False},
                {"provider": "b", "model": "m", "selected": True},
                {"provider": "c", "model": "other", "selected": False},
            ],
            "excluded": [{"provider": "d", "model": "m", "reason": "in provider.ignore"}],
        },
        "attempts": [
            {"provider": "a", "model": "m", "status": 529, "reason": "upstream_overloaded"},
            {"provider": "a", "model": "m", "status": 502, "reason": "worker_lost"},
            {"provider": "b", "model": "m", "status": 200},
        ],
    }


@pytest.mark.parametrize(
    ("requested", "index", "strategy"),
    [("m", 0, "direct"), ("m@a", 0, "direct"), ("house", 0, "alias"), ("m", 2, "fallback")],
)
def test_the_strategy_is_one_of_openrouters_words(
    requested: str, index: int, strategy: str
) -> None:
    assert told(requested, index)["strategy"] == strategy


@pytest.mark.parametrize(
    ("value", "wanted"),
    [(b"enabled", True), (b"Enabled", True), (b"disabled", False), (b"yes", False), (b"", False)],
)
def test_only_enabled_asks_for_it(value: bytes, wanted: bool) -> None:
    for name in (b"x-openrouter-metadata", b"x-openrouter-experimental-metadata"):
        assert router_metadata.wanted({name: value}) is wanted
    assert not router_metadata.wanted({})


CHUNK = b'data: {"id":"1","choices":[],"usage":{"n":1}}\n\n'


@pytest.mark.parametrize(
    ("end", "expected"),
    [
        (CHUNK + b"data: [DONE]\n\n", CHUNK[:-3] + b',"openrouter_metadata":{"a":1}}\n\n'),
        (
            b'event: message_stop\ndata: {"type":"message_stop"}\n\n',
            b'event: message_stop\ndata: {"type":"message_stop","openrouter_metadata":{"a":1}}\n\n',
        ),
        (b"data: [DONE]\n\n", b""),
        (b"", b""),
    ],
)
def test_it_stands_in_the_last_event(end: bytes, expected: bytes) -> None:
    rest = b"data: [DONE]\n\n" if b"[DONE]" in end else b""
    assert router_metadata.in_events(end, b'{"a":1}') == expected + rest


def test_a_stream_is_asked_for_the_chunk_that_it_stands_in() -> None:
    chat = generation_pb2.Request()
    chat.generate.surface = generation_pb2.SURFACE_CHAT
    router_metadata.ask(chat)
    assert not chat.generate.HasField("stream_options")
    chat.generate.stream = True
    router_metadata.ask(chat)
    assert chat.platform.tell_routing
    assert chat.generate.stream_options.include_usage
    other = generation_pb2.Request()
    other.generate.surface = generation_pb2.SURFACE_MESSAGES
    other.generate.stream = True
    router_metadata.ask(other)
    assert not other.generate.HasField("stream_options")
