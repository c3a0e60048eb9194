"""What breaks between here and a provider is an InferenceError that says what it was."""

from __future__ import annotations

import asyncio
import inspect
import socket

import httpx
import pytest

from broker.errors import TABLE, InferenceError
from tests.workers.upstream.peer import Connect, Connection, Fetch, Post, Serve
from workers import failures
from workers.upstream import Reply


def name_of(cls: object) -> str:
    return getattr(cls, "__name__", "")


async def broken(reply: Reply) -> tuple[bytes, InferenceError]:
    """What still comes of an answer, and how it then breaks."""
    got = b""
    with pytest.raises(InferenceError) as caught:
        async for chunk in reply:
            got += chunk
    await reply.aclose()
    return got, caught.value


async def test_a_refused_connection(connect: Connect, fetch: Fetch) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        with pytest.raises(InferenceError) as caught:
            await fetch(connect(f"http://127.0.0.1:{port}/v1"))
    error = caught.value
    assert (error.reason, error.phase, error.provider) == (
        "upstream_unreachable",
        "connect",
        "acme",
    )
    assert error.message == "acme could not be reached: Connection refused"


async def test_a_name_that_does_not_resolve(connect: Connect, fetch: Fetch) -> None:
    with pytest.raises(InferenceError) as caught:
        await fetch(connect("http://no-such-host.invalid/v1"), connect_s=5)
    assert (caught.value.reason, caught.value.phase) == ("upstream_unreachable", "connect")
    assert "no-such-host" not in caught.value.message


@pytest.mark.parametrize("url", ["ftp://provider.test/v1", "provider.test/v1", "http://"])
async def test_a_base_url_that_is_none(connect: Connect, fetch: Fetch, url: str) -> None:
    with pytest.raises(InferenceError) as caught:
        await fetch(connect(url))
    assert (caught.value.reason, caught.value.phase) == ("upstream_unreachable", "connect")
    assert caught.value.message.endswith("its base URL is no http or https URL")


@pytest.mark.parametrize("sent", [b"", b"HTTP/1.1 200 OK\r\nx-a: 1\r\n"])
async def test_a_reset_before_the_headers(
    serve: Serve, connect: Connect, fetch: Fetch, sent: bytes
) -> None:
    async def script(conn: Connection) -> None:
        await conn.request()
        await conn.send(sent)
        conn.reset()

    with pytest.raises(InferenceError) as caught:
        await fetch(connect((await serve(script)).url))
    assert (caught.value.reason, caught.value.phase) == ("upstream_error", "before_content")


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(b"SSH-2.0-OpenSSH_9.6\r\n", id="not HTTP"),
        pytest.param(b"HTTP/1.1 banana\r\n\r\n", id="no status"),
        pytest.param(b"HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n", id="no length"),
        pytest.param(b"HTTP/1.1 200 OK\r\n" + b"x-a: 1\r\n" * 300 + b"\r\n", id="300 headers"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nx-a: " + b"a" * 40_000 + b"\r\n\r\n", id="a 40 KB header"
        ),
        pytest.param(b"HTTP/1.1 200 OK\r\nx-a: " + b"a" * 9_000_000, id="a header without end"),
        pytest.param(b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\n\r\n", id="an upgrade"),
    ],
)
async def test_an_answer_that_is_no_http(
    serve: Serve, connect: Connect, fetch: Fetch, sent: bytes
) -> None:
    async def script(conn: Connection) -> None:
        await conn.request()
        await conn.send(sent)
        await conn.gone()

    with pytest.raises(InferenceError) as caught:
        await fetch(connect((await serve(script)).url), first_byte_s=2)
    assert caught.value.reason == "upstream_error"
    assert "127.0.0.1" not in caught.value.message


@pytest.mark.parametrize("how", ["closed", "reset"])
@pytest.mark.parametrize(
    ("head", "body"),
    [
        pytest.param(b"content-length: 100", b"data: 1\n\n", id="length"),
        pytest.param(b"transfer-encoding: chunked", b"9\r\ndata: 1\n\n\r\n", id="chunked"),
        pytest.param(b"transfer-encoding: chunked", b"64\r\ndata: 1\n\n", id="within a chunk"),
    ],
)
async def test_a_cut_body_gives_what_came_and_then_an_error(
    serve: Serve, connect: Connect, post: Post, *, head: bytes, body: bytes, how: str
) -> None:
    async def script(conn: Connection) -> None:
        await conn.request()
        await conn.send(b"HTTP/1.1 200 OK\r\nx-request-id: req_1\r\n" + head + b"\r\n\r\n" + body)
        await taken.wait()
        if how == "reset":
            conn.reset()

    taken = asyncio.Event()
    reply = await post(connect((await serve(script)).url))
    first = await anext(reply)
    taken.set()
    rest, error = await broken(reply)
    assert first + rest == b"data: 1\n\n"
    assert (error.reason, error.phase) == ("upstream_incomplete", "content")
    assert (error.upstream_status, error.upstream_request_id) == (200, "req_1")


async def test_what_came_together_with_the_end_of_the_connection_is_not_lost(
    serve: Serve, connect: Connect, post: Post
) -> None:
    async def script(conn: Connection) -> None:
        await conn.request()
        await conn.start()
        await conn.chunk(b"data: the last words\n\n")

    peer = await serve(script)
    reply = await post(connect(peer.url))
    await peer.until(peer.connections[0].writer.is_closing)
    await asyncio.sleep(0.05)
    got, error = await broken(reply)
    assert got == b"data: the last words\n\n"
    assert error.reason == "upstream_incomplete"


@pytest.mark.parametrize("head", [b"content-length: 100", b"transfer-encoding: chunked"])
async def test_a_body_cut_before_its_first_byte(
    serve: Serve, connect: Connect, fetch: Fetch, head: bytes
) -> None:
    async def script(conn: Connection) -> None:
        await conn.request()
        await conn.send(b"HTTP/1.1 200 OK\r\n" + head + b"\r\n\r\n")

    with pytest.raises(InferenceError) as caught:
        await fetch(connect((await serve(script)).url))
    assert (caught.value.reason, caught.value.phase) == ("upstream_incomplete", "before_content")


async def test_a_body_that_ends_with_its_connection_is_cut_by_a_reset(
    serve: Serve, connect: Connect, post: Post
) -> None:
    async def script(conn: Connection) -> None:
        await conn.request()
        await conn.send(b"HTTP/1.1 200 OK\r\n\r\nhalf of it")
        await taken.wait()
        conn.reset()

    taken = asyncio.Event()
    reply = await post(connect((await serve(script)).url))
    assert await anext(reply) == b"half of it"
    taken.set()
    assert (await broken(reply))[1].reason == "upstream_incomplete"


async def test_chunks_that_are_no_chunks_end_the_answer(
    serve: Serve, connect: Connect, post: Post
) -> None:
    async def script(conn: Connection) -> None:
        await conn.request()
        await conn.start()
        await conn.chunk(b"fine ")
        await taken.wait()
        await conn.send(b"zz\r\nnot\r\n")
        await conn.gone()

    taken = asyncio.Event()
    reply = await post(connect((await serve(script)).url), stall_s=5)
    assert await anext(reply) == b"fine "
    taken.set()
    async with asyncio.timeout(2):
        got, error = await broken(reply)
    assert (got, error.reason) == (b"", "upstream_incomplete")


async def test_a_failure_is_told_again_to_who_asks_again(
    serve: Serve, connect: Connect, post: Post
) -> None:
    async def script(conn: Connection) -> None:
        await conn.request()
        await conn.send(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nx")

    reply = await post(connect((await serve(script)).url))
    assert await anext(reply) == b"x"
    for _ in range(2):
        with pytest.raises(InferenceError):
            await anext(reply)
    await reply.aclose()


HTTPX: set[type[Exception]] = {
    cls
    for _, cls in inspect.getmembers(httpx, inspect.isclass)
    if issubclass(cls, (httpx.RequestError, httpx.InvalidURL))
}


@pytest.mark.parametrize("cls", sorted(HTTPX, key=name_of), ids=name_of)
async def test_every_exception_of_httpx_is_a_failure_of_the_table(
    connect: Connect, post: Post, cls: type[Exception]
) -> None:
    def handle(request: httpx.Request) -> httpx.Response:
        raise cls("secret.internal")

    with pytest.raises(InferenceError) as caught:
        await post(connect("https://provider.test", transport=httpx.MockTransport(handle)))
    assert caught.value.reason in TABLE
    assert caught.value.phase in {"connect", "before_content"}
    assert caught.value.__cause__.__class__ is cls
    if issubclass(cls, httpx.NetworkError | httpx.TimeoutException | httpx.InvalidURL):
        assert "secret.internal" not in caught.value.message


def test_every_reason_of_the_table_exists_and_has_a_message() -> None:
    for reasons in failures.REASONS.values():
        for reason in reasons:
            assert reason in TABLE
            assert reason in failures._MESSAGES


def test_only_the_roots_of_httpx_may_fall_to_the_last_row() -> None:
    last = {
        cls
        for cls in HTTPX
        if next(base for base in cls.__mro__ if base in failures.REASONS) is httpx.RequestError
    }
    assert last == {httpx.RequestError, httpx.TransportError}
