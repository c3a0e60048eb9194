"""Completions through the whole system: native in several forms, and through chat."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import openai
import pytest
from openai import AsyncOpenAI

from broker.v1 import event_pb2, generation_pb2, operations_pb2
from tests.system import rpc
from tests.system.provider import FakeProvider, Received, Said, fake_provider
from tests.system.shared import shared_stack
from tests.system.stack import KEY, Stack

# Provider -> where its API begins.
PROVIDERS = {
    "openai": "/v1",
    "together_ai": "/v1",
    "mistral": "/v1",
    "deepseek": "",
    "groq": "/openai/v1",
    "anthropic": "",
}
INSTRUCT = "openai/gpt-3.5-turbo-instruct"
SSE = {"content-type": "text/event-stream"}
LOGPROBS: dict[str, list[Any]] = {
    "tokens": ["Once", " upon"],
    "token_logprobs": [-0.5, -0.25],
    "top_logprobs": [{"Once": -0.5, "The": -2.0}, {" upon": -0.25}],
    "text_offset": [3, 7],
}


def usage(prompts: int, choices: int) -> dict[str, int]:
    return {
        "prompt_tokens": 4 * prompts,
        "completion_tokens": 2 * choices,
        "total_tokens": 4 * prompts + 2 * choices,
    }


def completed(call: Received) -> Said:
    """Text completions as OpenAI writes them: the text tells the prompt."""
    asked = call.json
    given = asked["prompt"]
    prompts = given if isinstance(given, list) and not isinstance(given[0], int) else [given]
    choices = [
        {
            "text": f"{prompt if asked.get('echo') else ''}<{prompt}|{copy}>",
            "index": number * asked.get("n", 1) + copy,
            "logprobs": LOGPROBS if asked.get("logprobs") else None,
            "finish_reason": "length",
        }
        for number, prompt in enumerate(prompts)
        for copy in range(asked.get("n", 1))
    ]
    kind = "text.completion" if call.provider == "together_ai" else "text_completion"
    head = {"id": "cmpl-up", "object": kind, "created": 7, "model": f"{asked['model']}-001"}
    total = usage(len(prompts), len(choices))
    if not asked.get("stream"):
        return Said(body={**head, "choices": choices, "usage": total})
    chunks: list[dict[str, Any]] = []
    for choice in reversed(choices):
        text = choice["text"]
        for piece, end in ((text[:2], None), (text[2:], "length")):
            chunks.append({**head, "choices": [{**choice, "text": piece, "finish_reason": end}]})
    chunks.append({**head, "choices": [], "usage": total})
    return events(*chunks)


def events(*chunks: dict[str, Any]) -> Said:
    lines = b"".join(b"data: %b\n\n" % json.dumps(chunk).encode() for chunk in chunks)
    return Said(body=lines + b"data: [DONE]\n\n", headers=SSE)


def said_in_chat(call: Received) -> Said:
    """A chat answer that tells its prompt."""
    asked = call.json
    text = f"<{asked['messages'][-1]['content']}>"
    head = {"id": "c", "created": 7, "model": "m-1"}
    total = usage(1, 1)
    if asked.get("stream"):
        chunks = [
            {**head, "choices": [{"index": 0, "delta": delta, "finish_reason": end}]}
            for delta, end in (({"role": "assistant", "content": text}, None), ({}, "stop"))
        ]
        return events(*chunks, {**head, "choices": [], "usage": total})
    choices = [
        {
            "index": index,
            "message": {"role": "assistant", "content": text},
            "logprobs": _chat_logprobs(asked),
            "finish_reason": "stop",
        }
        for index in range(asked.get("n", 1))
    ]
    return Said(body={**head, "choices": choices, "usage": total})


def _chat_logprobs(asked: dict[str, Any]) -> Any:
    if not asked.get("logprobs"):
        return None
    one = {"token": "<", "logprob": -0.5, "bytes": [60]}
    return {"content": [{**one, "top_logprobs": [one] * asked.get("top_logprobs", 0)}]}


def answer(call: Received) -> Said:
    if call.path.endswith("/chat/completions") or call.path.endswith("/fim/completions"):
        if "fim" in call.path:
            asked = call.json
            body = json.dumps({**asked, "messages": [{"content": asked["prompt"]}]}).encode()
            return said_in_chat(Received(call.provider, call.path, call.headers, body))
        return said_in_chat(call)
    if call.provider == "anthropic":
        text = f"<{call.json['messages'][-1]['content'][0]['text']}>"
        return Said(
            body={
                "id": "msg_1",
                "type": "message",
                "role": "assistant",
                "model": "claude-1",
                "content": [{"type": "text", "text": text}],
                "stop_reason": "end_turn",
                "stop_sequence": None,
                "usage": {"input_tokens": 4, "output_tokens": 2},
            }
        )
    return completed(call)


@pytest.fixture(scope="module")
async def fake() -> AsyncIterator[FakeProvider]:
    async with fake_provider(answer) as made:
        yield made


@pytest.fixture(scope="module")
async def stack(
    tmp_path_factory: pytest.TempPathFactory, fake: FakeProvider
) -> AsyncIterator[Stack]:
    providers = {
        name: {"base_url": fake.url(name) + path, "api_key": "k"}
        for name, path in PROVIDERS.items()
    }
    async with shared_stack(
        tmp_path_factory, providers=providers, serves=("sim", *PROVIDERS)
    ) as stack:
        yield stack


@pytest.fixture(autouse=True)
def script(fake: FakeProvider) -> Iterator[None]:
    fake.take()
    yield
    fake.script = answer


@pytest.fixture
async def sdk(stack: Stack) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(
        api_key=KEY, base_url=f"{stack.url()}/v1", max_retries=0, timeout=30
    ) as client:
        yield client


async def post(stack: Stack, body: dict[str, Any]) -> httpx.Response:
    async with stack.client() as client:
        return await client.post("/v1/completions", json={"prompt": "hi", **body})


async def texts(sdk: AsyncOpenAI, *, stream: bool, **fields: Any) -> dict[int, str]:
    """The text of every choice, however it came."""
    if not stream:
        whole = await sdk.completions.create(**fields)
        assert [choice.index for choice in whole.choices] == list(range(len(whole.choices)))
        assert all(choice.finish_reason for choice in whole.choices)
        assert whole.object == "text_completion"
        assert whole.id.startswith("cmpl-")
        return {choice.index: choice.text for choice in whole.choices}
    found: dict[int, str] = {}
    ended: list[int] = []
    ids = set()
    async for chunk in await sdk.completions.create(stream=True, **fields):
        assert chunk.object == "text_completion"
        ids.add(chunk.id)
        for choice in chunk.choices:
            assert choice.index not in ended
            found[choice.index] = found.get(choice.index, "") + choice.text
            if choice.finish_reason:
                ended.append(choice.index)
    assert len(ids) == 1
    assert sorted(ended) == sorted(found)
    return found


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("model", "calls"),
    [
        (INSTRUCT, 1),
        ("together_ai/meta-llama/Meta-Llama-3.1-8B", 2),
        ("deepseek/deepseek-v4-pro", 4),
        ("mistral/codestral-latest", 4),
        ("groq/openai/gpt-oss-20b", 4),
    ],
)
async def test_every_prompt_gets_its_choices_in_order(
    sdk: AsyncOpenAI, fake: FakeProvider, model: str, calls: int, stream: bool
) -> None:
    found = await texts(sdk, stream=stream, model=model, prompt=["a", "b"], n=2)
    first = [text.strip("<>").partition("|")[0] for _, text in sorted(found.items())]
    assert first == ["a", "a", "b", "b"]
    assert len(fake.take()) == calls


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "model", [INSTRUCT, "groq/openai/gpt-oss-20b", "mistral/codestral-latest", "sim/echo"]
)
async def test_an_echo_stands_before_every_choice(
    sdk: AsyncOpenAI, model: str, stream: bool
) -> None:
    found = await texts(sdk, stream=stream, model=model, prompt=["ab", "cd"], echo=True)
    assert [found[0][:2], found[1][:2]] == ["ab", "cd"]
    assert len(found[0]) > 2
    assert len(found) == 2


async def test_fields_go_out_as_the_provider_knows_them(stack: Stack, fake: FakeProvider) -> None:
    fields = {
        "suffix": "end",
        "temperature": 0.5,
        "seed": 3,
        "stop": "x",
        "user": "u",
        "logit_bias": {"50256": -100},
        "best_of": 3,
        "n": 2,
        "echo": True,
        "logprobs": 2,
        "max_tokens": 0,
        "new_field": {"a": 1},
    }
    answered = await post(stack, {"model": INSTRUCT, **fields})
    assert answered.status_code == 200, answered.text
    assert "x-dropped-params" not in answered.headers
    [call] = fake.take()
    stop = {"stop": ["x"]}
    assert call.json == {"model": "gpt-3.5-turbo-instruct", "prompt": "hi", **fields, **stop}
    assert call.path == "/v1/completions"


@pytest.mark.parametrize(
    ("model", "path", "sent"),
    [
        (INSTRUCT, "/v1/completions", {"prompt": "hi", "max_tokens": 16}),
        ("deepseek/m", "/beta/completions", {"prompt": "hi", "max_tokens": 16, "suffix": "end"}),
        (
            "mistral/codestral-latest",
            "/v1/fim/completions",
            {"prompt": "hi", "max_tokens": 16, "suffix": "end", "random_seed": 3},
        ),
        (
            "openai/gpt-4o",
            "/v1/chat/completions",
            {"messages": [{"role": "user", "content": "hi"}], "max_completion_tokens": 16},
        ),
        (
            "anthropic/claude-opus-4-5",
            "/v1/messages",
            {
                "messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}],
                "max_tokens": 16,
            },
        ),
    ],
)
async def test_each_is_asked_in_its_own_way(
    stack: Stack, fake: FakeProvider, model: str, path: str, sent: dict[str, Any]
) -> None:
    fields = {"suffix": "end"} if "suffix" in sent else {}
    fields |= {"seed": 3} if "random_seed" in sent else {}  # type: ignore[dict-item]
    answered = await post(stack, {"model": model, **fields})
    assert answered.status_code == 200, answered.text
    assert answered.json()["choices"][0]["text"].startswith("<hi")
    [call] = fake.take()
    assert call.path == path
    assert call.json == {"model": model.partition("/")[2], **sent}


@pytest.mark.parametrize("stream", [False, True])
async def test_log_probabilities_come_as_they_were_sent(stack: Stack, stream: bool) -> None:
    answered = await post(stack, {"model": INSTRUCT, "logprobs": 2, "stream": stream})
    if not stream:
        assert answered.json()["choices"][0]["logprobs"] == LOGPROBS
        return
    chunks = [json.loads(line[6:]) for line in answered.text.split("\n\n") if "{" in line]
    assert [c["choices"][0]["logprobs"] for c in chunks] == [LOGPROBS, LOGPROBS, None]
    assert answered.text.endswith("data: [DONE]\n\n")


@pytest.mark.parametrize("stream", [False, True])
async def test_the_simulator_completes_offline(sdk: AsyncOpenAI, stream: bool) -> None:
    fields = {"prompt": ["a b", "c"], "echo": True, "logprobs": 1}
    found = await texts(sdk, stream=stream, model="sim/echo", **fields)
    assert found == {0: "a ba b", 1: "cc"}


async def test_chat_has_log_probabilities_too(stack: Stack, fake: FakeProvider) -> None:
    answered = await post(stack, {"model": "openai/gpt-4o", "logprobs": 1})
    assert answered.json()["choices"][0]["logprobs"] == {
        "tokens": ["<"],
        "token_logprobs": [-0.5],
        "top_logprobs": [{"<": -0.5}],
        "text_offset": [0],
    }
    [call] = fake.take()
    assert (call.json["logprobs"], call.json["top_logprobs"]) == (True, 1)


async def test_usage_is_the_sum_of_all_calls_and_streamed_when_asked_for(
    stack: Stack, sdk: AsyncOpenAI
) -> None:
    whole = await sdk.completions.create(model="groq/m", prompt=["a", "b", "c"])
    assert whole.usage
    assert (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (12, 6)
    for model, wanted in ((INSTRUCT, (8, 4)), ("groq/m", (8, 4))):
        options = {"include_usage": True}
        body = {"model": model, "prompt": ["a", "b"], "stream": True, "stream_options": options}
        text = (await post(stack, body)).text
        *_, last, done = [line for line in text.split("\n\n") if line]
        assert done == "data: [DONE]"
        chunk = json.loads(last[6:])
        assert chunk["choices"] == []
        shown = chunk["usage"]
        assert (shown["prompt_tokens"], shown["completion_tokens"]) == wanted


@pytest.mark.parametrize("prompt", [[1, 2], [[1, 2], [3]]])
async def test_tokens_go_out_as_tokens(stack: Stack, fake: FakeProvider, prompt: Any) -> None:
    answered = await post(stack, {"model": INSTRUCT, "prompt": prompt})
    assert answered.status_code == 200, answered.text
    assert fake.take()[0].json["prompt"] == prompt


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({"model": "groq/m", "suffix": "x"}, "suffix", "unsupported_parameter"),
        ({"model": "groq/m", "best_of": 2}, "best_of", "unsupported_parameter"),
        ({"model": "groq/m", "prompt": [1]}, "prompt", "unsupported_parameter"),
        ({"model": "mistral/codestral", "prompt": [1]}, "prompt", "unsupported_parameter"),
        ({"model": "groq/m", "echo": True, "logprobs": 1}, "logprobs", "unsupported_parameter"),
        ({"model": "groq/m", "prompt": ["a"] * 65, "n": 2}, "n", None),
        ({"model": "sim/sim", "prompt": []}, "prompt", "empty_array"),
        ({"model": "sim/sim", "prompt": None}, "prompt", "missing_required_parameter"),
        ({"model": "sim/sim", "logprobs": 6}, "logprobs", "integer_above_max_value"),
    ],
)
async def test_what_cannot_be_done_is_refused_with_the_field(
    stack: Stack, fake: FakeProvider, body: dict[str, Any], param: str, code: str | None
) -> None:
    answered = await post(stack, body)
    error = answered.json()["error"]
    assert (answered.status_code, error["param"], error["code"]) == (400, param, code)
    assert not fake.take()


async def test_what_is_left_out_is_told(stack: Stack) -> None:
    answered = await post(stack, {"model": "mistral/codestral", "user": "u", "logprobs": 1})
    assert answered.headers["x-dropped-params"] == "logprobs, user"


# --- what goes wrong ---


async def test_an_upstream_error_keeps_its_status(sdk: AsyncOpenAI, fake: FakeProvider) -> None:
    said = {"message": "no such model", "type": "invalid_request_error", "code": "model_not_found"}
    fake.script = lambda _: Said(404, {"error": said})
    with pytest.raises(openai.NotFoundError):
        await sdk.completions.create(model=INSTRUCT, prompt="hi")


@pytest.mark.parametrize("part", ["cut", "error"])
@pytest.mark.parametrize("stream", [False, True])
async def test_half_an_answer_is_an_error_and_never_done(
    stack: Stack, fake: FakeProvider, part: str, stream: bool
) -> None:
    def half(call: Received) -> Said:
        whole = completed(call).body
        data = whole if isinstance(whole, bytes) else json.dumps(whole).encode()
        if part == "cut":
            return Said(body=data[: len(data) // 4], headers=SSE if stream else {}, cut=True)
        failed = b'{"error": {"message": "it broke", "type": "server_error"}}'
        first = data.split(b"\n\n")[0] + b"\n\ndata: " if stream else b""
        return Said(body=first + failed + b"\n\n", headers=SSE if stream else {})

    fake.script = half
    answered = await post(stack, {"model": INSTRUCT, "stream": stream})
    assert "[DONE]" not in answered.text
    if answered.status_code == 200:
        assert '"error"' in answered.text
    else:
        assert answered.status_code == 502


async def test_a_stream_that_breaks_ends_with_an_error(stack: Stack) -> None:
    model = "sim/fault=cut,vary,tokens=12,after=4,delay_ms=40"
    answered = await post(stack, {"model": model, "stream": True, "max_tokens": 50})
    assert answered.status_code == 200
    assert '"error"' in answered.text.split("\n\n")[-2]
    assert "[DONE]" not in answered.text


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_closes_all_upstream_calls(stack: Stack, stream: bool) -> None:
    body = {"model": "sim/fault=hang", "prompt": ["a", "b", "c"], "stream": stream}
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.7):
            await post(stack, body)
    await stack.quiet(timeout_s=5)


# --- gRPC ---


@pytest.mark.parametrize("model", [INSTRUCT, "groq/m"])
async def test_typed_completions_have_the_same_choices(stack: Stack, model: str) -> None:
    complete = operations_pb2.CompleteRequest(model=model, prompts=["a", "b"], echo=True)
    request = generation_pb2.Request(complete=complete)
    async with rpc.connected(stack) as client:
        answer = (await client.infer(request)).answer
        events = await client.events(request)
    said = ["".join(part.text.text for part in c.message.parts) for c in answer.choices]
    assert [text[:2] for text in said] == ["a<", "b<"]
    assert answer.choices[0].finish_reason in (
        event_pb2.FINISH_REASON_LENGTH,
        event_pb2.FINISH_REASON_STOP,
    )
    shown = ["", ""]
    for event in events:
        if event.HasField("text"):
            shown[event.text.choice] += event.text.text
    assert shown == said
    assert events[-1].HasField("completed")


async def test_typed_mistakes_are_refused(stack: Stack) -> None:
    complete = operations_pb2.CompleteRequest(model=INSTRUCT, prompts=["a"], logprobs=9)
    async with rpc.connected(stack) as client:
        failed = await rpc.failure(client.infer(generation_pb2.Request(complete=complete)))
    assert (failed.code, failed.fields) == ("INVALID_ARGUMENT", ["logprobs"])
