"""Every way a request over HTTP can be wrong: its status and param, never a 5xx, and no call upstream."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from tests.system.shared import shared_stack
from tests.system.stack import KEY, Stack

MB = 1 << 20
HELLO = [{"role": "user", "content": "Hello!"}]
JSON_HEADERS = {"content-type": "application/json"}


def body(**fields: Any) -> bytes:
    """A good body with these fields; None leaves one out."""
    whole = {"model": "sim/echo", "messages": HELLO, **fields}
    return json.dumps({k: v for k, v in whole.items() if v is not None}).encode()


def with_raw(name: str, value: bytes) -> bytes:
    return body()[:-1] + b', "%b": %b}' % (name.encode(), value)


def tools(count: int) -> list[dict[str, Any]]:
    return [{"type": "function", "function": {"name": f"f{n}"}} for n in range(count)]


def said(*parts: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": list(parts)}]


def nested(levels: int) -> bytes:
    return b'{"a":' * levels + b"1" + b"}" * levels


def schema(text: bytes) -> bytes:
    tool = b'[{"type": "function", "function": {"name": "f", "parameters": %b}}]'
    return with_raw("tools", tool % text)


async def pieces(size: int) -> AsyncIterator[bytes]:
    """A body whose length is not known in advance."""
    yield b'{"model": "sim/echo", "messages": [{"role": "user", "content": "'
    for _ in range(size // MB):
        yield b"x" * MB
    yield b'"}]}'


@dataclass(frozen=True)
class Row:
    name: str
    content: Any
    status: int = 400
    param: str | None = None
    code: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    method: str = "POST"
    path: str = "/v1/chat/completions"


def limit(param: str, *values: dict[str, Any]) -> list[Row]:
    """Rows for values just outside a limit."""
    return [Row(f"{param} {n}", body(**fields), param=param) for n, fields in enumerate(values)]


LIMITS = [
    *limit("temperature", {"temperature": -0.01}, {"temperature": 2.01}),
    *limit("top_p", {"top_p": -0.01}, {"top_p": 1.01}),
    *limit("presence_penalty", {"presence_penalty": -2.01}, {"presence_penalty": 2.01}),
    *limit("frequency_penalty", {"frequency_penalty": -2.01}, {"frequency_penalty": 2.01}),
    *limit("logit_bias", {"logit_bias": {"1": -100.5}}, {"logit_bias": {"1": 101}}),
    *limit("stop", {"stop": list("abcde")}),
    *limit("tools", {"tools": tools(129)}),
    *limit(
        "top_logprobs",
        {"logprobs": True, "top_logprobs": -1},
        {"logprobs": True, "top_logprobs": 21},
        {"top_logprobs": 2},
        {"logprobs": False, "top_logprobs": 2},
    ),
    *limit(
        "stream_options",
        {"stream_options": {"include_usage": True}},
        {"stream": False, "stream_options": {"include_usage": True}},
    ),
    *limit("n", {"n": 0}, {"n": -1}),
    *limit("max_tokens", {"max_tokens": 0}, {"max_tokens": -5}),
    *limit("max_completion_tokens", {"max_completion_tokens": 0}),
    *limit("messages", {"messages": []}),
    *limit("messages[0].role", {"messages": [{"role": "wizard", "content": "x"}]}),
]

SHAPES = [
    # Missing.
    Row("no model", body(model=None), param="model", code="missing_required_parameter"),
    Row("no messages", body(messages=None), param="messages", code="missing_required_parameter"),
    Row("null messages", with_raw("messages", b"null"), param="messages"),
    Row("no role", body(messages=[{"content": "x"}]), param="messages[0].role"),
    Row("no content", body(messages=[*HELLO, {"role": "user"}]), param="messages[1].content"),
    Row("no text", body(messages=said({"type": "text"})), param="messages[0].content[0].text"),
    Row("no tool name", body(tools=[{"type": "function", "function": {}}]), param="tools[0].function.name"),
    Row("no call id", body(messages=[{"role": "tool", "content": "x"}]), param="messages[0].tool_call_id"),
    Row("no body", b"", param=None),
    Row("empty object", b"{}", param="model"),
    # The wrong type.
    Row("model", body(model=5), param="model", code="invalid_type"),
    Row("messages", body(messages="Hello!"), param="messages", code="invalid_type"),
    Row("message", body(messages=["Hello!"]), param="messages[0]", code="invalid_type"),
    Row("content", body(messages=[{"role": "user", "content": 5}]), param="messages[0].content"),
    Row("part", body(messages=said("x")), param="messages[0].content[0]", code="invalid_type"),
    Row("temperature", body(temperature="hot"), param="temperature", code="invalid_type"),
    Row("n", body(n=1.5), param="n", code="invalid_type"),
    Row("stream", body(stream="yes"), param="stream", code="invalid_type"),
    Row("bias", body(logit_bias=[1]), param="logit_bias", code="invalid_type"),
    Row("schema", schema(b'"{}"'), param="tools[0].function.parameters", code="invalid_type"),
    Row("metadata", body(metadata={"a": 1}), param="metadata", code="invalid_type"),
    Row("an array", b"[]", code="invalid_type"),
    Row("a string", b'"hello"', code="invalid_type"),
    # Hardly JSON.
    Row("prose", b"hello"),
    Row("cut", body()[:-2]),
    Row("trailing comma", body()[:-1] + b",}"),
    Row("two values", body() + body()),
    Row("single quotes", body().replace(b'"', b"'")),
    Row("NaN", with_raw("temperature", b"NaN")),
    Row("bad UTF-8", body().replace(b"Hello!", b"\xff\xfe")),
    Row("half a character", body().replace(b"Hello!", b"\xe4")),
    Row("half a surrogate pair", body().replace(b"Hello!", b"\\ud800")),
    Row("bad UTF-8 in an unknown field", with_raw("x", b'"\xff"')),
    Row("UTF-16", body().decode().encode("utf-16")),
    # Nested.
    Row("1,000 deep", nested(1000)),
    Row("1,000 deep in an unknown field", with_raw("x", nested(1000))),
    Row("1,000 deep in a schema", schema(nested(1000))),
    Row("1,000 deep in arrays", with_raw("x", b"[" * 1000 + b"]" * 1000)),
    Row("500 deep in an unknown field", with_raw("x", nested(500)), param="x"),
    Row("500 deep in a schema", schema(nested(500)), param="tools[0].function.parameters"),
    Row("100,000 deep", with_raw("x", nested(100_000))),
    Row("100,000 deep and cut", b"[" * 100_000),
    # Numbers that nothing holds.
    Row("infinite temperature", with_raw("temperature", b"1e999"), param="temperature"),
    Row("infinite unknown", with_raw("x", b"1e999"), param="x"),
    Row("long seed", with_raw("seed", b"9" * 100), param="seed"),
    Row("long max_tokens", body(max_tokens=2**63), param="max_tokens"),
]  # fmt: skip

HEADERS = [
    Row("text", body(), 415, code="unsupported_media_type", headers={"content-type": "text/plain"}),
    Row("form", b"model=x", 415, headers={"content-type": "application/x-www-form-urlencoded"}),
    Row("multipart", b"--x", 415, headers={"content-type": "multipart/form-data; boundary=x"}),
    Row("gzip", gzip.compress(body()), 415, headers={"content-encoding": "gzip"}),
    Row("a header too large", body(), 431, headers={"x-a": "b" * 70_000}),
    Row("headers too many", body(), 431, headers={f"x-{n}": "b" * 100 for n in range(700)}),
    Row("33 MB", b" " * (33 * MB), 413, code="request_too_large"),
    Row("40 MB of JSON", body(messages=said({"type": "text", "text": "x" * (40 * MB)})), 413),
    Row("40 MB in pieces", 40 * MB, 413, code="request_too_large"),
    Row("no time", body(), headers={"x-millrace-timeout": "0"}),
    Row("a timeout in words", body(), headers={"x-millrace-timeout": "soon"}),
    Row("no key", body(), 401, code="invalid_api_key", headers={"authorization": ""}),
    Row("a wrong key", body(), 401, headers={"authorization": "Bearer mr-wrong"}),
    Row("a key of another kind", body(), 401, headers={"authorization": f"Basic {KEY}"}),
    Row("unknown model", body(model="nobody/knows"), 404, "model", "model_not_found"),
    Row("unknown route", body(), 404, code="not_found", path="/v1/chat/complete"),
    Row("GET", b"", 405, code="method_not_allowed", method="GET"),
    Row("PUT", body(), 405, method="PUT"),
]

ROWS = [*LIMITS, *SHAPES, *HEADERS]


@pytest.fixture(scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    async with shared_stack(tmp_path_factory) as stack:
        yield stack


@pytest.fixture(scope="module")
async def client(stack: Stack) -> AsyncIterator[httpx.AsyncClient]:
    async with stack.client() as client:
        yield client


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
async def test_a_wrong_request_is_refused_with_status_and_param(
    client: httpx.AsyncClient, row: Row
) -> None:
    content = pieces(row.content) if isinstance(row.content, int) else row.content
    headers = {**JSON_HEADERS, **row.headers}
    reply = await client.request(row.method, row.path, content=content, headers=headers)
    assert reply.status_code == row.status, reply.text[:500]
    error = reply.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["param"] == row.param
    if row.code is not None:
        assert error["code"] == row.code
    assert error["message"]
    assert len(error["message"]) < 1000
    assert reply.headers["x-request-id"].startswith("req_")
    assert reply.headers["x-should-retry"] == "false"


async def test_none_of_it_reached_the_provider(stack: Stack, client: httpx.AsyncClient) -> None:
    """Runs after the table; the last request shows that a good one would have been counted."""
    assert (await stack.sim_stats())["calls"] == 0
    await stack.quiet()
    assert await stack.queue_empty()
    reply = await client.post("/v1/chat/completions", content=body(), headers=JSON_HEADERS)
    assert reply.status_code == 200
    assert (await stack.sim_stats())["calls"] == 1
    log = stack.processes["edge"].log.read_text()
    assert "Traceback" not in log
    assert '"level":"error"' not in log


INSIDE: list[dict[str, Any]] = [
    {"temperature": 0, "top_p": 0, "presence_penalty": -2, "frequency_penalty": -2},
    {"temperature": 2, "top_p": 1, "presence_penalty": 2, "frequency_penalty": 2},
    {"logit_bias": {"1": -100, "2": 100}, "stop": list("wxyz"), "n": 1},
    {"tools": tools(128), "max_tokens": 1, "max_completion_tokens": 1},
    {"logprobs": True, "top_logprobs": 0},
    {"logprobs": True, "top_logprobs": 20},
    {"messages": [{"role": "developer", "content": "x"}, *HELLO]},
    {
        "messages": [
            {"role": "system", "content": "x"},
            *HELLO,
            {"role": "assistant", "function_call": {"name": "f", "arguments": ""}},
            {"role": "function", "name": "f", "content": "x"},
            {"role": "assistant", "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": ""}}]},
            {"role": "tool", "tool_call_id": "c", "content": "x"},
        ]
    },
    dict.fromkeys(("temperature", "n", "stop", "tools", "stream_options", "max_tokens")),
]  # fmt: skip


@pytest.mark.parametrize("fields", INSIDE)
async def test_values_at_the_limits_and_nulls_pass(
    client: httpx.AsyncClient, fields: dict[str, Any]
) -> None:
    whole = json.dumps({"model": "sim/echo", "messages": HELLO, **fields})
    reply = await client.post("/v1/chat/completions", content=whole, headers=JSON_HEADERS)
    assert reply.status_code == 200, reply.text


@pytest.mark.parametrize("accept", ["application/json", "text/plain", "image/png", "*/*", ""])
async def test_the_body_decides_on_a_stream_whatever_is_accepted(
    client: httpx.AsyncClient, accept: str
) -> None:
    for stream, expected in ((True, "text/event-stream"), (False, "application/json")):
        reply = await client.post(
            "/v1/chat/completions",
            content=body(stream=stream),
            headers={**JSON_HEADERS, "accept": accept},
        )
        assert reply.status_code == 200
        assert reply.headers["content-type"].startswith(expected)


@pytest.mark.parametrize(
    "content_type",
    ["application/json; charset=utf-8", "application/vnd.x+json", "APPLICATION/JSON"],
)
async def test_json_by_any_of_its_names_is_json(
    client: httpx.AsyncClient, content_type: str
) -> None:
    headers = {"content-type": content_type}
    reply = await client.post("/v1/chat/completions", content=body(), headers=headers)
    assert reply.status_code == 200


# What no HTTP library would send.
NOT_HTTP = [
    (b"hello\r\n\r\n", 400),
    (b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n", 400),
    (b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: x\r\n\r\n", 400),
    (b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nbad header\r\n\r\n", 400),
    (b"GET /" + b"a" * 60_000 + b" HTTP/1.1\r\nx: " + b"b" * 10_000 + b"\r\n\r\n", 431),
    (b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\nhost: x\r\n\r\n", 400),
    (
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n"
        b"content-type: application/json\r\nauthorization: Bearer " + KEY.encode() + b"\r\n\r\n"
        b"zz\r\n",
        400,
    ),
]


@pytest.mark.parametrize(("data", "status"), NOT_HTTP)
async def test_what_is_not_http_gets_an_error_of_the_same_form(
    stack: Stack, data: bytes, status: int
) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", stack.edges["edge"][0])
    try:
        writer.write(data)
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
        lines = [line for line in head.split(b"\r\n") if line.startswith(b"content-length")]
        answer = await asyncio.wait_for(reader.readexactly(int(lines[0].split(b":")[1])), 5)
    finally:
        writer.close()
        await writer.wait_closed()
    assert head.split()[1] == b"%d" % status
    assert set(json.loads(answer)["error"]) == {"message", "type", "param", "code"}
