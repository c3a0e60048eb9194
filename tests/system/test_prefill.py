"""Cut answers that go on by prefill, through all processes, in two providers' own formats."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from tests.system.provider import FakeProvider, Received, Said, fake_provider
from tests.system.shared import shared_stack
from tests.system.stack import Answer, Stack, until

CLAUDE = "anthropic/claude-sonnet-4-5"
NEW_CLAUDE = "anthropic/claude-opus-4-7"
MISTRAL = "mistral/mistral-small-latest"
PIECES = ("It was a dark ", "and stormy night; ", "the rain fell ", "in torrents.")
WHOLE = "".join(PIECES)
Frames = list[tuple[str, Any]]


@pytest.fixture(scope="module")
async def fake() -> AsyncIterator[FakeProvider]:
    async with fake_provider(lambda _: Said()) as made:
        yield made


@pytest.fixture(scope="module")
async def stack(
    tmp_path_factory: pytest.TempPathFactory, fake: FakeProvider
) -> AsyncIterator[Stack]:
    rows = {kind: {"base_url": fake.url(kind), "api_key": "k"} for kind in ("anthropic", "mistral")}
    async with shared_stack(tmp_path_factory, providers=rows, serves=tuple(rows)) as running:
        yield running


def claude(pieces: Sequence[str], *, cut: bool = False) -> Frames:
    usage = {"input_tokens": 40, "output_tokens": 1}
    start = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude",
        "content": [],
    }
    block = {
        "type": "content_block_start",
        "index": 0,
        "content_block": {"type": "text", "text": ""},
    }
    frames: Frames = [
        ("message_start", {"type": "message_start", "message": {**start, "usage": usage}}),
        ("content_block_start", block),
    ]
    for piece in pieces:
        delta = {"type": "text_delta", "text": piece}
        event = {"type": "content_block_delta", "index": 0, "delta": delta}
        frames.append(("content_block_delta", event))
    if cut:
        return frames
    ending = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}}
    return [
        *frames,
        ("content_block_stop", {"type": "content_block_stop", "index": 0}),
        ("message_delta", {**ending, "usage": {"output_tokens": 4}}),
        ("message_stop", {"type": "message_stop"}),
    ]


def mistral(pieces: Sequence[str], *, cut: bool = False) -> Frames:
    base = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "mistral-small"}
    frames: Frames = [
        ("", {**base, "choices": [{"index": 0, "delta": {"content": piece}}]}) for piece in pieces
    ]
    if cut:
        return frames
    usage = {"prompt_tokens": 40, "completion_tokens": 4, "total_tokens": 44}
    last = [{"index": 0, "delta": {"content": ""}, "finish_reason": "stop"}]
    return [*frames, ("", {**base, "choices": last, "usage": usage}), ("", "[DONE]")]


def stream(frames: Frames, *, cut: bool = False) -> Said:
    lines = [
        (f"event: {name}\n" if name else "")
        + f"data: {data if isinstance(data, str) else json.dumps(data)}\n\n"
        for name, data in frames
    ]
    return Said(
        body="".join(lines).encode(), headers={"content-type": "text/event-stream"}, cut=cut
    )


class Writer:
    """Cuts its first answer after three pieces; says the rest where it is to continue."""

    def __init__(self, write: Any, *, repeats: bool = False, refuses: bool = False) -> None:
        self.write = write
        self.repeats = repeats
        self.refuses = refuses
        self.asked: list[Any] = []

    def __call__(self, received: Received) -> Said:
        last = received.json["messages"][-1]
        self.asked.append(last)
        if len(self.asked) == 1:
            return stream(self.write(PIECES[:3], cut=True), cut=True)
        if last["role"] != "assistant":
            return stream(self.write(PIECES))
        if self.refuses:
            error = {"type": "invalid_request_error", "message": "prefill is not supported here"}
            return Said(400, {"type": "error", "error": error})
        said = "".join(PIECES[:3]).rstrip()
        rest = " " + PIECES[3]
        return stream(self.write([said, rest] if self.repeats else [rest]))


async def ask(
    stack: Stack, fake: FakeProvider, writer: Writer, model: str, **fields: Any
) -> Answer:
    fake.script = writer
    options = {"include_usage": True}
    async with stack.client() as client:
        return await stack.stream_text(client, model, stream_options=options, **fields)


CASES = [
    pytest.param(CLAUDE, Writer(claude), id="claude"),
    pytest.param(MISTRAL, Writer(mistral, repeats=True), id="mistral, which repeats"),
]


@pytest.mark.parametrize(("model", "writer"), CASES)
async def test_a_cut_answer_goes_on_where_it_was_cut(
    stack: Stack, fake: FakeProvider, model: str, writer: Writer
) -> None:
    before = (await stack.ledger()).total()
    answer = await ask(stack, fake, writer, model, resume="prefill", max_tokens=100)
    assert (answer.text, answer.finish, answer.done) == (WHOLE, "stop", True)
    assert len(writer.asked) == 2
    assert "".join(PIECES[:3]).rstrip() in json.dumps(writer.asked[1])
    assert answer.usage is not None
    shown = -(-len("".join(PIECES[:3])) // 4)
    assert answer.usage["prompt_tokens"] == 40 - shown
    assert answer.usage["completion_tokens"] == 4 + shown

    async def charged() -> bool:
        total = (await stack.ledger()).total()
        attempts = total.attempts - before.attempts
        return (total.charges - before.charges, attempts) == (1, 2)

    await until(charged, "one charge for two attempts")


@pytest.mark.parametrize(
    ("model", "fields", "writer"),
    [
        pytest.param(CLAUDE, {}, Writer(claude), id="nobody asked for prefill"),
        pytest.param(NEW_CLAUDE, {"resume": "prefill"}, Writer(claude), id="a model without it"),
    ],
)
async def test_else_it_is_run_again_and_compared(
    stack: Stack, fake: FakeProvider, model: str, fields: dict[str, Any], writer: Writer
) -> None:
    answer = await ask(stack, fake, writer, model, **fields)
    assert (answer.text, answer.finish, answer.done) == (WHOLE, "stop", True)
    assert [last["role"] for last in writer.asked] == ["user", "user"]


async def test_a_provider_that_refuses_the_prefill_is_asked_anew_and_nobody_sees_it(
    stack: Stack, fake: FakeProvider
) -> None:
    writer = Writer(claude, refuses=True)
    answer = await ask(stack, fake, writer, CLAUDE, resume="prefill")
    assert (answer.text, answer.error, answer.done) == (WHOLE, None, True)
    assert [last["role"] for last in writer.asked] == ["user", "assistant", "user"]
