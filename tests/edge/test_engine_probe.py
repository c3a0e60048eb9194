"""When a request counts as the probe of a breaker: when it is accepted, and not before."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from broker.errors import InferenceError
from broker.routing import Target
from broker.routing.world import Rules
from broker.v1 import generation_pb2
from edge.books import Books
from edge.engine import Engine
from edge.register import Register

FIRST = Target("groq", "main", "m", listed=True)
SECOND = Target("cerebras", "main", "m", listed=True)
REQUEST = generation_pb2.Request(generate=generation_pb2.GenerateRequest(model="m"))


class Half:
    """What `submit` needs of an engine."""

    def __init__(self, own_keys: dict[str, str] | None = None) -> None:
        self.probes: list[Target] = []
        self.refusal: InferenceError | None = None
        self._draining = False
        self._bus = SimpleNamespace(answers=True)
        self._register = Register()
        other: Any = SimpleNamespace(
            request_id="o", alias="taken", key=SimpleNamespace(owner="owner")
        )
        self._register.add(other)
        self._settings = SimpleNamespace(routing=Rules())
        unused: Any = None
        health: Any = SimpleNamespace(chosen=self.probes.append)
        self._accepted = Books(unused, unused, health, unused).accepted
        self.router = SimpleNamespace(decide=self._decide)
        keys = own_keys or {}
        self._provider_keys = SimpleNamespace(of=lambda *_: ((FIRST, SECOND), keys))

    async def _decide(self, _request: Any) -> Any:
        return SimpleNamespace(targets=(FIRST, SECOND), explained="price; groq/m")

    def _enter(self, exchange: Any, **_: Any) -> None:
        if self.refusal is not None:
            raise self.refusal
        exchange.plan.go_on()  # the first one's queue is full

    def ended(self, _exchange: Any) -> None:
        """It is refused."""

    async def submit(self, alias: str = "") -> Any:
        engine: Any = self
        key: Any = SimpleNamespace(owner="owner", id="k", tenant="t")
        return await Engine.submit(engine, REQUEST, key, request_id="r", timeout_s=9, alias=alias)


async def test_what_is_refused_is_no_probe() -> None:
    half = Half()
    with pytest.raises(InferenceError):
        await half.submit(alias="taken")
    half.refusal = InferenceError("queue_full", "no")
    with pytest.raises(InferenceError):
        await half.submit()
    assert half.probes == []


async def test_what_is_accepted_is_a_probe_of_where_it_goes() -> None:
    half = Half()
    (await half.submit()).close()
    assert half.probes == [SECOND]


async def test_a_callers_own_key_probes_nothing() -> None:
    half = Half({"groq": "sk"})
    (await half.submit()).close()
    assert half.probes == []
