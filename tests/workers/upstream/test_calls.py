"""What is sent, and what comes back when nothing goes wrong."""

from __future__ import annotations

import asyncio
import gzip
import zlib

import httpx
import pytest

from broker.errors import InferenceError
from tests.workers.upstream.peer import Connect, Connection, Fetch, Post, Serve


async def ok(conn: Connection) -> None:
    while True:
        await conn.request()
        await conn.answer()


async def test_a_request_carries_the_providers_headers_the_key_and_the_body(
    serve: Serve, connect: Connect, fetch: Fetch
) -> None:
    peer = await serve(ok)
    upstream = connect(f"{peer.url}/", headers={"X-Beta": "tools"})
    assert await fetch(upstream, b'{"a":1}', key="sk-1", extra={"X-Trace": "t 1"}) == b"ok"
    [request] = peer.requests
    assert request.line == "POST /v1/chat HTTP/1.1"
    assert request.body == b'{"a":1}'
    assert request.headers.pop("user-agent").startswith("millrace/")
    assert request.headers.pop("accept") == "*/*"
    assert request.headers == {
        "host": f"127.0.0.1:{peer.port}",
        "content-type": "application/json",
        "content-length": "7",
        "accept-encoding": "identity",
        "authorization": "Bearer sk-1",
        "x-beta": "tools",
        "x-trace": "t 1",
    }


async def test_the_key_goes_where_the_provider_wants_it_whatever_a_caller_puts_there(
    serve: Serve, connect: Connect, fetch: Fetch
) -> None:
    peer = await serve(ok)
    upstream = connect(peer.url, auth_header="X-Api-Key", auth_prefix="")
    await fetch(upstream, key="a", extra={"x-API-key": "mine"})
    assert peer.requests[0].headers["x-api-key"] == "a"
    assert "authorization" not in peer.requests[0].headers


async def test_without_a_key_no_credential_is_sent(
    serve: Serve, connect: Connect, fetch: Fetch
) -> None:
    peer = await serve(ok)
    await fetch(connect(peer.url))
    assert "authorization" not in peer.requests[0].headers


@pytest.mark.parametrize(
    "name",
    [
        "Host",
        "Content-Length",
        "Transfer-Encoding",
        "Connection",
        "Accept-Encoding",
        "Authorization",
        "Cookie",
        "Forwarded",
        "Proxy-Authorization",
        "TE",
        "X-Forwarded-For",
        "X-Millrace-Route",
        "X-Provider-Key",
        "X-Request-Id",
        "X-Stainless-Lang",
    ],
)
async def test_framing_credentials_and_what_concerns_us_alone_are_not_for_a_caller_to_set(
    serve: Serve, connect: Connect, fetch: Fetch, name: str
) -> None:
    peer = await serve(ok)
    await fetch(connect(peer.url), b"{}", key="sk-1", extra={name: "7"})
    assert peer.requests[0].headers.get(name.lower()) != "7"
    assert peer.requests[0].body == b"{}"


@pytest.mark.parametrize(
    ("name", "value"),
    [("x-a", "1\r\nx-b: 2"), ("x-a", "Ω"), ("x-a", "\x7f"), ("x a", "1"), ("x-a:", "1"), ("", "1")],
)
async def test_a_header_that_could_end_its_line_is_refused(
    serve: Serve, connect: Connect, post: Post, name: str, value: str
) -> None:
    peer = await serve(ok)
    upstream = connect(peer.url)
    with pytest.raises(InferenceError) as caught:
        await post(upstream, extra={name: value})
    assert (caught.value.reason, caught.value.param) == ("invalid_request", f"extra_headers.{name}")
    assert upstream.calls == 0


async def test_a_header_is_sent_in_latin_1(serve: Serve, connect: Connect, fetch: Fetch) -> None:
    peer = await serve(ok)
    await fetch(connect(peer.url), extra={"X-A": "käse\t1"})
    assert peer.requests[0].headers["x-a"] == "käse\t1"


async def test_headers_of_the_dialect_and_of_the_operator_win_over_a_callers(
    serve: Serve, connect: Connect, fetch: Fetch
) -> None:
    peer = await serve(ok)
    upstream = connect(peer.url, headers={"Acme-Version": "2"})
    theirs = {"content-TYPE": "text/plain", "ACME-version": "1", "accept": "text/html"}
    await fetch(upstream, extra=theirs)
    sent = peer.requests[0].headers
    assert (sent["content-type"], sent["acme-version"], sent["accept"]) == (
        "application/json",
        "2",
        "*/*",
    )


async def test_a_key_with_a_line_break_is_refused_and_not_repeated(
    serve: Serve, connect: Connect, post: Post
) -> None:
    peer = await serve(ok)
    upstream = connect(peer.url)
    with pytest.raises(InferenceError) as caught:
        await post(upstream, key="sk\r\nx: y")
    assert (caught.value.reason, upstream.calls) == ("upstream_credentials", 0)
    assert "sk" not in caught.value.message


async def test_status_and_headers_are_there_before_the_body(
    serve: Serve, connect: Connect, post: Post
) -> None:
    async def script(conn: Connection) -> None:
        await conn.request()
        await conn.send(b"HTTP/1.1 429 Slow\r\nRetry-After: 2\r\nX-A: 1\r\nx-a: 2\r\n")
        await conn.send(b"content-length: 4\r\n\r\n")
        await go.wait()
        await conn.send(b"body")

    go = asyncio.Event()
    peer = await serve(script)
    reply = await post(connect(peer.url))
    assert reply.status == 429
    assert reply.headers == {"retry-after": "2", "x-a": "1, 2", "content-length": "4"}
    go.set()
    assert await reply.read() == b"body"
    await reply.aclose()


async def test_chunks_come_as_they_are_sent_and_what_waited_comes_as_one(
    serve: Serve, connect: Connect, post: Post
) -> None:
    async def script(conn: Connection) -> None:
        await conn.request()
        await conn.start()
        for word in (b"one", b"two"):
            await conn.chunk(word)
            await taken.wait()
            taken.clear()
        for word in (b"three", b"four", b"five"):
            await conn.chunk(word)
        await conn.send(b"0\r\n\r\n")
        sent.set()
        await conn.request()

    taken, sent = asyncio.Event(), asyncio.Event()
    reply = await post(connect((await serve(script)).url))
    assert await anext(reply) == b"one"
    taken.set()
    assert await anext(reply) == b"two"
    taken.set()
    await sent.wait()
    await asyncio.sleep(0.05)  # past the peer's writes; a chunk apart would only be slower
    assert await anext(reply) == b"threefourfive"
    assert [chunk async for chunk in reply] == []
    await reply.aclose()


@pytest.mark.parametrize(
    "wire",
    [
        pytest.param(b"HTTP/1.1 204 No Content\r\n\r\n", id="204"),
        pytest.param(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", id="length 0"),
        pytest.param(
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n"
            b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
            id="interim answers",
        ),
    ],
)
async def test_an_answer_without_a_body_is_whole(
    serve: Serve, connect: Connect, fetch: Fetch, wire: bytes
) -> None:
    async def script(conn: Connection) -> None:
        while True:
            await conn.request()
            await conn.send(wire)

    peer = await serve(script)
    upstream = connect(peer.url)
    assert await fetch(upstream) == b""
    assert await fetch(upstream) == b""
    assert len(peer.connections) == 1


async def test_a_body_without_a_length_ends_with_its_connection(
    serve: Serve, connect: Connect, fetch: Fetch
) -> None:
    async def script(conn: Connection) -> None:
        await conn.request()
        await conn.send(b"HTTP/1.0 200 OK\r\n\r\nall of ")
        await conn.send(b"it")

    peer = await serve(script)
    upstream = connect(peer.url)
    assert [await fetch(upstream) for _ in range(2)] == [b"all of it"] * 2
    assert len(peer.connections) == 2


async def test_a_body_of_20_mb_arrives_whole(serve: Serve, connect: Connect, fetch: Fetch) -> None:
    body = bytes(range(256)) * (20 << 12)
    peer = await serve(ok)
    assert await fetch(connect(peer.url), body) == b"ok"
    assert peer.requests[0].body == body


async def test_an_answer_that_comes_before_the_request_was_read_is_heard(
    serve: Serve, connect: Connect, fetch: Fetch
) -> None:
    async def script(conn: Connection) -> None:
        await conn.head()
        await conn.answer(b"too large")
        await conn.gone()

    peer = await serve(script)
    assert await fetch(connect(peer.url), b"x" * (20 << 20)) == b"too large"
    # The rest of the body is not sent, and the connection is not used again.
    await peer.until(lambda: peer.connections[0].gone_at)


@pytest.mark.parametrize(
    ("encoding", "packed"),
    [
        ("gzip", gzip.compress(b"tokens " * 9999)),
        ("deflate", zlib.compress(b"tokens " * 9999)),
        ("identity", b"tokens " * 9999),
    ],
)
async def test_a_provider_that_compresses_unasked_is_understood(
    serve: Serve, connect: Connect, post: Post, encoding: str, packed: bytes
) -> None:
    async def script(conn: Connection) -> None:
        await conn.request()
        await conn.answer(packed, f"content-encoding: {encoding}")
        await conn.request()

    reply = await post(connect((await serve(script)).url))
    assert await reply.read() == b"tokens " * 9999
    await reply.aclose()


@pytest.mark.parametrize("encoding", ["br", "zstd", "compress", "gzip"])
async def test_a_compression_that_cannot_be_read_is_an_error_not_garbage(
    serve: Serve, connect: Connect, fetch: Fetch, encoding: str
) -> None:
    async def script(conn: Connection) -> None:
        await conn.request()
        await conn.answer(b"\x8b\x02\x80garbage", f"content-encoding: {encoding}")
        await conn.request()

    with pytest.raises(InferenceError) as caught:
        await fetch(connect((await serve(script)).url))
    assert caught.value.reason in {"upstream_error", "upstream_incomplete"}


async def test_a_redirect_is_an_error_and_not_followed(
    serve: Serve, connect: Connect, post: Post
) -> None:
    async def script(conn: Connection) -> None:
        await conn.request()
        await conn.send(b"HTTP/1.1 307 T\r\nlocation: /other?a=b\r\ncontent-length: 0\r\n\r\n")
        await conn.request()

    peer = await serve(script)
    with pytest.raises(InferenceError) as caught:
        await post(connect(peer.url))
    assert (caught.value.reason, caught.value.upstream_status) == ("upstream_error", 307)
    assert "/other;" in caught.value.message
    assert len(peer.requests) == 1


async def test_cookies_are_not_kept(serve: Serve, connect: Connect, fetch: Fetch) -> None:
    async def script(conn: Connection) -> None:
        while True:
            await conn.request()
            await conn.answer(b"ok", "set-cookie: a=b; path=/")

    peer = await serve(script)
    # By name: cookies of plain addresses are ignored by most clients anyway.
    upstream = connect(peer.url.replace("127.0.0.1", "localhost"))
    await fetch(upstream)
    await fetch(upstream)
    assert "cookie" not in peer.requests[1].headers


async def test_a_body_above_the_limit_is_an_error_or_cut_and_read_no_further(
    serve: Serve, connect: Connect, post: Post
) -> None:
    async def script(conn: Connection) -> None:
        await conn.request()
        await conn.start("x-request-id: req_7")
        with_end = asyncio.ensure_future(conn.gone())
        while not with_end.done():
            await conn.chunk(b"x" * 1000)
            await asyncio.sleep(0)

    peer = await serve(script)
    upstream = connect(peer.url)
    reply = await post(upstream)
    with pytest.raises(InferenceError, match="larger than 5000 bytes") as caught:
        await reply.read(5000)
    assert (caught.value.reason, caught.value.upstream_request_id) == ("upstream_error", "req_7")
    await peer.until(lambda: peer.connections[0].gone_at)
    cut = await post(upstream)
    assert await cut.read(5000, cut=True) == b"x" * 5000
    await peer.until(lambda: peer.connections[1].gone_at)


async def test_any_httpx_transport_can_take_the_place_of_the_real_one(
    connect: Connect, fetch: Fetch
) -> None:
    def handle(request: httpx.Request) -> httpx.Response:
        assert request.headers["authorization"] == "Bearer sk-1"
        return httpx.Response(200, content=b"echo " + request.read())

    transport = httpx.MockTransport(handle)
    upstream = connect("https://provider.test/v1", transport=transport)
    assert await fetch(upstream, b"body", key="sk-1") == b"echo body"


async def test_httpx_own_transport_can_take_the_place_of_the_real_one(
    serve: Serve, connect: Connect, fetch: Fetch
) -> None:
    peer = await serve(ok)
    upstream = connect(peer.url, transport=httpx.AsyncHTTPTransport())
    assert await fetch(upstream, b"body") == b"ok"
    assert peer.requests[0].body == b"body"


async def test_a_body_is_pushed_until_its_taker_has_enough_and_goes_on_from_there(
    serve: Serve, connect: Connect, post: Post
) -> None:
    async def script(conn: Connection) -> None:
        await conn.request()
        await conn.start()
        for word in (b"one", b"two", b"three"):
            await conn.chunk(word)
            await taken.wait()
            taken.clear()
        await conn.send(b"0\r\n\r\n")
        await conn.request()

    taken = asyncio.Event()
    reply = await post(connect((await serve(script)).url))
    got: list[bytes] = []

    def take(chunk: bytes) -> bool:
        got.append(chunk)
        taken.set()
        return chunk != b"two"

    before = (await reply.push(take), reply.ended)
    await asyncio.sleep(0.05)  # what comes meanwhile waits
    assert (got, before) == ([b"one", b"two"], (False, False))
    after = (await reply.push(take), reply.ended)
    assert (got, after) == ([b"one", b"two", b"three"], (True, True))
    await reply.aclose()


async def test_a_taker_that_fails_fails_who_pushes(
    serve: Serve, connect: Connect, post: Post
) -> None:
    async def script(conn: Connection) -> None:
        await conn.request()
        await conn.start()
        await go.wait()
        await conn.chunk(b"one")
        await conn.gone()

    def take(chunk: bytes) -> bool:
        raise InferenceError("upstream_error", "not what it should be")

    go = asyncio.Event()
    peer = await serve(script)
    reply = await post(connect(peer.url))
    pushing = asyncio.create_task(reply.push(take))
    await asyncio.sleep(0.02)
    go.set()
    with pytest.raises(InferenceError, match="not what it should be"):
        await pushing
    await reply.aclose()
    await peer.until(lambda: peer.connections[0].gone_at)


async def test_what_a_taker_fails_with_is_not_told_to_the_next_request_of_the_connection(
    serve: Serve, connect: Connect, post: Post
) -> None:
    async def script(conn: Connection) -> None:
        for _ in range(2):
            await conn.request()
            await conn.start()
            await go.wait()
            await conn.send(b"3\r\none\r\n0\r\n\r\n")

    def fail(chunk: bytes) -> bool:
        pushing.cancel()
        raise InferenceError("upstream_error", "not what it should be")

    go = asyncio.Event()
    peer = await serve(script)
    upstream = connect(peer.url)
    reply = await post(upstream)
    pushing = asyncio.create_task(reply.push(fail))
    await asyncio.sleep(0.02)
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await pushing
    await reply.aclose()
    go.clear()
    reply = await post(upstream)
    got: list[bytes] = []

    def take(chunk: bytes) -> bool:
        got.append(chunk)
        return True

    go.set()
    assert await reply.push(take)
    assert (got, len(peer.connections)) == ([b"one"], 1)
    await reply.aclose()


async def test_a_pushed_body_that_is_cut_gives_what_came_and_then_an_error(
    serve: Serve, connect: Connect, post: Post
) -> None:
    async def script(conn: Connection) -> None:
        await conn.request()
        await conn.start()
        await conn.chunk(b"one")

    reply = await post(connect((await serve(script)).url))
    got: list[bytes] = []

    def take(chunk: bytes) -> bool:
        got.append(chunk)
        return True

    with pytest.raises(InferenceError) as caught:
        await reply.push(take)
    assert (got, caught.value.reason, caught.value.phase) == (
        [b"one"],
        "upstream_incomplete",
        "content",
    )
    await reply.aclose()


@pytest.mark.parametrize("cls", [httpx.MockTransport, None])
async def test_any_transports_body_can_be_pushed(
    serve: Serve, connect: Connect, post: Post, cls: type[httpx.MockTransport] | None
) -> None:
    own = (
        httpx.AsyncHTTPTransport() if cls is None else cls(lambda _: httpx.Response(200, text="ok"))
    )
    reply = await post(connect((await serve(ok)).url, transport=own))
    got: list[bytes] = []

    def take(chunk: bytes) -> bool:
        got.append(chunk)
        return True

    assert await reply.push(take)
    assert got == [b"ok"]
    await reply.aclose()
