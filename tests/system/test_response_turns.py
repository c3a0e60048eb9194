"""Turns that go on from others: chains, references, conversations, over HTTP and three formats."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from tests.system.answers import create, listed, over, post_stream, text_of, texts
from tests.system.provider import FakeProvider
from tests.system.stack import Stack
from tests.system.upstreams import MODELS, OTHER, providers_stack, upstreams

CALL = {"type": "function", "name": "get_weather", "parameters": {"type": "object"}}


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


@pytest.mark.parametrize("model", MODELS[1:])
async def test_a_chain_sends_what_was_said_and_done(
    client: httpx.AsyncClient, upstream: FakeProvider, model: str
) -> None:
    first = await create(client, model, "Weather?", tools=[CALL], instructions="Be kind.")
    call = next(item for item in first["output"] if item["type"] == "function_call")
    output = {"type": "function_call_output", "call_id": call["call_id"], "output": "18 degrees"}
    second = await create(client, model, [output], previous_response_id=first["id"])
    third = await create(client, model, "And then?", previous_response_id=second["id"])
    assert third["previous_response_id"] == second["id"]
    sent = upstream.take()[-1]
    said = str(sent.json.get("input") or sent.json["messages"])
    places = [said.index(text) for text in ("Weather?", "get_weather", "18 degrees", "And then?")]
    assert places == sorted(places)
    # Instructions are each response's own.
    assert b"Be kind." not in sent.body
    own = await listed(client, f"/v1/responses/{third['id']}/input_items")
    assert texts(own["data"]) == ["And then?"]
    fork = await create(client, model, "Or else?", previous_response_id=second["id"])
    assert b"And then?" not in upstream.take()[-1].body
    await client.delete(f"/v1/responses/{first['id']}")
    for name in (third["id"], fork["id"]):
        answer = await client.post(
            "/v1/responses", json={"model": model, "input": "x", "previous_response_id": name}
        )
        assert answer.json()["error"]["code"] == "previous_response_not_found"


async def test_a_call_that_is_not_answered_ends_a_chain(client: httpx.AsyncClient) -> None:
    first = await create(client, MODELS[2], "Weather?", tools=[CALL])
    sent = {"model": MODELS[2], "input": "x", "previous_response_id": first["id"]}
    answer = await client.post("/v1/responses", json=sent)
    assert answer.status_code == 400
    assert "No tool output found" in answer.json()["error"]["message"]


@pytest.mark.parametrize("way", ["kept here", "kept by the caller"])
async def test_encrypted_reasoning_goes_back_to_its_provider_alone(
    client: httpx.AsyncClient, upstream: FakeProvider, way: str
) -> None:
    more: dict[str, Any] = {"input": "Hello!", "tools": [CALL]}
    if way == "kept by the caller":
        more |= {"store": False}
    answer = await client.post("/v1/responses", json={"model": "openai/gpt-reasoning", **more})
    first = answer.json()
    call = first["output"][-1]
    output = {"type": "function_call_output", "call_id": call["call_id"], "output": "18"}
    following: dict[str, Any] = {"input": [output], "previous_response_id": first["id"]}
    if way == "kept by the caller":
        assert first["output"][0]["encrypted_content"]
        following = {
            "input": [{"role": "user", "content": "Hello!"}, *first["output"], output],
            "store": False,
        }
    upstream.take()
    for model, kept in (("openai/gpt-5", True), ("xai/grok-4", False), (MODELS[1], False)):
        answer = await client.post("/v1/responses", json={"model": model, **following})
        assert answer.status_code == 200, answer.text
        sent = upstream.take()[-1].body
        assert (b"gAAA" in sent) == kept, model
        assert b"18" in sent


async def test_an_item_is_referred_to_by_its_id(
    client: httpx.AsyncClient, upstream: FakeProvider
) -> None:
    first = await create(client, "openai/gpt-reasoning", "Weather?")
    before = (await listed(client, f"/v1/responses/{first['id']}/input_items"))["data"]
    names = [before[0]["id"], *(item["id"] for item in first["output"])]
    references = [{"type": "item_reference", "id": name} for name in names]
    output = {
        "type": "function_call_output",
        "call_id": first["output"][-1]["call_id"],
        "output": "18 degrees",
    }
    upstream.take()
    second = await create(client, "openai/gpt-5", [*references, output])
    sent = upstream.take()[-1].json["input"]
    assert [item.get("type", "message") for item in sent] == [
        "message",
        "reasoning",
        "function_call",
        "function_call_output",
    ]
    assert sent[0]["content"] == "Weather?"
    assert sent[1]["encrypted_content"] == "gAAA"
    shown = (await listed(client, f"/v1/responses/{second['id']}/input_items"))["data"]
    assert [item["id"] for item in shown[:3]] == names
    asked = {"model": "openai/gpt-5", "input": [references[0], {"role": "user", "content": "x"}]}
    theirs = await client.post("/v1/responses", json=asked, headers=OTHER)
    await client.delete(f"/v1/responses/{first['id']}")
    gone = await client.post("/v1/responses", json=asked)
    asked["input"] = [{"type": "item_reference", "id": "msg_x"}]
    unknown = await client.post("/v1/responses", json=asked)
    for answer in (theirs, gone, unknown):
        assert (answer.status_code, answer.json()["error"]["param"]) == (404, "input")


async def test_input_is_counted_with_what_it_goes_on_from(client: httpx.AsyncClient) -> None:
    async def count(**more: Any) -> Any:
        asked = {"model": "sim/echo", "input": "one two", **more}
        return (await client.post("/v1/responses/input_tokens", json=asked)).json()

    first = await create(client, "sim/echo", "one two three four five six seven eight")
    alone, behind = await count(), await count(previous_response_id=first["id"])
    assert alone["object"] == "response.input_tokens"
    assert alone["estimated"] is True
    assert 0 < alone["input_tokens"] < behind["input_tokens"]
    by_provider = await count(model=MODELS[1])
    assert by_provider == {"object": "response.input_tokens", "input_tokens": 7}
    answer = await client.post(
        "/v1/responses/input_tokens", json={"model": "nobody/x", "input": "x"}
    )
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "model_not_found")


# --- conversations ---


@pytest.mark.parametrize("model", MODELS)
async def test_a_conversation_holds_what_its_responses_said(
    client: httpx.AsyncClient, model: str
) -> None:
    before = [{"role": "user", "content": "zero"}]
    talk = (await client.post("/v1/conversations", json={"items": before})).json()
    more = {"conversation": talk["id"]}
    one = await create(client, model, "one", **more)
    two = (await post_stream(client, model, "two", conversation={"id": talk["id"]}))[-1]
    three = (await create(client, model, "three", background=True, **more))["id"]
    three = await over(client, three)
    assert one["conversation"] == {"id": talk["id"]}
    found = (await listed(client, f"/v1/conversations/{talk['id']}/items"))["data"]
    answers = [text_of(response) for response in (one, two["response"], three)]
    assert texts(found) == [
        *("zero", "one", answers[0]),
        *("two", answers[1], "three", answers[2]),
    ]
    # An item has one id, wherever it is seen.
    assert found[2]["id"] == one["output"][0]["id"]
    assert found[6]["id"] == three["output"][0]["id"]
    own = await listed(client, f"/v1/responses/{one['id']}/input_items")
    assert own["data"][0]["id"] == found[1]["id"]


async def test_what_a_conversation_holds_is_sent_and_what_was_taken_out_is_not(
    client: httpx.AsyncClient, upstream: FakeProvider
) -> None:
    talk = (await client.post("/v1/conversations")).json()["id"]
    path = f"/v1/conversations/{talk}/items"
    for text in ("alpha", "beta"):
        await create(client, MODELS[2], text, conversation=talk)
    found = (await listed(client, path))["data"]
    answer = await client.delete(f"{path}/{found[0]['id']}")
    assert answer.json()["id"] == talk
    assert (await client.get(f"{path}/{found[0]['id']}")).status_code == 404
    assert (await client.get(f"{path}/{found[1]['id']}")).json() == found[1]
    upstream.take()
    await create(client, MODELS[2], "gamma", conversation=talk)
    sent = [item["content"] for item in upstream.take()[0].json["input"]]
    assert sent == ["openai heard: alpha", "beta", "openai heard: beta", "gamma"]


async def test_what_failed_or_is_not_stored_is_no_part_of_a_conversation(
    client: httpx.AsyncClient,
) -> None:
    talk = (await client.post("/v1/conversations")).json()["id"]
    more = {"conversation": talk}
    failed = await post_stream(client, "sim/sim-tokens=9,fault=cut,after=3", **more)
    assert failed[-1]["type"] == "response.failed"
    refused = {"model": "sim/sim-fault=status,status=400", "input": "hi", **more}
    assert (await client.post("/v1/responses", json=refused)).status_code == 400
    queued = await create(client, refused["model"], background=True, **more)
    assert (await over(client, queued["id"]))["status"] == "failed"
    await create(client, "sim/echo", "in passing", store=False, **more)
    await create(client, "sim/echo", "one", **more)
    found = await listed(client, f"/v1/conversations/{talk}/items")
    assert texts(found["data"]) == ["one", "one"]


async def test_responses_at_the_same_time_all_enter_their_conversation(
    client: httpx.AsyncClient,
) -> None:
    talk = (await client.post("/v1/conversations")).json()["id"]
    said = [str(number) for number in range(8)]
    await asyncio.gather(*(create(client, "sim/echo", text, conversation=talk) for text in said))
    found = (await listed(client, f"/v1/conversations/{talk}/items", limit=100))["data"]
    pairs = [tuple(texts(found[at : at + 2])) for at in range(0, len(found), 2)]
    assert sorted(pairs) == [(text, text) for text in said]


async def test_a_conversation_is_changed_and_deleted(client: httpx.AsyncClient) -> None:
    made = (await client.post("/v1/conversations", json={"metadata": {"a": "b"}})).json()
    assert (made["object"], made["metadata"]) == ("conversation", {"a": "b"})
    path = f"/v1/conversations/{made['id']}"
    assert (await client.get(path)).json() == made
    changed = (await client.post(path, json={"metadata": {"c": "d"}})).json()
    assert changed == {**made, "metadata": {"c": "d"}}
    asked = {"model": "sim/echo", "input": "x", "conversation": made["id"]}
    for method, where, sent in (
        ("GET", path, None),
        ("POST", path, {"metadata": {}}),
        ("GET", f"{path}/items", None),
        ("POST", f"{path}/items", {"items": []}),
        ("DELETE", path, None),
        ("POST", "/v1/responses", asked),
    ):
        answer = await client.request(method, where, json=sent, headers=OTHER)
        assert answer.status_code == 404, where
    kept = await create(client, "sim/echo", conversation=made["id"])
    gone = (await client.delete(path)).json()
    assert gone == {"id": made["id"], "object": "conversation.deleted", "deleted": True}
    assert (await client.get(path)).status_code == 404
    assert (await client.post("/v1/responses", json=asked)).status_code == 404
    assert (await client.get(f"/v1/responses/{kept['id']}")).status_code == 200
