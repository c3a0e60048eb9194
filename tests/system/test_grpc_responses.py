"""Responses and conversations over gRPC, against the whole system and beside HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable
from typing import Any

import grpc
import httpx
import pytest

from broker.bus.keyring import Keyring
from broker.v1 import content_pb2, generation_pb2, stored_pb2
from broker.v1 import responses_service_pb2 as pb
from broker.v1 import responses_service_pb2_grpc as pb_grpc
from tests.system.answers import over
from tests.system.answers import text_of as text_over_http
from tests.system.rpc import ask, bearer, failure, text_of, told
from tests.system.shared import shared_stack
from tests.system.stack import KEY, Stack, until

OTHER_KEY = "mr-a-key-of-another-tenant-0123456789"
QUEUED = stored_pb2.RESPONSE_STATUS_QUEUED
IN_PROGRESS = stored_pb2.RESPONSE_STATUS_IN_PROGRESS
COMPLETED = stored_pb2.RESPONSE_STATUS_COMPLETED
FAILED = stored_pb2.RESPONSE_STATUS_FAILED
CANCELLED = stored_pb2.RESPONSE_STATUS_CANCELLED


@pytest.fixture(scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    async with shared_stack(tmp_path_factory) as stack:
        await Keyring(stack.bus).add(OTHER_KEY, "another", tenant="another")
        yield stack


class Client:
    """Both services over one connection; a method of either by its name, with its fields."""

    def __init__(self, channel: grpc.aio.Channel, key: str) -> None:
        self._metadata = bearer(key)
        self._stubs = (
            pb_grpc.ResponsesServiceStub(channel),
            pb_grpc.ConversationsServiceStub(channel),
        )

    def __call__(self, method: str, **fields: Any) -> Any:
        stub = next(stub for stub in self._stubs if hasattr(stub, method))
        request = getattr(pb, f"{method}Request")(**fields)
        return getattr(stub, method)(request, metadata=self._metadata, timeout=60)

    async def create(self, request: generation_pb2.Request) -> pb.Response:
        answer: pb.CreateResponseResponse = await self("CreateResponse", request=request)
        return answer.response

    async def get(self, name: str) -> pb.Response:
        answer: pb.GetResponseResponse = await self("GetResponse", response_id=name)
        return answer.response

    async def steps(self, method: str, **fields: Any) -> list[pb.ResponseStep]:
        found = [answer.step async for answer in self(method, **fields)]
        start = fields.get("starting_after", 0) + 1
        assert [step.sequence for step in found] == list(range(start, start + len(found)))
        return found


@pytest.fixture
async def client(stack: Stack) -> AsyncIterator[Client]:
    await stack.reset_sim()
    async with stack.channel() as channel:
        yield Client(channel, KEY)


@pytest.fixture
async def http(stack: Stack) -> AsyncIterator[httpx.AsyncClient]:
    async with stack.client() as client:
        yield client


def turn(model: str, prompt: str = "hello", **options: Any) -> generation_pb2.Request:
    return ask(model, prompt, responses=generation_pb2.ResponsesOptions(**options))


def said(steps: list[pb.ResponseStep]) -> str:
    return "".join(step.event.text.text for step in steps)


async def test_a_response_is_kept_and_the_same_over_http(
    client: Client, http: httpx.AsyncClient
) -> None:
    first = await client.create(ask("sim/echo", "one", metadata={"a": "b"}))
    assert first.id.startswith("resp_")
    assert first.status == COMPLETED
    assert first.created_at <= first.completed_at
    assert text_of(first.answer) == "one"
    assert first.request.generate.messages[0].parts[0].text.text == "one"
    assert await client.get(first.id) == first
    shown = (await http.get(f"/v1/responses/{first.id}")).json()
    assert (text_over_http(shown), shown["metadata"]) == ("one", {"a": "b"})
    items = await client("ListInputItems", response_id=first.id)
    assert [message.parts[0].text.text for message in items.messages] == ["one"]
    body = {"model": "sim/echo", "input": "two", "previous_response_id": first.id}
    second = (await http.post("/v1/responses", json=body)).json()
    third = await client.create(turn("sim/sim-tokens=2", "x", previous_response_id=second["id"]))
    assert third.answer.usage.input_tokens > 5  # all that was said before
    await client("DeleteResponse", response_id=first.id)
    assert (await failure(client.get(first.id))).code == "NOT_FOUND"
    assert (await failure(client("DeleteResponse", response_id=first.id))).code == "NOT_FOUND"


async def test_what_is_not_to_be_stored_is_not_there(client: Client) -> None:
    made = await client.create(ask("sim/echo", "one", store=False))
    assert text_of(made.answer) == "one"
    assert (await failure(client.get(made.id))).code == "NOT_FOUND"


async def test_a_stream_begins_and_ends_with_the_response(client: Client) -> None:
    steps = await client.steps("StreamResponse", request=ask("sim/sim-tokens=20"))
    first, last = steps[0].response, steps[-1].response
    assert (first.status, last.status) == (IN_PROGRESS, COMPLETED)
    assert first.id == last.id
    assert [step.WhichOneof("kind") for step in steps[1:-1]] == ["event"] * (len(steps) - 2)
    assert steps[1].event.HasField("started")
    assert said(steps) == text_of(last.answer)
    assert await client.get(last.id) == last


async def test_a_stream_that_breaks_is_kept_as_failed(client: Client) -> None:
    call = client("StreamResponse", request=ask("sim/sim-tokens=9,fault=cut,after=3"))
    steps: list[pb.ResponseStep] = []
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async for answer in call:
            steps += [answer.step]
    assert told(caught.value).reason == "upstream_incomplete"
    kept = await client.get(steps[0].response.id)
    assert kept.status == FAILED
    assert kept.error.message == caught.value.details()
    assert text_of(kept.answer) == said(steps)


async def test_who_leaves_a_stream_closes_the_call_upstream(stack: Stack, client: Client) -> None:
    call = client("StreamResponse", request=ask("sim/sim-tokens=5000,delay_ms=20"))
    await call.read()
    call.cancel()

    async def closed() -> bool:
        return not (await stack.sim_stats())["open"]

    await until(closed, "the call is closed", 5)
    await stack.quiet()


async def test_a_background_response_is_followed_from_any_step_on(
    stack: Stack, client: Client, http: httpx.AsyncClient
) -> None:
    queued = await client.create(turn("sim/sim-tokens=30,delay_ms=20", background=True))
    assert queued.status == QUEUED
    whole = await client.steps("FollowResponse", response_id=queued.id)
    assert (whole[0].response.status, whole[-1].response.status) == (QUEUED, COMPLETED)
    assert whole[-1].response == await client.get(queued.id)
    assert said(whole) == text_of(whole[-1].response.answer)
    for after in (1, 10, len(whole) - 1, len(whole)):
        rest = await client.steps("FollowResponse", response_id=queued.id, starting_after=after)
        assert rest == whole[after:]
    assert (await over(http, queued.id))["status"] == "completed"
    assert (await stack.sim_stats())["calls"] == 1


async def test_a_background_response_is_streamed_as_it_is_created(client: Client) -> None:
    request = turn("sim/sim-tokens=5", background=True)
    steps = await client.steps("StreamResponse", request=request)
    assert steps[0].response.status == QUEUED
    name = steps[-1].response.id
    assert await client.steps("FollowResponse", response_id=name) == steps
    failed = turn("sim/sim-tokens=3,fault=status,status=400", background=True)
    steps = await client.steps("StreamResponse", request=failed)
    assert steps[-1].response.status == FAILED
    assert steps[-1].response.error.message


async def test_a_background_response_is_cancelled(client: Client) -> None:
    queued = await client.create(turn("sim/sim-ttft_ms=60000", background=True))
    cancelled = (await client("CancelResponse", response_id=queued.id)).response
    assert cancelled.status == CANCELLED
    assert (await client("CancelResponse", response_id=queued.id)).response == cancelled
    steps = await client.steps("FollowResponse", response_id=queued.id)
    assert steps[-1].response == cancelled


async def test_a_conversation_holds_what_its_responses_said(
    client: Client, http: httpx.AsyncClient
) -> None:
    before = content_pb2.Message(role=content_pb2.ROLE_USER)
    before.parts.add().text.text = "zero"
    made = (await client("CreateConversation", metadata={"a": "b"}, messages=[before])).conversation
    assert made.id.startswith("conv_")
    name = {"conversation_id": made.id}
    assert (await client("GetConversation", **name)).conversation == made
    await client.create(turn("sim/echo", "one", conversation=made.id))
    added = (await client("AddConversationItems", **name, messages=[before])).messages
    found = (await client("ListConversationItems", **name)).messages
    texts = [message.parts[0].text.text for message in found]
    assert texts == ["zero", "one", "one", "zero"]
    assert found[-1] == added[0]
    listed = (await http.get(f"/v1/conversations/{made.id}/items?order=asc")).json()["data"]
    ids = [message.item_id or message.parts[0].item_id for message in found]
    assert [item["id"] for item in listed] == ids
    one = (await client("GetConversationItem", **name, item_id=ids[2])).message
    assert one == found[2]
    await client("DeleteConversationItem", **name, item_id=ids[2])
    assert (await failure(client("GetConversationItem", **name, item_id=ids[2]))).code == (
        "NOT_FOUND"
    )
    changed = (await client("UpdateConversation", **name, metadata={"c": "d"})).conversation
    assert dict(changed.metadata) == {"c": "d"}
    await client("DeleteConversation", **name)
    assert (await failure(client("GetConversation", **name))).code == "NOT_FOUND"


async def test_what_is_anothers_is_not_there(stack: Stack, client: Client) -> None:
    made = await client.create(turn("sim/sim-tokens=3", background=True))
    talk = (await client("CreateConversation")).conversation
    async with stack.channel() as channel:
        stranger = Client(channel, OTHER_KEY)
        calls: list[Awaitable[Any]] = [
            stranger(method, response_id=made.id)
            for method in ("GetResponse", "CancelResponse", "DeleteResponse", "ListInputItems")
        ]
        calls += [
            stranger("FollowResponse", response_id=made.id).read(),
            stranger("GetConversation", conversation_id=talk.id),
            stranger("UpdateConversation", conversation_id=talk.id),
            stranger("DeleteConversation", conversation_id=talk.id),
            stranger("ListConversationItems", conversation_id=talk.id),
            stranger("AddConversationItems", conversation_id=talk.id),
            stranger("GetConversationItem", conversation_id=talk.id, item_id="x"),
            stranger("DeleteConversationItem", conversation_id=talk.id, item_id="x"),
            stranger.create(turn("sim/echo", conversation=talk.id)),
        ]
        for call in calls:
            assert (await failure(call)).code == "NOT_FOUND"
        chained = await failure(stranger.create(turn("sim/echo", previous_response_id=made.id)))
        assert chained.metadata["code"] == "previous_response_not_found"
        nobody = Client(channel, "mr-wrong")
        assert (await failure(nobody.get(made.id))).code == "UNAUTHENTICATED"
        assert (await failure(nobody("CreateConversation"))).code == "UNAUTHENTICATED"


MISTAKES: dict[str, tuple[generation_pb2.Request, str]] = {
    "no operation": (generation_pb2.Request(), "request.generate"),
    "no input": (generation_pb2.Request(generate={"model": "sim/echo"}), "input"),  # type: ignore[arg-type]
    "no model": (ask(""), "model"),
    "two answers": (ask("sim/echo", n=2), "n"),
    "hot": (ask("sim/echo", temperature=3), "temperature"),
    "include": (turn("sim/echo", include=["x"]), "include[0]"),
    "truncation": (turn("sim/echo", truncation="x"), "truncation"),
    "no id": (turn("sim/echo", previous_response_id="x"), "previous_response_id"),
    "both": (
        turn("sim/echo", previous_response_id="resp_x", conversation="conv_x"),
        "conversation",
    ),
    "metadata": (ask("sim/echo", metadata={"a": "x" * 513}), "metadata.a"),
}


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("mistake", MISTAKES)
async def test_a_mistake_is_told_with_its_field(
    client: Client, mistake: str, *, streamed: bool
) -> None:
    request, param = MISTAKES[mistake]
    if streamed:
        found = await failure(client("StreamResponse", request=request).read())
    else:
        found = await failure(client("CreateResponse", request=request))
    assert (found.code, found.fields) == ("INVALID_ARGUMENT", [param])


async def test_mistakes_beside_requests(client: Client) -> None:
    done = await client.create(ask("sim/echo"))
    for call, code in (
        (client("FollowResponse", response_id=done.id).read(), "INVALID_ARGUMENT"),
        (
            client("FollowResponse", response_id=done.id, starting_after=-1).read(),
            "INVALID_ARGUMENT",
        ),
        (client("CancelResponse", response_id=done.id), "INVALID_ARGUMENT"),
        (client("CreateConversation", metadata={"a": "x" * 513}), "INVALID_ARGUMENT"),
        (client("CreateConversation", messages=[content_pb2.Message()]), "INVALID_ARGUMENT"),
        (client("CreateConversation", messages=[content_pb2.Message()] * 21), "INVALID_ARGUMENT"),
    ):
        assert (await failure(call)).code == code
