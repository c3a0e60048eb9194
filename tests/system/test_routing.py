"""Where requests go, through all processes: preferences, fallbacks, aliases and their reasons."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import pytest

from broker.routing.breakers import FAILURES
from tests.system.provider import FakeProvider, Received, Said, chat_answer, fake_provider
from tests.system.stack import MakeStack, Stack, until

# A model that the catalogue knows at all three.
MODEL = "gpt-oss-120b"
KINDS = ("groq", "together_ai", "cerebras")
RULES = {
    "aliases": {
        "house": {"deployments": ["groq/a"], "fallbacks": ["cerebras/b"]},
        "pair": ["groq/a", "cerebras/b"],
    },
    "fallbacks": {"groq/lonely": ["together_ai/friend"]},
    "context_fallbacks": {"groq/brief": ["cerebras/roomy"]},
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
        # Nobody calls it: its address says where it is.
        rows["mistral"] = {"base_url": "https://api.us.mistral.ai/v1", "api_key": "k"}
        stack = await make_stack(
            workers=1, serves=(*KINDS, "mistral"), providers=rows, sections={"routing": RULES}
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
    _, _, headers = await town.ask("groq/x")
    assert headers["x-millrace-route"] == "price; groq/x"


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
        # Of a model that nobody knows, the settings say where; nothing else goes there.
        ("groq/brief", {"models": ["together_ai/y"]}, Said(400, long), 200, ["groq", "cerebras"]),
        ("groq/brief", {}, broken, 503, ["groq"]),
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
    by_settings = {"regions": ["EU"], "source": "the settings", "date": None}
    assert decision["left_out"][0]["compliance"] == by_settings
    assert decision["candidates"][0]["compliance"] is None
    assert town.asked() == []


async def test_what_a_provider_says_of_its_address_counts_where_nobody_wrote_anything(
    town: Town,
) -> None:
    async with town.stack.client() as client:
        for region, status in (("US", 200), ("EU", 403)):
            body = {
                "model": "mistral/mistral-small-latest",
                "messages": [{"role": "user", "content": "x"}],
                "provider": {"compliance": region},
            }
            answer = await client.post("/v0/route", json=body)
            assert answer.status_code == status
            if status == 403:
                assert "docs.mistral.ai" in answer.json()["error"]["message"]
                continue
            known = answer.json()["candidates"][0]["compliance"]
            assert (known["regions"], known["date"]) == (["US"], "2026-11-21")
            assert known["source"].startswith("https://docs.mistral.ai/")


async def test_an_answer_tells_on_request_how_it_was_routed(town: Town) -> None:
    town.failing = {"groq": Said(400, {"error": {"message": "no", "code": None}})}
    for path in ("/v1/chat/completions", "/v1/messages", "/v1/responses"):
        for stream in (False, True):
            assert await metadata(town, path, stream, {}) is None
            town.fake.take()
            told = await metadata(town, path, stream, {"X-OpenRouter-Metadata": "enabled"})
            assert (told["requested"], told["strategy"]) == ("house", "fallback"), (path, stream)
            assert (told["attempt"], told["is_byok"]) == (2, False)
            available = {one["provider"]: one["selected"] for one in told["endpoints"]["available"]}
            assert available == {"cerebras": True, "groq": False}
            tried = [(one["provider"], one["status"]) for one in told["attempts"]]
            assert tried == [("groq", 400), ("cerebras", 200)]
            assert not any("x-openrouter-metadata" in call.headers for call in town.fake.calls)


async def metadata(town: Town, path: str, stream: bool, headers: dict[str, str]) -> Any:
    """What an answer says of its routing; None = nothing."""
    body: dict[str, Any] = {"model": "house", "stream": stream}
    body["input" if path == "/v1/responses" else "messages"] = [{"role": "user", "content": "x"}]
    if path == "/v1/messages":
        body["max_tokens"] = 9
    async with town.stack.client() as client:
        response = await client.post(path, json=body, headers=headers)
    assert response.status_code == 200, response.text
    lines = [line[6:] for line in response.text.splitlines() if line.startswith("data: {")]
    return json.loads(lines[-1] if stream else response.text).get("openrouter_metadata")


async def test_equals_share_the_work_by_what_the_whole_fleet_has_in_flight(
    make_stack: MakeStack,
) -> None:
    slow, quick = "left/tokens=2,ttft_ms=9000", "right/tokens=2"
    rules = {"aliases": {"pair": [slow, quick], "even": ["left/tokens=2", quick]}}
    kinds = {name: {"kind": "openai_compatible"} for name in ("left", "right")}
    stack = await make_stack(workers=1, providers=kinds, sections={"routing": rules})
    sim = f"http://127.0.0.1:{stack.sim_port}/v1"
    stack.worker_env = {"LEFT_BASE_URL": sim, "RIGHT_BASE_URL": sim}
    stack.start_worker(1, "left", "right")
    stack.start_edge(1)
    await until(lambda: stack.live_workers(3), "the workers are live")
    await until(lambda: stack.ready("edge1"), "the second edge is ready")
    async with stack.client() as client, stack.client("edge1") as other:
        # Nobody knows how slow one of them is, but its calls pile up: about five, not half of all.
        calls = []
        for _ in range(60):
            calls.append(asyncio.create_task(stack.chat(client, "pair")))
            await asyncio.sleep(0.03)  # the quick one has answered

        async def load() -> bool:
            body = {"model": "even", "messages": [{"role": "user", "content": "x"}]}
            found = (await other.post("/v0/route", json=body)).json()["candidates"]
            left = next(one for one in found if one["provider"] == "left")
            return bool(left["in_flight"] >= 4)

        # The other edge, which has nothing in flight itself, knows of it and leaves it alone.
        await until(load, "the worker has told how much it does")
        answers = [await stack.chat(other, "even") for _ in range(12)]
        assert {answer.headers["x-millrace-provider"] for answer in answers} == {"right"}
        counts = Counter(
            answer.headers["x-millrace-provider"] for answer in await asyncio.gather(*calls)
        )
    assert counts.total() == 60
    assert counts["left"] <= 18, counts


async def test_a_dead_provider_costs_few_requests_anything_and_is_taken_back(town: Town) -> None:
    broken = Said(500, {"error": {"message": "down", "type": "server_error", "code": None}})
    town.failing = {"groq": broken}
    calls = []
    for _ in range(12):
        status, body, _ = await town.ask("house")
        assert (status, said(body)) == (200, "cerebras")
        calls.append(town.asked().count("groq"))
    # It opens within the first request's tries; from then on there are probes alone.
    assert calls[0] == 3
    assert sum(call > 0 for call in calls[1:]) <= 3, calls
    town.failing = {}

    async def back() -> bool:
        return said((await town.ask("house"))[1]) == "groq"

    await until(back, "it is asked first again", 30)
    for _ in range(5):
        assert said((await town.ask("house"))[1]) == "groq"


async def test_what_one_edge_learns_the_others_know(town: Town) -> None:
    stack = town.stack
    stack.start_edge(1)
    await until(lambda: stack.ready("edge1"), "the second edge is ready")
    limited = Said(429, {"error": {"message": "slow", "code": None}}, {"retry-after": "50"})
    town.failing = {"groq": limited}
    assert said((await town.ask("house"))[1]) == "cerebras"

    async def known() -> bool:
        town.fake.take()
        async with stack.client("edge1") as client:
            body = {"model": "house", "messages": [{"role": "user", "content": "x"}]}
            first = (await client.post("/v0/route", json=body)).json()["candidates"][0]
        return bool(first["provider"] == "cerebras")

    await until(known, "the other edge knows that it is limited")
    assert town.asked() == []


async def test_edges_share_one_probe_when_the_rest_of_a_breaker_is_over(town: Town) -> None:
    stack = town.stack
    stack.start_edge(1)
    await until(lambda: stack.ready("edge1"), "the second edge is ready")
    broken = Said(500, {"error": {"message": "down", "type": "server_error", "code": None}})
    town.failing = {"groq": broken}
    town.fake.take()
    assert said((await town.ask("house"))[1]) == "cerebras"
    assert town.asked().count("groq") == FAILURES
    town.fake.take()
    begun = time.monotonic()

    async def go_on(edge: str) -> None:
        async with stack.client(edge) as client:
            while time.monotonic() - begun < 9:
                assert said((await stack.chat(client, "house")).json()) == "cerebras"

    await asyncio.gather(go_on("edge"), go_on("edge1"))
    # It rested for 2 s, then for 4 s, then for 8 s: whoever tried, it was one call for both edges.
    assert 1 <= town.asked().count("groq") <= 2, Counter(town.asked())
    town.failing = {}

    async def back() -> bool:
        async with stack.client("edge1") as client:
            return said((await stack.chat(client, "house")).json()) == "groq"

    await until(back, "the other edge asks it first again", 30)


async def test_while_workers_are_away_it_is_503_whatever_was_asked_for(
    make_stack: MakeStack,
) -> None:
    async with fake_provider(lambda _: chat_answer()) as fake:
        rows = {kind: {"base_url": fake.url(kind) + "/v1", "api_key": "k"} for kind in KINDS}
        sections = {"routing": RULES}
        stack = await make_stack(workers=1, serves=("groq",), providers=rows, sections=sections)
        stack.start_worker(1, "cerebras")
        await until(lambda: stack.live_workers(2), "the other worker is live")
        stack.processes["worker1"].kill()
        async with stack.client() as client:
            for model, provider in (
                (MODEL, {"only": ["cerebras"]}),
                (MODEL, {"compliance": "DE"}),
                ("pair", {"ignore": ["groq"]}),
            ):
                await until(
                    partial(away, stack, client, model, provider),
                    f"it is told that nobody is there for {model} and {provider}",
                    30,
                )
            answer = await stack.chat(client, MODEL, provider={"compliance": "JP"})
            assert answer.status_code == 403


async def away(stack: Stack, client: Any, model: str, provider: dict[str, Any]) -> bool:
    """Whether the answer is that no worker is there; it must not be a refusal."""
    body = {"model": model, "messages": [{"role": "user", "content": "x"}], "provider": provider}
    answer = await client.post("/v0/route", json=body)
    assert answer.status_code in {200, 503}, answer.text
    return bool(answer.status_code == 503 and answer.json()["error"]["code"] == "no_worker")


async def test_the_pace_of_a_model_is_measured_where_it_runs(make_stack: MakeStack) -> None:
    stack = await make_stack(workers=1)
    async with stack.client() as client:
        for _ in range(3):
            answer = await stack.stream_text(client, "sim/tokens=20,delay_ms=5,ttft_ms=120")
            assert answer.done
        body = {
            "model": "sim/tokens=20,delay_ms=5,ttft_ms=120",
            "messages": [{"role": "user", "content": "x"}],
        }

        async def measured() -> bool:
            found = (await client.post("/v0/route", json=body)).json()["candidates"][0]
            first, speed = found["first_token_ms"], found["tokens_per_s"]
            return first is not None and 100 < first < 1000 and 20 < speed < 170

        await until(measured, "the edge knows the pace of the model")
