"""The Responses API over HTTP: on a chat provider, on Anthropic's format and on its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from tests.broker.translate.response_mistakes import LATER, MISTAKES, body
from tests.system.answers import create, listed, over, post_stream, replay, text_of, texts
from tests.system.provider import FakeProvider
from tests.system.stack import Stack
from tests.system.upstreams import (
    COLLEAGUE,
    MODELS,
    OTHER,
    STRANGER,
    providers_stack,
    upstreams,
)

CALL = {"type": "function", "name": "get_weather", "parameters": {"type": "object"}}
# What is another time it is rendered.
OURS = ("id", "created_at", "completed_at")


@pytest.fixture(scope="module")
async def upstream() -> AsyncIterator[FakeProvider]:
    async with upstreams() as fake:
        yield fake


@pytest.fixture(scope="module")
async def stack(
    tmp_path_factory: pytest.TempPathFactory, upstream: FakeProvider
) -> AsyncIterator[Stack]:
    async with providers_stack(tmp_path_factory, upstream) as stack:
        yield stack


@pytest.fixture
async def client(stack: Stack, upstream: FakeProvider) -> AsyncIterator[httpx.AsyncClient]:
    upstream.take()
    async with stack.client() as client:
        yield client


def plain(response: dict[str, Any]) -> dict[str, Any]:
    """A response without what is its own."""

    def without(item: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in item.items() if name not in OURS}

    return without({**response, "output": [without(item) for item in response["output"]]})


# --- one answer, however it is asked for ---


@pytest.mark.parametrize(
    "model",
    [
        *MODELS,
        "openai/gpt-refusal",
        "openai/gpt-calls",
        "openai/gpt-reasoning",
        "openai/gpt-web-search",
        "openai/gpt-custom-call",
        "openai/gpt-cut",
        "openai/gpt-filtered",
    ],
)
async def test_an_answer_is_the_same_whole_streamed_and_in_the_background(
    client: httpx.AsyncClient, model: str
) -> None:
    whole = await create(client, model)
    kept = (await client.get(f"/v1/responses/{whole['id']}")).json()
    assert kept == whole
    stream = await post_stream(client, model)
    assert stream[-1]["type"] == f"response.{whole['status']}"
    last = stream[-1]["response"]
    assert plain(last) == plain(whole)
    assert (await client.get(f"/v1/responses/{last['id']}")).json() == last
    followed = await post_stream(client, model, background=True)
    done = followed[-1]["response"]
    assert plain(done) == {**plain(whole), "background": True}
    assert [event["type"] for event in followed if event["type"] != "response.queued"] == [
        event["type"] for event in stream
    ]
    assert await replay(client, done["id"]) == followed
    assert await replay(client, done["id"], 3) == followed[4:]


async def test_refusals_and_cut_answers_say_so(client: httpx.AsyncClient) -> None:
    refused = await create(client, "openai/gpt-refusal")
    assert refused["output"][0]["content"] == [{"type": "refusal", "refusal": "No."}]
    for model, why in (("gpt-cut", "max_output_tokens"), ("gpt-filtered", "content_filter")):
        cut = await create(client, f"openai/{model}")
        assert (cut["status"], cut["incomplete_details"]) == ("incomplete", {"reason": why})
        assert cut["output"][0]["status"] == "incomplete"
    cut = await create(client, "sim/sim-tokens=9", max_output_tokens=4)
    assert (cut["status"], cut["incomplete_details"]["reason"]) == (
        "incomplete",
        "max_output_tokens",
    )


SETTINGS: dict[str, Any] = {
    "instructions": "Be kind.",
    "metadata": {"a": "b"},
    "parallel_tool_calls": False,
    "max_tool_calls": 3,
    "max_output_tokens": 99,
    "temperature": 0.5,
    "top_p": 0.9,
    "tools": [{**CALL, "description": None, "strict": True}],
    "tool_choice": "none",
    "text": {
        "format": {
            "type": "json_schema",
            "name": "n",
            "description": None,
            "schema": {"type": "object"},
            "strict": False,
        },
        "verbosity": "low",
    },
    "truncation": "auto",
    "user": "u",
    "store": True,
}


@pytest.mark.parametrize("model", MODELS)
async def test_a_response_repeats_what_it_was_asked(client: httpx.AsyncClient, model: str) -> None:
    text = '{"city": "Boston"}'
    found = await create(client, model, text, **SETTINGS)
    assert {name: found[name] for name in SETTINGS} == SETTINGS
    assert (found["object"], found["status"], found["error"]) == ("response", "completed", None)
    assert found["completed_at"] >= found["created_at"]


PIXEL = "aGVsbG8="


@pytest.mark.parametrize("model", MODELS[1:])
async def test_images_and_files_reach_the_provider(
    client: httpx.AsyncClient, upstream: FakeProvider, model: str
) -> None:
    parts = [
        {"type": "input_text", "text": "What is this?"},
        {"type": "input_image", "image_url": f"data:image/png;base64,{PIXEL}", "detail": "low"},
        {
            "type": "input_file",
            "filename": "a.pdf",
            "file_data": f"data:application/pdf;base64,{PIXEL}",
        },
    ]
    made = await create(client, model, [{"role": "user", "content": parts}])
    sent = upstream.take()[0].json
    content = (sent.get("input") or sent["messages"])[0]["content"]
    assert len(content) == 3
    assert [str(part).count(PIXEL) for part in content] == [0, 1, 1]
    shown = await listed(client, f"/v1/responses/{made['id']}/input_items")
    assert shown["data"][0]["content"] == parts


async def test_encrypted_reasoning_is_shown_to_who_asks_for_it(client: httpx.AsyncClient) -> None:
    kept = await create(client, "openai/gpt-reasoning")
    asked = await create(client, "openai/gpt-reasoning", include=["reasoning.encrypted_content"])
    path = f"/v1/responses/{kept['id']}"
    later = await client.get(path, params={"include": ["reasoning.encrypted_content"]})
    states = [found["output"][0].get("encrypted_content") for found in (kept, asked, later.json())]
    assert states[0] is None
    assert all(states[1:])
    summary = [{"type": "summary_text", "text": text} for text in ("One.", "Two.")]
    assert kept["output"][0]["summary"] == summary
    assert [item["id"] for item in later.json()["output"]] == [
        item["id"] for item in kept["output"]
    ]


async def test_what_a_provider_leaves_out_is_reported_or_refused(client: httpx.AsyncClient) -> None:
    asked = {"truncation": "auto", "max_tool_calls": 2}
    for model, dropped in (("sim/echo", {"truncation", "max_tool_calls"}), (MODELS[2], set())):
        answer = await client.post("/v1/responses", json={"model": model, "input": "x", **asked})
        header = answer.headers.get("x-dropped-params", "")
        assert set(filter(None, header.split(", "))) == dropped
    refused = {"model": "sim/echo", "input": "x", "drop_params": False, **asked}
    answer = await client.post("/v1/responses", json=refused)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "max_tool_calls")


async def test_a_prompt_template_goes_to_who_keeps_it(
    client: httpx.AsyncClient, upstream: FakeProvider
) -> None:
    prompt = {"id": "pmpt_1", "variables": {"city": "Boston"}}
    await create(client, MODELS[2], prompt=prompt)
    assert upstream.take()[0].json["prompt"] == prompt


# --- mistakes ---


async def test_every_mistake_is_a_400_with_its_field(
    stack: Stack, client: httpx.AsyncClient
) -> None:
    await stack.reset_sim()
    rows = MISTAKES | LATER
    for name, (fields, param, code) in rows.items():
        answer = await client.post("/v1/responses", json=body(fields))
        assert answer.status_code == 400, name
        error = answer.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}, name
        assert (error["type"], error["param"]) == ("invalid_request_error", param), name
        if code is not None:
            assert error["code"] == code, name
    assert (await stack.sim_stats())["calls"] == 0


@pytest.mark.parametrize(
    ("method", "path", "param"),
    [
        ("GET", "?stream=maybe", "stream"),
        ("GET", "?stream=true&starting_after=x", "starting_after"),
        ("GET", "?stream=true&starting_after=-1", "starting_after"),
        ("GET", "?stream=true", "stream"),  # it was not in the background
        ("POST", "/cancel", "response_id"),
        ("GET", "/input_items?limit=0", "limit"),
        ("GET", "/input_items?limit=101", "limit"),
        ("GET", "/input_items?order=up", "order"),
        ("GET", "/input_items?after=msg_x", "after"),
    ],
)
async def test_a_mistake_about_a_kept_one_is_a_400_too(
    client: httpx.AsyncClient, method: str, path: str, param: str
) -> None:
    name = (await create(client, "sim/echo"))["id"]
    answer = await client.request(method, f"/v1/responses/{name}{path}")
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


@pytest.mark.parametrize(
    ("method", "path", "sent", "param"),
    [
        ("POST", "", {"items": "x"}, "items"),
        ("POST", "", {"items": [{"type": "x"}]}, "items[0].type"),
        ("POST", "", {"items": [{"role": "user", "content": "x"}] * 21}, "items"),
        ("POST", "", {"metadata": {"a": 1}}, "metadata"),
        ("POST", "", {"metadata": {"a": "x" * 513}}, "metadata.a"),
        ("POST", "/{id}", {}, "metadata"),
        ("POST", "/{id}/items", {}, "items"),
        ("POST", "/{id}/items", {"items": [{"role": "user"}]}, "items[0].content"),
        ("GET", "/{id}/items?limit=x", None, "limit"),
    ],
)
async def test_a_mistake_about_a_conversation_is_a_400_with_its_field(
    client: httpx.AsyncClient, method: str, path: str, sent: Any, param: str
) -> None:
    name = (await client.post("/v1/conversations")).json()["id"]
    answer = await client.request(
        method, "/v1/conversations" + path.replace("{id}", name), json=sent
    )
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


# --- what is kept, and what is not ---


async def kept_in_nats(stack: Stack) -> dict[str, int]:
    """How much every stream holds, but for usage."""
    found = {}
    for info in await stack.bus.js.streams_info():
        if info.config.name not in {"USAGE", "KV_workers"}:
            found[str(info.config.name)] = info.state.messages
    return found


async def test_of_one_that_is_not_stored_nothing_is_left(
    stack: Stack, client: httpx.AsyncClient
) -> None:
    before = await kept_in_nats(stack)
    whole = await create(client, "sim/echo", store=False)
    streamed = (await post_stream(client, "sim/echo", store=False))[-1]["response"]
    for found in (whole, streamed):
        assert found["store"] is False
        assert text_of(found) == "hi"
        name = found["id"]
        assert (await client.get(f"/v1/responses/{name}")).status_code == 404
        assert (await client.delete(f"/v1/responses/{name}")).status_code == 404
        answer = await client.post(
            "/v1/responses",
            json={"model": "sim/echo", "input": "x", "previous_response_id": name},
        )
        assert answer.json()["error"]["code"] == "previous_response_not_found"
    assert await kept_in_nats(stack) == before


async def test_a_stream_that_fails_is_kept_as_it_was_told(client: httpx.AsyncClient) -> None:
    stream = await post_stream(client, "sim/sim-tokens=9,fault=cut,after=3")
    last = stream[-1]
    assert last["type"] == "response.failed"
    found = last["response"]
    assert (found["status"], found["error"]["code"]) == ("failed", "server_error")
    assert len(text_of(found).split()) == 3
    assert (await client.get(f"/v1/responses/{found['id']}")).json() == found


async def test_what_was_deleted_and_what_is_anothers_is_not_there(
    client: httpx.AsyncClient,
) -> None:
    name = (await create(client, "sim/echo"))["id"]
    paths = (("GET", ""), ("DELETE", ""), ("GET", "/input_items"), ("POST", "/cancel"))
    for method, path in paths:
        for key in (OTHER, STRANGER):
            answer = await client.request(method, f"/v1/responses/{name}{path}", headers=key)
            assert answer.status_code == 404, path
    answer = await client.delete(f"/v1/responses/{name}")
    assert answer.json() == {"id": name, "object": "response", "deleted": True}
    for method, path in paths:
        answer = await client.request(method, f"/v1/responses/{name}{path}")
        assert answer.status_code == 404, path
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


async def test_keys_of_one_tenant_see_the_same(stack: Stack) -> None:
    async with stack.client() as theirs:
        theirs.headers.update(OTHER)
        made = await create(theirs, "sim/echo")
        queued = (await create(theirs, "sim/echo", background=True))["id"]
        done = await over(theirs, queued)
        theirs.headers.update(COLLEAGUE)
        assert (await theirs.get(f"/v1/responses/{made['id']}")).json() == made
        assert await over(theirs, queued) == done
        theirs.headers.update(STRANGER)
        for name in (made["id"], queued):
            assert (await theirs.get(f"/v1/responses/{name}")).status_code == 404


async def test_input_items_come_in_pages(client: httpx.AsyncClient) -> None:
    said = [{"role": "user", "content": str(number)} for number in range(5)]
    name = (await create(client, "sim/echo", said))["id"]
    path = f"/v1/responses/{name}/input_items"
    whole = (await listed(client, path))["data"]
    assert texts(whole) == ["0", "1", "2", "3", "4"]
    first = await listed(client, path, limit=2)
    assert (texts(first["data"]), first["has_more"]) == (["0", "1"], True)
    rest = await listed(client, path, after=first["last_id"])
    assert (texts(rest["data"]), rest["has_more"]) == (["2", "3", "4"], False)
    between = await listed(client, path, after=whole[0]["id"], before=whole[3]["id"])
    assert texts(between["data"]) == ["1", "2"]
    newest = (await client.get(path)).json()
    assert texts(newest["data"]) == ["4", "3", "2", "1", "0"]


# --- other providers ---


@pytest.mark.parametrize("way", ["whole", "streamed", "background"])
async def test_a_model_of_several_providers_is_asked_where_the_caller_prefers(
    client: httpx.AsyncClient, upstream: FakeProvider, way: str
) -> None:
    for name in ("xai", "anthropic", "openai"):
        more: dict[str, Any] = {"provider": {"order": [name]}}
        if way == "streamed":
            found = (await post_stream(client, "everywhere", **more))[-1]["response"]
        elif way == "background":
            queued = await create(client, "everywhere", background=True, **more)
            found = await over(client, queued["id"])
        else:
            found = await create(client, "everywhere", **more)
        assert text_of(found) == f"{name} heard: hi"
        assert [call.provider for call in upstream.take()] == [name]


async def test_requests_are_spread_over_the_providers_of_a_model(
    client: httpx.AsyncClient, upstream: FakeProvider
) -> None:
    await asyncio.gather(*(create(client, "everywhere") for _ in range(40)))
    asked = [call.provider for call in upstream.take()]
    assert len(asked) == 40
    assert len(set(asked)) > 1


@pytest.mark.parametrize("way", ["whole", "streamed", "background"])
async def test_the_next_model_answers_where_the_first_one_fails(
    client: httpx.AsyncClient, way: str
) -> None:
    more: dict[str, Any] = {"models": [MODELS[2]]}
    model = "sim/sim-fault=status,status=400"
    if way == "streamed":
        found = (await post_stream(client, model, **more))[-1]["response"]
    elif way == "background":
        found = await over(client, (await create(client, model, background=True, **more))["id"])
    else:
        found = await create(client, model, **more)
    assert text_of(found) == "openai heard: hi"
