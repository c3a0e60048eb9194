"""The Responses API over HTTP: on a chat provider, on Anthropic's format and on its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from broker.bus.keyring import Keyring
from tests.edge.response_mistakes import LATER, MISTAKES, body
from tests.system.answers import create, over, post_stream, replay, text_of
from tests.system.provider import FakeProvider
from tests.system.shared import shared_stack
from tests.system.stack import Stack
from tests.system.upstreams import PREFIXES, settings, upstreams

MODELS = ("sim/echo", "anthropic/claude-haiku-4-5", "openai/gpt-4o")
OTHER = {"authorization": "Bearer mr-a-key-of-another-tenant-0123456789"}
CALL = {"type": "function", "name": "get_weather", "parameters": {"type": "object"}}
# What is another time it is rendered.
OURS = ("id", "created_at", "completed_at")


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
async def upstream() -> AsyncIterator[FakeProvider]:
    async with upstreams() as fake:
        yield fake


@pytest.fixture(scope="module")
async def stack(
    tmp_path_factory: pytest.TempPathFactory, upstream: FakeProvider
) -> AsyncIterator[Stack]:
    async with shared_stack(
        tmp_path_factory, providers=settings(upstream), serves=("sim", *PREFIXES)
    ) as stack:
        await Keyring(stack.bus).add(OTHER["authorization"][7:], "another", tenant="another")
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


async def items(client: httpx.AsyncClient, path: str, **query: Any) -> Any:
    answer = await client.get(path, params={"order": "asc", **query})
    assert answer.status_code == 200, answer.text
    return answer.json()


def texts(found: list[dict[str, Any]]) -> list[str]:
    return [item["content"][0]["text"] for item in found]


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
        answer = await client.request(method, f"/v1/responses/{name}{path}", headers=OTHER)
        assert answer.status_code == 404, path
    answer = await client.delete(f"/v1/responses/{name}")
    assert answer.json() == {"id": name, "object": "response", "deleted": True}
    for method, path in paths:
        answer = await client.request(method, f"/v1/responses/{name}{path}")
        assert answer.status_code == 404, path
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


async def test_input_items_come_in_pages(client: httpx.AsyncClient) -> None:
    said = [{"role": "user", "content": str(number)} for number in range(5)]
    name = (await create(client, "sim/echo", said))["id"]
    path = f"/v1/responses/{name}/input_items"
    whole = (await items(client, path))["data"]
    assert texts(whole) == ["0", "1", "2", "3", "4"]
    first = await items(client, path, limit=2)
    assert (texts(first["data"]), first["has_more"]) == (["0", "1"], True)
    rest = await items(client, path, after=first["last_id"])
    assert (texts(rest["data"]), rest["has_more"]) == (["2", "3", "4"], False)
    between = await items(client, path, after=whole[0]["id"], before=whole[3]["id"])
    assert texts(between["data"]) == ["1", "2"]
    newest = (await client.get(path)).json()
    assert texts(newest["data"]) == ["4", "3", "2", "1", "0"]


# --- turns that go on ---


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
    own = await items(client, f"/v1/responses/{third['id']}/input_items")
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
    before = (await items(client, f"/v1/responses/{first['id']}/input_items"))["data"]
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
    shown = (await items(client, f"/v1/responses/{second['id']}/input_items"))["data"]
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
    found = (await items(client, f"/v1/conversations/{talk['id']}/items"))["data"]
    answers = [text_of(response) for response in (one, two["response"], three)]
    assert texts(found) == [
        *("zero", "one", answers[0]),
        *("two", answers[1], "three", answers[2]),
    ]
    # An item has one id, wherever it is seen.
    assert found[2]["id"] == one["output"][0]["id"]
    assert found[6]["id"] == three["output"][0]["id"]
    own = await items(client, f"/v1/responses/{one['id']}/input_items")
    assert own["data"][0]["id"] == found[1]["id"]


async def test_what_a_conversation_holds_is_sent_and_what_was_taken_out_is_not(
    client: httpx.AsyncClient, upstream: FakeProvider
) -> None:
    talk = (await client.post("/v1/conversations")).json()["id"]
    path = f"/v1/conversations/{talk}/items"
    for text in ("alpha", "beta"):
        await create(client, MODELS[2], text, conversation=talk)
    found = (await items(client, path))["data"]
    answer = await client.delete(f"{path}/{found[0]['id']}")
    assert answer.json()["id"] == talk
    assert (await client.get(f"{path}/{found[0]['id']}")).status_code == 404
    assert (await client.get(f"{path}/{found[1]['id']}")).json() == found[1]
    upstream.take()
    await create(client, MODELS[2], "gamma", conversation=talk)
    sent = [item["content"] for item in upstream.take()[0].json["input"]]
    assert sent == ["openai heard: alpha", "beta", "openai heard: beta", "gamma"]


async def test_responses_at_the_same_time_all_enter_their_conversation(
    client: httpx.AsyncClient,
) -> None:
    talk = (await client.post("/v1/conversations")).json()["id"]
    said = [str(number) for number in range(8)]
    await asyncio.gather(*(create(client, "sim/echo", text, conversation=talk) for text in said))
    found = (await items(client, f"/v1/conversations/{talk}/items", limit=100))["data"]
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


# --- other providers ---


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
