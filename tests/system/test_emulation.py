"""What is done around providers that lack something, through all processes."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator

import pytest

from tests.system.stack import MakeStack, Stack, until
from tests.workers.emulation.test_fetch import PNG, Site
from tests.workers.emulation.upstream import Chat

FORM = {
    "type": "json_schema",
    "json_schema": {
        "name": "place",
        "schema": {"type": "object", "required": ["city"]},
    },
}
KINDS = ("deepseek", "ollama")


@contextlib.asynccontextmanager
async def served(make_stack: MakeStack, chat: Chat) -> AsyncIterator[Stack]:
    async with chat.serve():
        rows = {kind: {"base_url": chat.url, "api_key": "k"} for kind in KINDS}
        stack = await make_stack(
            workers=1, providers=rows, extra_env={"MILLRACE_FETCH_ALLOW_PRIVATE": "true"}
        )
        for number, kind in enumerate(KINDS, 1):
            stack.start_worker(number, kind)
        await until(lambda: stack.live_workers(1 + len(KINDS)), "the workers are live")
        yield stack


async def test_several_answers_of_a_provider_that_gives_one(make_stack: MakeStack) -> None:
    async with served(make_stack, Chat(lambda _: ["Good ", "day"])) as stack:
        async with stack.client() as client:
            whole = (await stack.chat(client, "deepseek/m", n=3)).json()
            assert [choice["index"] for choice in whole["choices"]] == [0, 1, 2]
            assert {choice["message"]["content"] for choice in whole["choices"]} == {"Good day"}
            assert whole["usage"]["prompt_tokens"] == 21
            texts = {0: "", 1: "", 2: ""}
            async with stack.stream(client, "deepseek/m", n=3) as response:
                lines = [line async for line in response.aiter_lines() if line.startswith("data: ")]
        for line in lines[:-1]:
            for choice in json.loads(line[6:])["choices"]:
                texts[choice["index"]] += choice["delta"].get("content") or ""
        assert lines[-1] == "data: [DONE]"
        assert set(texts.values()) == {"Good day"}
        await stack.quiet()


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_that_is_not_the_json_asked_for_is_an_error(
    make_stack: MakeStack, stream: bool
) -> None:
    chat = Chat(lambda _: '{"town": 1}')
    async with served(make_stack, chat) as stack, stack.client() as client:
        if stream:
            answer = await stack.stream_text(client, "deepseek/m", response_format=FORM)
            assert not answer.done
            error = answer.error
        else:
            response = await stack.chat(client, "deepseek/m", response_format=FORM)
            assert response.status_code == 502
            error = response.json()["error"]
        assert error is not None
        assert (error["type"], error["code"]) == ("server_error", "invalid_answer")
        # A stream is asked for again only where none of it was shown yet.
        assert stream or len(chat.bodies) == 3


async def test_an_answer_is_asked_for_again_until_it_is_the_json(make_stack: MakeStack) -> None:
    answers = iter(['{"town": 1}', '```json\n{"city": "Rome"}\n```'])
    async with served(make_stack, Chat(lambda _: next(answers))) as stack, stack.client() as client:
        response = await stack.chat(client, "deepseek/m", response_format=FORM)
        content = response.json()["choices"][0]["message"]["content"]
        assert json.loads(content) == {"city": "Rome"}


async def test_an_image_by_its_address_reaches_a_provider_that_wants_bytes(
    make_stack: MakeStack,
) -> None:
    chat = Chat(lambda _: "a cat")
    async with Site(lambda _: PNG).serve() as site, served(make_stack, chat) as stack:
        parts = [{"type": "image_url", "image_url": {"url": f"{site.url}/cat.png"}}]
        body = {"model": "ollama/m", "messages": [{"role": "user", "content": parts}]}
        async with stack.client() as client:
            good = await client.post("/v1/chat/completions", json=body)
            assert good.json()["choices"][0]["message"]["content"] == "a cat"
            parts[0]["image_url"] = {"url": f"http://127.0.0.1:{site.port + 1}/"}
            bad = await client.post("/v1/chat/completions", json=body)
    sent = chat.bodies[0]["messages"][0]["content"][0]["image_url"]["url"]
    assert sent.startswith("data:image/png;base64,")
    assert bad.status_code == 400
    assert bad.json()["error"]["param"] == "messages[0].content[0].image_url"
    assert len(chat.bodies) == 1
