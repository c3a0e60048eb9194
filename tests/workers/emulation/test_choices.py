"""Several answers from providers that give one a call."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp import web

from broker.usage import total
from broker.v1 import event_pb2
from tests.workers.emulation.upstream import Chat, ask, attempt
from workers.emulation.choices import Choices

Event = event_pb2.Event
STOP = event_pb2.FINISH_REASON_STOP


def answer(text: str, tokens: int) -> list[Event]:
    return [
        Event(started=event_pb2.Started(model="m")),
        Event(text=event_pb2.TextDelta(text=text)),
        Event(choice_finished=event_pb2.ChoiceFinished(reason=STOP)),
        Event(completed=event_pb2.Completed(usage=event_pb2.Usage(output_tokens=tokens))),
    ]


def test_events_of_calls_become_one_answer_with_one_start_and_one_end() -> None:
    choices = Choices(2)
    made = choices.add(1, answer("b", 2)) + choices.add(0, answer("a", 3))
    assert [event.WhichOneof("kind") for event in made] == [
        *("started", "text", "choice_finished", "text", "choice_finished", "completed"),
    ]
    assert [event.text.choice for event in made if event.HasField("text")] == [1, 0]
    assert made[-1].completed.usage.output_tokens == 5


def test_what_calls_used_is_added_class_by_class() -> None:
    one = event_pb2.Usage(input_tokens=1, reasoning_tokens=2, tool_calls={"web_search": 1})
    two = event_pb2.Usage(input_tokens=3, estimated=True, tool_calls={"web_search": 2})
    assert total([one, two]) == event_pb2.Usage(
        input_tokens=4, reasoning_tokens=2, estimated=True, tool_calls={"web_search": 3}
    )


@pytest.mark.parametrize("stream", [False, True])
async def test_three_answers_are_three_calls_and_one_stream(stream: bool) -> None:
    async with Chat(lambda _: ["an ", "answer"]).serve() as chat:
        got = await attempt("deepseek", chat.url, ask(n=3, stream=stream))
    assert all("n" not in body for body in chat.bodies)
    assert sorted(got.finishes) == [0, 1, 2]
    assert [got.text(number) for number in range(3)] == ["an answer"] * 3
    assert got.kinds[0] == "started"
    assert got.kinds.count("started") == got.kinds.count("completed") == 1
    used = got.events[-1].completed.usage
    assert (used.input_tokens, used.output_tokens) == (21, 9)
    assert got.record.usage == used
    assert got.record.upstream_calls == 3
    assert not got.events[0].started.dropped_params


async def test_calls_with_a_seed_get_different_ones() -> None:
    async with Chat(lambda body: f"seed {body['seed']}").serve() as chat:
        got = await attempt("groq", chat.url, ask(n=3, seed=5))
    assert [got.text(n) for n in range(3)] == ["seed 5", "seed 6", "seed 7"]


async def test_a_call_that_fails_fails_the_answer_and_ends_the_others() -> None:
    came: list[object] = []
    all_came = asyncio.Event()

    async def said(body: dict[str, object]) -> web.Response:
        came.append(body)
        if len(came) == 3:
            all_came.set()
        if len(came) == 1:
            await all_came.wait()
            return web.json_response({"error": {"message": "not you"}}, status=400)
        await asyncio.sleep(30)
        raise AssertionError

    async with Chat(said).serve() as chat:
        got = await attempt("groq", chat.url, ask(n=3))
        assert got.kinds == ["failed"]
        assert (got.failure.reason, got.failure.message) == ("invalid_request", "not you")
        assert got.record.upstream_calls == 3
        async with asyncio.timeout(5):
            while chat.open:
                await asyncio.sleep(0.01)
    assert chat.cut_off == 2


async def test_what_completed_calls_used_is_recorded_when_another_fails() -> None:
    failing = asyncio.Event()
    turns = iter((False, True))

    async def said(body: dict[str, object]) -> object:
        if next(turns):
            await failing.wait()
            await asyncio.sleep(0.2)
            return web.json_response({"error": {"message": "no"}}, status=400)
        failing.set()
        return ["fine"]

    async with Chat(said).serve() as chat:
        got = await attempt("groq", chat.url, ask(n=2, stream=True))
    assert got.kinds[-1] == "failed"
    assert got.failure.phase == "content"
    assert got.record.usage.input_tokens == 7


async def test_not_more_than_eight_calls_are_open_at_a_time() -> None:
    async def said(body: dict[str, object]) -> list[str]:
        await asyncio.sleep(0.05)
        return ["x"]

    async with Chat(said).serve() as chat:
        got = await attempt("groq", chat.url, ask(n=20))
    assert len(got.finishes) == len(chat.bodies) == 20
    assert chat.most_open == 8


async def test_more_answers_than_openai_gives_are_refused_without_a_call() -> None:
    async with Chat(lambda _: "x").serve() as chat:
        got = await attempt("groq", chat.url, ask(n=129))
    assert (got.failure.reason, got.failure.param) == ("invalid_request", "n")
    assert chat.bodies == []


async def test_a_provider_that_gives_several_gets_one_call() -> None:
    async with Chat(lambda _: "x").serve() as chat:
        await attempt("mistral", chat.url, ask(n=2))
    assert [body["n"] for body in chat.bodies] == [2]
