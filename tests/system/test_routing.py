"""Where requests go, through all processes: preferences, fallbacks, aliases and their reasons."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.system.provider import FakeProvider, Received, Said, chat_answer, fake_provider
from tests.system.stack import MakeStack, Stack

# A model that the catalogue knows at all three.
MODEL = "gpt-oss-120b"
KINDS = ("groq", "together_ai", "cerebras")
RULES = {
    "aliases": {
        "house": {"deployments": ["groq/a"], "fallbacks": ["cerebras/b"]},
        "pair": ["groq/a", "cerebras/b"],
    },
    "fallbacks": {"groq/lonely": ["together_ai/friend"]},
    "compliance": {"cerebras": ["EU"]},
    "offers": [
        {"provider": "groq", "model": "short", "max_input": 100},
        {"provider": "together_ai", "model": "long", "max_input": 1000},
    ],
}


class Town:
    """Providers that answer with their names, and fail as `failing` says."""

    def __init__(self, stack: Stack, fake: FakeProvider) -> None:
        self.stack = stack
        self.fake = fake
        self.failing: dict[str, Said] = {}
        fake.script = self.answer

    def answer(self, received: Received) -> Said:
        return self.failing.get(received.provider) or chat_answer(received.provider)

    async def ask(self, model: str, **fields: Any) -> tuple[int, Any, dict[str, str]]:
        self.fake.take()
        async with self.stack.client() as client:
            response = await self.stack.chat(client, model, **fields)
        return response.status_code, response.json(), dict(response.headers)

    def asked(self) -> list[str]:
        """Who was called, in order."""
        return [call.provider for call in self.fake.calls]


@pytest.fixture
async def town(make_stack: MakeStack) -> AsyncIterator[Town]:
    async with fake_provider(lambda _: chat_answer()) as fake:
        rows = {kind: {"base_url": fake.url(kind) + "/v1", "api_key": "k"} for kind in KINDS}
        stack = await make_stack(
            workers=1, serves=KINDS, providers=rows, sections={"routing": RULES}
        )
        yield Town(stack, fake)


def said(body: Any) -> str:
    return str(body["choices"][0]["message"]["content"])


async def test_a_request_goes_where_it_says_and_the_answer_tells(town: Town) -> None:
    cases: list[tuple[str, dict[str, Any], str]] = [
        (f"{MODEL}@groq", {}, "groq"),
        (MODEL, {"provider": {"only": ["cerebras"]}}, "cerebras"),
        (MODEL, {"provider": {"order": ["together"]}}, "together_ai"),
        (MODEL, {"provider": {"ignore": ["groq", "cerebras"]}}, "together_ai"),
        (MODEL, {"provider": {"compliance": "DE"}}, "cerebras"),
        ("no-such-model", {"models": ["groq/x"]}, "groq"),
        ("house", {}, "groq"),
    ]
    for model, fields, provider in cases:
        status, body, headers = await town.ask(model, **fields)
        assert (status, said(body)) == (200, provider), (model, fields)
        assert headers["x-millrace-provider"] == provider
    _, _, headers = await town.ask(MODEL, provider={"order": ["together", "groq"]})
    strategy, _, tried = headers["x-millrace-route"].partition("; ")
    assert strategy == "price"
    assert [name.partition("/")[0] for name in tried.split(", ")][:2] == ["together_ai", "groq"]
    assert "x-millrace-route" not in (await town.ask("groq/x"))[2]  # there was nothing to decide


async def test_what_nobody_meets_is_refused_with_the_reason(town: Town) -> None:
    cases: list[tuple[str, dict[str, Any], int, str, str]] = [
        (MODEL, {"compliance": "US"}, 403, "provider.compliance", "not certified for US"),
        (MODEL, {"compliance": "Mars"}, 400, "provider.compliance", "ISO 3166-1"),
        (MODEL, {"only": ["openai"]}, 404, "model", "not in provider.only"),
        (MODEL, {"sort": "beauty"}, 400, "provider.sort", "beauty"),
        (f"{MODEL}@ic<0.0001ic", {}, 404, "model", "not input-cost <= 0.0001"),
    ]
    for model, provider, status, param, why in cases:
        got, body, _ = await town.ask(model, provider=provider)
        assert (got, body["error"]["param"]) == (status, param), body
        assert why in body["error"]["message"]
        assert town.asked() == []


async def test_fallbacks_take_over_where_that_is_right(town: Town) -> None:
    error = {"error": {"message": "no", "type": "t", "code": None}}
    refused = Said(400, error)
    broken = Said(503, error, {"retry-after": "60"})
    filtered = {"error": {"message": "blocked", "code": "content_policy_violation"}}
    long = {"error": {"message": "too long", "code": "context_length_exceeded"}}
    cases: list[tuple[str, dict[str, Any], Said, int, list[str]]] = [
        ("house", {}, broken, 200, ["groq", "cerebras"]),
        ("house", {}, refused, 200, ["groq", "cerebras"]),
        ("groq/lonely", {}, broken, 200, ["groq", "together_ai"]),
        ("groq/x", {"models": ["cerebras/y"]}, broken, 200, ["groq", "cerebras"]),
        # Never around a content policy, and not where the caller allows none.
        ("house", {}, Said(400, filtered), 400, ["groq"]),
        ("house", {"provider": {"allow_fallbacks": False}}, broken, 503, ["groq"]),
        # What is too long goes to a larger window alone.
        (
            "groq/short",
            {"models": ["cerebras/y", "together_ai/long"]},
            Said(400, long),
            200,
            ["groq", "together_ai"],
        ),
        ("groq/short", {"models": ["cerebras/y"]}, Said(400, long), 400, ["groq"]),
    ]
    for model, fields, failure, status, called in cases:
        town.failing = {"groq": failure}
        got, body, headers = await town.ask(model, **fields)
        assert (got, town.asked()) == (status, called), (model, fields, body)
        if status == 200:
            assert said(body) == headers["x-millrace-provider"] == called[-1]
    total = (await town.stack.ledger()).total()
    assert total.charges == sum(status == 200 for _, _, _, status, _ in cases)


async def test_a_parameter_that_is_required_is_never_dropped(town: Town) -> None:
    # No provider of these takes it; without the requirement it is dropped and reported.
    status, _, headers = await town.ask("groq/x", prediction={"type": "content", "content": "x"})
    assert (status, headers["x-dropped-params"]) == (200, "prediction")
    status, body, _ = await town.ask(
        "groq/x",
        prediction={"type": "content", "content": "x"},
        provider={"require_parameters": True},
    )
    assert (status, body["error"]["code"]) == (400, "unsupported_parameter"), json.dumps(body)


async def test_a_decision_is_explained_without_asking_anybody(town: Town) -> None:
    town.fake.take()
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": "x"}],
        "provider": {"order": ["groq"], "ignore": ["cerebras"]},
    }
    async with town.stack.client() as client:
        decision = (await client.post("/v0/route", json=body)).json()
    assert [c["provider"] for c in decision["candidates"]] == ["groq", "together_ai"]
    assert decision["candidates"][0]["input_price"] > 0
    assert decision["candidates"][0]["max_input_tokens"] > 0
    assert [(c["provider"], c["reason"]) for c in decision["left_out"]] == [
        ("cerebras", "in provider.ignore")
    ]
    assert town.asked() == []


async def test_equals_share_the_work_by_load(town: Town) -> None:
    town.fake.take()
    async with town.stack.client() as client:
        for _ in range(40):
            assert (await town.stack.chat(client, "pair")).status_code == 200
    counts = {kind: town.asked().count(kind) for kind in ("groq", "cerebras")}
    assert min(counts.values()) >= 8, counts
