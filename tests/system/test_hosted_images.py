"""The hosted tool image_generation: run by OpenAI itself, and by the broker for everybody else."""

from __future__ import annotations

import asyncio
import base64
import json
import signal
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import openai
import pytest
from openai import AsyncOpenAI

from broker.bus.usage import usage_groups
from broker.v1 import (
    content_pb2,
    generation_pb2,
    responses_service_pb2,
    responses_service_pb2_grpc,
)
from tests.system import rpc
from tests.system.answers import events, replay
from tests.system.provider import FakeProvider, Received, Said, fake_provider
from tests.system.shared import shared_stack
from tests.system.stack import KEY, MakeStack, Stack, until

TOOL: Any = {"type": "image_generation", "partial_images": 2}
PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256))
TEXT = base64.b64encode(PNG).decode()
CALL = "image_generation_call"


def sse(*found: dict[str, Any]) -> Said:
    lines = "".join(f"event: {e.get('type', 'x')}\ndata: {json.dumps(e)}\n\n" for e in found)
    return Said(body=lines.encode(), headers={"content-type": "text/event-stream"})


def chunk(delta: dict[str, Any], finish: str | None = None, **more: Any) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return {
        "id": "c",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "m",
        "choices": [choice],
        **more,
    }


def call(number: int, name: str, arguments: Any) -> dict[str, Any]:
    text = arguments if isinstance(arguments, str) else json.dumps(arguments)
    function = {"name": name, "arguments": text}
    return {"index": number, "id": f"call_{number}", "type": "function", "function": function}


def chats(*calls: dict[str, Any], text: str = "", finish: str = "") -> Any:
    """An answer of a chat model, whole or streamed, as it was asked for."""

    def said(received: Received) -> Said:
        why = finish or ("tool_calls" if calls else "stop")
        usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
        if not received.json.get("stream"):
            message: dict[str, Any] = {"role": "assistant", "content": text or None}
            if calls:
                message["tool_calls"] = [
                    {k: v for k, v in c.items() if k != "index"} for c in calls
                ]
            choice = {"index": 0, "message": message, "finish_reason": why}
            body = {"id": "c", "object": "chat.completion", "created": 1, "model": "m"}
            return Said(body={**body, "choices": [choice], "usage": usage})
        found = [chunk({"role": "assistant", "content": text})]
        found += [chunk({"tool_calls": [one]}) for one in calls]
        found += [chunk({}, why), {**chunk({}), "choices": [], "usage": usage}]
        lines = "".join(f"data: {json.dumps(e)}\n\n" for e in found) + "data: [DONE]\n\n"
        return Said(body=lines.encode(), headers={"content-type": "text/event-stream"})

    return said


def turns(*said: Any) -> Any:
    """Each call to the chat model gets the next of these answers."""
    left = iter(said)

    def script(received: Received) -> Said:
        return next(left)(received)  # type: ignore[no-any-return]

    return script


DRAW = call(0, "image_generation", {"prompt": "a red fox"})


def native(received: Received, text: str = TEXT) -> Said:
    """OpenAI's own answer with the tool."""
    item = {"id": "ig_1", "type": CALL, "status": "in_progress", "result": None}
    whole = {
        **item,
        "status": "completed",
        "result": text,
        "revised_prompt": "a fox",
        "size": "1024x1024",
    }
    usage = {"input_tokens": 3, "output_tokens": 4, "total_tokens": 7}
    response = {
        "id": "resp_up",
        "object": "response",
        "created_at": 1,
        "model": "gpt",
        "output": [],
    }
    ended = {**response, "status": "completed", "output": [whole], "usage": usage}
    if not received.json.get("stream"):
        return Said(body=ended)
    step = f"response.{CALL}"
    at = {"item_id": "ig_1", "output_index": 0}
    found = [
        {"type": "response.created", "response": {**response, "status": "in_progress"}},
        {"type": "response.output_item.added", "output_index": 0, "item": item},
        {"type": f"{step}.in_progress", **at},
        {"type": f"{step}.generating", **at},
        {
            "type": f"{step}.partial_image",
            **at,
            "partial_image_index": 0,
            "partial_image_b64": text,
        },
        {"type": f"{step}.completed", **at},
        {"type": "response.output_item.done", "output_index": 0, "item": whole},
        {"type": "response.completed", "response": ended},
    ]
    return sse(*({**e, "sequence_number": n} for n, e in enumerate(found)))  # type: ignore[dict-item]


@pytest.fixture(scope="module")
async def fake() -> AsyncIterator[FakeProvider]:
    async with fake_provider(native) as made:
        yield made


@pytest.fixture(scope="module")
async def stack(
    tmp_path_factory: pytest.TempPathFactory, fake: FakeProvider
) -> AsyncIterator[Stack]:
    providers = {
        "openai": {"base_url": fake.url("openai") + "/v1", "api_key": "k"},
        "groq": {"base_url": fake.url("groq") + "/v1", "api_key": "k"},
    }
    async with shared_stack(
        tmp_path_factory,
        providers=providers,
        serves=("sim", *providers),
        sections={"tools": {"image_generation": {"model": "sim/sim"}}},
    ) as stack:
        yield stack


@pytest.fixture(autouse=True)
def script(fake: FakeProvider) -> Iterator[None]:
    fake.take()
    yield
    fake.script = native


@pytest.fixture
async def sdk(stack: Stack) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(
        api_key=KEY, base_url=f"{stack.url()}/v1", max_retries=0, timeout=30
    ) as client:
        yield client


async def streamed(stack: Stack, body: dict[str, Any]) -> list[dict[str, Any]]:
    async with (
        stack.client() as client,
        client.stream("POST", "/v1/responses", json={**body, "stream": True}) as answer,
    ):
        assert answer.status_code == 200, await answer.aread()
        found = [event async for event in events(answer.aiter_lines())]
    assert [event["sequence_number"] for event in found] == list(range(len(found)))
    return found


WITH_PICTURE = [
    "response.created",
    "response.in_progress",
    "response.output_item.added",
    f"response.{CALL}.in_progress",
    f"response.{CALL}.generating",
    f"response.{CALL}.partial_image",
    f"response.{CALL}.partial_image",
    f"response.{CALL}.completed",
    "response.output_item.done",
]
WITH_TEXT = [
    "response.output_item.added",
    "response.content_part.added",
    "response.output_text.delta",
    "response.output_text.done",
    "response.content_part.done",
    "response.output_item.done",
    "response.completed",
]


async def test_openai_runs_the_tool_itself(
    stack: Stack, sdk: AsyncOpenAI, fake: FakeProvider
) -> None:
    body = {"model": "openai/gpt-4o", "input": "draw a fox", "tools": [TOOL]}
    found = await streamed(stack, body)
    assert [event["type"] for event in found] == [
        *WITH_PICTURE[:6],
        *WITH_PICTURE[7:],
        "response.completed",
    ]
    assert found[5]["partial_image_b64"] == TEXT
    assert found[-2]["item"]["result"] == TEXT
    whole = await sdk.responses.create(model="openai/gpt-4o", input="draw a fox", tools=[TOOL])
    [item] = whole.output
    assert item.type == "image_generation_call"
    assert item.result == TEXT
    for received in fake.take():
        assert received.path == "/v1/responses"
        assert received.json["tools"] == [TOOL]


async def test_the_broker_runs_it_for_others_and_streams_the_picture(
    stack: Stack, fake: FakeProvider
) -> None:
    fake.script = turns(chats(DRAW), chats(text="Here it is."))
    body = {"model": "groq/m", "input": "draw a fox", "tools": [{**TOOL, "quality": "low"}]}
    found = await streamed(stack, body)
    assert [event["type"] for event in found] == WITH_PICTURE + WITH_TEXT
    partial = [event for event in found if "partial_image_b64" in event]
    assert [event["partial_image_index"] for event in partial] == [0, 1]
    for event in partial:
        assert base64.b64decode(event["partial_image_b64"]).startswith(b"\x89PNG")
    done = found[8]["item"]
    assert (done["type"], done["status"], done["quality"]) == (CALL, "completed", "low")
    assert base64.b64decode(done["result"]).startswith(b"\x89PNG")
    assert done["id"].startswith("ig_")
    assert {event["item_id"] for event in found[3:8]} == {done["id"]}
    response = found[-1]["response"]
    assert response["output"] == [done, found[-2]["item"]]
    assert response["tools"][0]["type"] == "image_generation"
    assert response["usage"]["input_tokens"] == 20, "both calls of the model"
    first, second = fake.take()
    [tool] = first.json["tools"]
    assert (tool["type"], tool["function"]["name"]) == ("function", "image_generation")
    assert [message["role"] for message in second.json["messages"]] == ["user", "assistant", "tool"]
    assert second.json["messages"][1]["tool_calls"][0]["id"] == "call_0"
    assert second.json["messages"][2]["tool_call_id"] == "call_0"
    kept = await replay_of(stack, response["id"])
    assert kept["output"] == response["output"]


def result_of(response: Any) -> str:
    return str(next(item.result for item in response.output if item.type == CALL))


async def replay_of(stack: Stack, name: str) -> Any:
    async with stack.client() as client:
        answer = await client.get(f"/v1/responses/{name}")
    assert answer.status_code == 200
    return answer.json()


async def test_the_official_library_gets_a_picture_from_any_model(sdk: AsyncOpenAI) -> None:
    """As in OpenAI's guide: no settings but the tool."""
    model = "sim/tool_call=1"  # calls whatever it may, until it may not
    whole = await sdk.responses.create(
        model=model, input="draw a fox", tools=[{"type": "image_generation"}], max_tool_calls=1
    )
    drawn, told = whole.output
    assert drawn.type == "image_generation_call"
    assert base64.b64decode(drawn.result or "").startswith(b"\x89PNG")
    assert told.type == "message"
    assert whole.output_text


async def test_several_pictures_and_a_function_of_the_callers(
    stack: Stack, sdk: AsyncOpenAI, fake: FakeProvider
) -> None:
    other = {"type": "function", "name": "weather", "parameters": {"type": "object"}}
    calls = (
        DRAW,
        call(1, "weather", {"city": "Rome"}),
        call(2, "image_generation", {"prompt": "a hen"}),
    )
    fake.script = turns(chats(*calls, text="Let me see."), chats(text="Sunny."))
    found = await streamed(stack, {"model": "groq/m", "input": "draw", "tools": [TOOL, other]})
    response = found[-1]["response"]
    assert [item["type"] for item in response["output"]] == ["message", "function_call", CALL, CALL]
    assert [e["item"]["type"] for e in found if e["type"] == "response.output_item.done"] == [
        "message",
        "function_call",
        CALL,
        CALL,
    ]
    one, two = (item["result"] for item in response["output"][2:])
    assert one != two
    fake.take()
    # The caller answers its own call, and the conversation goes on.
    output: Any = {"type": "function_call_output", "call_id": "call_1", "output": "sunny"}
    await sdk.responses.create(
        model="groq/m", input=[output], tools=[TOOL], previous_response_id=response["id"]
    )
    [again] = fake.take()
    called = [c["id"] for m in again.json["messages"] for c in m.get("tool_calls") or ()]
    answered = [m["tool_call_id"] for m in again.json["messages"] if m["role"] == "tool"]
    assert sorted(called) == sorted(answered)
    assert len(called) == 3


async def test_an_earlier_picture_is_edited(
    stack: Stack, sdk: AsyncOpenAI, fake: FakeProvider
) -> None:
    fake.script = turns(chats(DRAW), chats(text="Here."))
    tool: Any = {"type": "image_generation", "model": "openai/gpt-image-2"}
    image = {"created": 1, "data": [{"b64_json": TEXT}], "output_format": "png"}
    scripted = fake.script

    def both(received: Received) -> Said:
        return Said(body=image) if "/images/" in received.path else scripted(received)

    fake.script = both
    # The configured model draws first.
    first = await sdk.responses.create(
        model="groq/m", input="draw", tools=[{"type": "image_generation"}]
    )
    fake.take()
    scripted = turns(
        chats(call(0, "image_generation", {"prompt": "blue", "edit": True})), chats(text="So.")
    )
    second = await sdk.responses.create(
        model="groq/m", input="blue, please", tools=[tool], previous_response_id=first.id
    )
    asked, edited, _ = fake.take()
    assert "edit" in json.dumps(asked.json["tools"][0]["function"]["parameters"]["properties"])
    assert edited.path == "/v1/images/edits"
    assert base64.b64decode(result_of(first)) in edited.body
    assert result_of(second) == TEXT


async def test_a_picture_is_drawn_and_changed_in_one_answer(
    stack: Stack, fake: FakeProvider
) -> None:
    change = call(0, "image_generation", {"prompt": "and blue", "edit": True})
    fake.script = turns(chats(DRAW), chats(change), chats(text="Blue."))
    found = await streamed(stack, {"model": "groq/m", "input": "draw", "tools": [TOOL]})
    first, second, said = found[-1]["response"]["output"]
    assert [first["type"], second["type"], said["type"]] == [CALL, CALL, "message"]
    assert first["result"] != second["result"]
    assert len(fake.take()) == 3


async def test_what_cannot_be_drawn_is_told_to_the_model(stack: Stack, fake: FakeProvider) -> None:
    """Arguments that are none, and a provider that refuses."""
    fake.script = turns(chats(call(0, "image_generation", "{")), chats(text="Sorry."))
    found = await streamed(stack, {"model": "groq/m", "input": "draw", "tools": [TOOL]})
    done = next(e["item"] for e in found if e["type"] == "response.output_item.done")
    assert (done["status"], done["result"]) == ("failed", None)
    assert "prompt" in done["error"]["message"]
    assert f"response.{CALL}.completed" not in [event["type"] for event in found]
    assert found[-1]["type"] == "response.completed"
    _, second = fake.take()
    assert "could not be drawn" in second.json["messages"][2]["content"]


@pytest.mark.parametrize(
    ("tool", "param"),
    [
        ({"partial_images": 4}, "tools[0].partial_images"),
        ({"size": 5}, "tools[0].size"),
        ({"output_compression": 101}, "tools[0].output_compression"),
    ],
)
async def test_a_tool_that_is_wrong_is_refused(
    sdk: AsyncOpenAI, fake: FakeProvider, tool: Any, param: str
) -> None:
    tools: Any = [{"type": "image_generation", **tool}]
    with pytest.raises(openai.BadRequestError) as raised:
        await sdk.responses.create(model="groq/m", input="draw", tools=tools)
    assert raised.value.param == param
    assert not fake.take()


async def test_in_the_background_only_who_draws_alone_can(
    stack: Stack, sdk: AsyncOpenAI, fake: FakeProvider
) -> None:
    """Its pictures are larger than a message of NATS."""
    with pytest.raises(openai.BadRequestError, match="background") as raised:
        await sdk.responses.create(model="groq/m", input="draw", tools=[TOOL], background=True)
    assert raised.value.param == "tools[0]"
    large = base64.b64encode(PNG + bytes(3 << 20)).decode()
    fake.script = lambda received: native(received, large)
    queued = await sdk.responses.create(
        model="openai/gpt-4o", input="draw", tools=[TOOL], background=True
    )

    async def over() -> Any:
        found = await sdk.responses.retrieve(queued.id)
        return found if found.status == "completed" else None

    done = await until(over, "it is drawn")
    assert result_of(done) == large
    async with stack.client() as client:
        found = await replay(client, queued.id)
    [partial] = [event for event in found if event["type"] == f"response.{CALL}.partial_image"]
    assert partial["partial_image_b64"] == large


async def test_a_client_that_leaves_stops_the_picture(stack: Stack, fake: FakeProvider) -> None:
    fake.script = turns(chats(DRAW))
    tool = {"type": "image_generation", "model": "sim/fault=hang"}
    async with stack.client(timeout_s=1) as client:
        with pytest.raises(httpx.ReadTimeout):
            await client.post(
                "/v1/responses", json={"model": "groq/m", "input": "x", "tools": [tool]}
            )
    await stack.quiet(timeout_s=5)


async def test_who_leaves_in_the_middle_of_a_stream_stops_it(
    stack: Stack, fake: FakeProvider
) -> None:
    fake.script = turns(chats(DRAW))
    tool = {**TOOL, "model": "sim/ttft_ms=1,delay_ms=60000"}
    body = {"model": "groq/m", "input": "x", "tools": [tool], "stream": True}
    async with (
        stack.client() as client,
        client.stream("POST", "/v1/responses", json=body) as answer,
    ):
        async for event in events(answer.aiter_lines()):
            if event["type"].endswith("partial_image"):
                break
    await stack.quiet(timeout_s=5)


async def test_an_edge_that_is_told_to_stop_draws_to_the_end(make_stack: MakeStack) -> None:
    """Parts of what was accepted are accepted (R13), also while it drains (R15)."""
    slow = {"tools": {"image_generation": {"model": "sim/ttft_ms=1500"}}}
    stack = await make_stack(workers=1, sections=slow)
    body = {"model": "sim/tool_call=1", "input": "x", "tools": [TOOL], "max_tool_calls": 1}
    async with stack.client() as client:
        asked = asyncio.create_task(client.post("/v1/responses", json=body))

        async def drawing() -> bool:
            stats = await stack.sim_stats()
            return bool(stats["calls"] == 2)

        await until(drawing, "it is drawing")
        stack.processes["edge"].kill(signal.SIGTERM)
        answer = await asked
    assert answer.status_code == 200, answer.text
    assert [item["type"] for item in answer.json()["output"]] == [CALL, "message"]


async def test_the_model_and_the_picture_are_charged_apart(
    stack: Stack, fake: FakeProvider
) -> None:
    fake.script = turns(chats(DRAW), chats(text="Here."))
    async with stack.client() as client:
        answer = await client.post(
            "/v1/responses", json={"model": "groq/m", "input": "draw", "tools": [TOOL]}
        )
    wanted = answer.headers["x-request-id"]

    async def charges() -> Any:
        groups = [group async for group in usage_groups(stack.bus)]
        found = [c for group in groups for c in group.charges if c.request_id.startswith(wanted)]
        return found if len(found) == 3 else None

    found = await until(charges, "three charges")
    assert sorted(charge.usage.output_image_tokens for charge in found) == [0, 0, 272]
    assert sorted(charge.usage.input_tokens for charge in found)[-2:] == [10, 10]


async def test_over_grpc_it_is_the_same(stack: Stack, fake: FakeProvider) -> None:
    fake.script = turns(chats(DRAW), chats(text="Here."))
    request = generation_pb2.Request()
    request.generate.model = "groq/m"
    message = request.generate.messages.add(role=content_pb2.ROLE_USER)
    message.parts.add().text.text = "draw a fox"
    request.generate.tools.add().hosted.type = "image_generation"
    request.generate.tools[0].hosted.json = b'{"type": "image_generation"}'
    async with stack.channel() as channel:
        stub = responses_service_pb2_grpc.ResponsesServiceStub(channel)
        created = await stub.CreateResponse(
            responses_service_pb2.CreateResponseRequest(request=request), metadata=rpc.bearer(KEY)
        )
    parts = created.response.answer.choices[0].message.parts
    assert [part.WhichOneof("kind") for part in parts] == ["image", "text"]
    assert parts[0].image.inline.data.startswith(b"\x89PNG")


async def test_many_draw_beside_each_other(sdk: AsyncOpenAI, fake: FakeProvider) -> None:
    def script(received: Received) -> Said:
        told = any(message["role"] == "tool" for message in received.json["messages"])
        said = chats(text="Here.") if told else chats(DRAW)
        return said(received)  # type: ignore[no-any-return]

    fake.script = script
    answers = await asyncio.gather(
        *(sdk.responses.create(model="groq/m", input="x", tools=[TOOL]) for _ in range(16))
    )
    assert all(answer.output_text == "Here." for answer in answers)
