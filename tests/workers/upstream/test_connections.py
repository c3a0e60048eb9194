"""Connections: kept, found stale, encrypted, through a proxy."""

from __future__ import annotations

import asyncio
import contextlib
import ssl

import pytest

from broker.errors import InferenceError
from tests.workers.upstream.peer import Connect, Connection, Fetch, Post, Serve
from workers.transport import Transport
from workers.upstream import environment_proxy


async def ok(conn: Connection) -> None:
    while True:
        await conn.request()
        await conn.answer()


async def test_a_connection_is_used_again_when_the_answer_was_read(
    serve: Serve, connect: Connect, fetch: Fetch
) -> None:
    peer = await serve(ok)
    upstream = connect(peer.url)
    for _ in range(5):
        assert await fetch(upstream) == b"ok"
    assert (len(peer.connections), upstream.calls) == (1, 5)


async def test_the_connection_used_last_is_used_first_and_the_others_expire(
    serve: Serve, connect: Connect, fetch: Fetch
) -> None:
    peer = await serve(ok)
    upstream = connect(peer.url, transport=Transport(keepalive_s=0.4))
    await asyncio.gather(*(fetch(upstream) for _ in range(3)))
    first = [len(conn.requests) for conn in peer.connections]
    assert first == [1, 1, 1]
    async with asyncio.timeout(3):
        while sum(conn.reader.at_eof() for conn in peer.connections) < 2:
            await fetch(upstream)
            await asyncio.sleep(0.05)
    used = [conn for conn in peer.connections if len(conn.requests) > 1]
    assert len(used) == 1
    assert len(peer.connections) == 3


@pytest.mark.parametrize("how", ["closed", "reset"])
async def test_a_stale_connection_costs_one_more_write_and_no_error(
    serve: Serve, connect: Connect, fetch: Fetch, how: str
) -> None:
    """The server closes while the second request is on its way."""

    async def script(conn: Connection) -> None:
        await conn.request()
        await conn.answer()
        await conn.reader.readexactly(1)
        if how == "reset":
            conn.reset()

    async def later(conn: Connection) -> None:
        await (script if conn.number < 3 else ok)(conn)

    peer = await serve(later)
    upstream = connect(peer.url)
    # Three connections that will all turn out stale: the second try must not take another of them.
    await asyncio.gather(*(fetch(upstream) for _ in range(3)))
    assert upstream.calls == 3
    assert await fetch(upstream, b"again") == b"ok"
    assert upstream.calls == 5
    assert len(peer.connections) == 4
    assert peer.connections[3].requests[0].body == b"again"


async def test_a_connection_closed_between_requests_is_not_used(
    serve: Serve, connect: Connect, fetch: Fetch
) -> None:
    async def script(conn: Connection) -> None:
        await conn.request()
        await conn.answer()

    peer = await serve(script)
    upstream = connect(peer.url)
    for _ in range(3):
        assert await fetch(upstream) == b"ok"
        await asyncio.sleep(0.02)
    assert (upstream.calls, len(peer.requests)) == (3, 3)


@pytest.mark.parametrize("how", ["closed", "reset"])
@pytest.mark.parametrize("sent", [b"H", b"HTTP/1.1 200 OK\r\nx-a: 1\r\n"])
async def test_after_one_byte_of_an_answer_the_request_is_not_sent_again(
    serve: Serve, connect: Connect, fetch: Fetch, sent: bytes, how: str
) -> None:
    async def script(conn: Connection) -> None:
        await conn.request()
        await conn.answer()
        await conn.request()
        await conn.send(sent)
        await asyncio.sleep(0.05)
        if how == "reset":
            conn.reset()

    peer = await serve(script)
    upstream = connect(peer.url)
    await fetch(upstream)
    with pytest.raises(InferenceError) as caught:
        await fetch(upstream)
    assert (caught.value.reason, caught.value.phase) == ("upstream_error", "before_content")
    assert (upstream.calls, len(peer.requests)) == (2, 2)


async def test_a_new_connection_that_fails_is_not_tried_again(
    serve: Serve, connect: Connect, fetch: Fetch
) -> None:
    async def script(conn: Connection) -> None:
        await conn.request()

    peer = await serve(script)
    upstream = connect(peer.url)
    with pytest.raises(InferenceError) as caught:
        await fetch(upstream)
    assert (caught.value.reason, caught.value.phase) == ("upstream_error", "before_content")
    assert (upstream.calls, len(peer.requests)) == (1, 1)


async def test_a_request_is_sent_again_only_once(
    serve: Serve, connect: Connect, fetch: Fetch
) -> None:
    async def script(conn: Connection) -> None:
        await conn.request()
        if conn.number == 0:
            await conn.answer()
            await conn.request()

    peer = await serve(script)
    upstream = connect(peer.url)
    await fetch(upstream)
    with pytest.raises(InferenceError) as caught:
        await fetch(upstream)
    assert caught.value.reason == "upstream_error"
    assert (upstream.calls, len(peer.requests)) == (3, 3)


async def test_a_peer_that_dies_over_a_request_is_not_taken_for_a_stale_connection(
    serve: Serve, connect: Connect, fetch: Fetch
) -> None:
    async def script(conn: Connection) -> None:
        await conn.request()
        await conn.answer()
        await conn.request()
        await asyncio.sleep(1.2)  # the work it died of

    peer = await serve(script)
    upstream = connect(peer.url)
    await fetch(upstream)
    with pytest.raises(InferenceError):
        await fetch(upstream)
    assert (upstream.calls, len(peer.requests)) == (2, 2)


async def test_sending_again_does_not_extend_the_deadline(
    serve: Serve, connect: Connect, fetch: Fetch
) -> None:
    async def script(conn: Connection) -> None:
        await conn.request()
        if conn.number == 0:
            await conn.answer()
            await conn.request()
            await asyncio.sleep(0.6)
        else:
            await conn.gone()

    loop = asyncio.get_running_loop()
    upstream = connect((await serve(script)).url)
    await fetch(upstream)
    begun = loop.time()
    with pytest.raises(InferenceError) as caught:
        await fetch(upstream, deadline_s=0.8)
    assert (caught.value.reason, upstream.calls) == ("deadline", 3)
    assert loop.time() - begun < 1.2


async def test_an_answer_that_nobody_asked_for_is_not_the_next_answer(
    serve: Serve, connect: Connect, fetch: Fetch
) -> None:
    async def script(conn: Connection) -> None:
        await conn.request()
        await conn.answer()
        if conn.number == 0:
            await asyncio.sleep(0.02)
            await conn.send(b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 3\r\n\r\n408")
        await ok(conn)

    peer = await serve(script)
    upstream = connect(peer.url)
    assert await fetch(upstream) == b"ok"
    await asyncio.sleep(0.1)
    assert await fetch(upstream) == b"ok"
    assert len(peer.connections) == 2


async def test_more_bytes_than_the_answer_has_are_not_the_next_answer(
    serve: Serve, connect: Connect, fetch: Fetch
) -> None:
    async def script(conn: Connection) -> None:
        while True:
            await conn.request()
            await conn.answer(b"ok\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nwrong"[:2])
            await conn.send(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nwrong")

    upstream = connect((await serve(script)).url)
    for _ in range(5):
        assert await fetch(upstream) == b"ok"
        await asyncio.sleep(0.01)


async def test_a_self_signed_certificate_is_refused_and_told_how_to_trust(
    serve: Serve, connect: Connect, fetch: Fetch, tls: ssl.SSLContext
) -> None:
    peer = await serve(ok, tls)
    with pytest.raises(InferenceError) as caught:
        await fetch(connect(peer.url.replace("http:", "https:")))
    error = caught.value
    assert (error.reason, error.phase) == ("upstream_unreachable", "connect")
    assert "self-signed certificate" in error.message
    assert "SSL_CERT_FILE" in error.message
    assert peer.requests == []


async def test_a_certificate_that_the_environment_trusts_is_accepted(
    serve: Serve,
    connect: Connect,
    fetch: Fetch,
    trusted_tls: ssl.SSLContext,
) -> None:
    peer = await serve(ok, trusted_tls)
    upstream = connect(peer.url.replace("http:", "https:"))
    assert [await fetch(upstream, b"x" * 100_000) for _ in range(2)] == [b"ok", b"ok"]
    assert len(peer.connections) == 1


async def test_a_certificate_for_another_name_is_refused(
    serve: Serve,
    connect: Connect,
    fetch: Fetch,
    trusted_tls: ssl.SSLContext,
) -> None:
    peer = await serve(ok, trusted_tls)
    upstream = connect(peer.url.replace("http://127.0.0.1", "https://127.0.0.2"))
    with pytest.raises(InferenceError, match="could not be reached"):
        await fetch(upstream)
    assert peer.requests == []


async def test_a_peer_that_speaks_no_tls_is_named_as_such(
    serve: Serve, connect: Connect, fetch: Fetch
) -> None:
    async def script(conn: Connection) -> None:
        await conn.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await conn.gone()

    peer = await serve(script)
    with pytest.raises(InferenceError, match="TLS failed") as caught:
        await fetch(connect(peer.url.replace("http:", "https:")))
    assert caught.value.reason == "upstream_unreachable"


async def test_cancelling_closes_an_encrypted_connection_at_once(
    serve: Serve,
    connect: Connect,
    post: Post,
    trusted_tls: ssl.SSLContext,
) -> None:
    async def script(conn: Connection) -> None:
        await conn.request()
        await conn.start()
        await conn.chunk(b"token")
        await conn.gone()

    peer = await serve(script, trusted_tls)
    reply = await post(connect(peer.url.replace("http:", "https:")))
    assert await anext(reply) == b"token"
    task = asyncio.ensure_future(anext(reply))
    await asyncio.sleep(0.02)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    await reply.aclose()
    await peer.until(lambda: peer.connections[0].gone_at, within=0.5)


@pytest.fixture
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in ("http", "https", "all", "no"):
        monkeypatch.delenv(f"{name}_proxy", raising=False)
        monkeypatch.delenv(f"{name.upper()}_PROXY", raising=False)
    return monkeypatch


async def test_a_proxy_from_the_environment_carries_plain_calls(
    serve: Serve, connect: Connect, fetch: Fetch, clean_environment: pytest.MonkeyPatch
) -> None:
    proxy = await serve(ok)
    clean_environment.setenv("HTTP_PROXY", f"http://user:pass@127.0.0.1:{proxy.port}")
    upstream = connect("http://provider.test/v1")
    assert [await fetch(upstream, key="sk-1") for _ in range(2)] == [b"ok", b"ok"]
    [conn] = proxy.connections
    assert conn.requests[0].line == "POST http://provider.test/v1/chat HTTP/1.1"
    assert conn.requests[0].headers["host"] == "provider.test"
    assert conn.requests[0].headers["proxy-authorization"] == "Basic dXNlcjpwYXNz"
    assert conn.requests[0].headers["authorization"] == "Bearer sk-1"


async def test_a_proxy_from_the_environment_tunnels_encrypted_calls(
    serve: Serve,
    connect: Connect,
    fetch: Fetch,
    trusted_tls: ssl.SSLContext,
    clean_environment: pytest.MonkeyPatch,
) -> None:
    async def tunnel(conn: Connection) -> None:
        heads.append(await conn.head())
        reader, writer = await asyncio.open_connection("127.0.0.1", peer.port)
        await conn.send(b"HTTP/1.1 200 Connection established\r\n\r\n")

        async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            while data := await source.read(65536):
                sink.write(data)
            sink.close()

        await asyncio.gather(pump(conn.reader, writer), pump(reader, conn.writer))

    heads: list[bytes] = []
    peer, proxy = await serve(ok, trusted_tls), await serve(tunnel)
    clean_environment.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy.port}")
    upstream = connect("https://provider.test/v1")
    assert [await fetch(upstream, key="sk-1") for _ in range(2)] == [b"ok", b"ok"]
    assert heads[0].startswith(b"CONNECT provider.test:443 HTTP/1.1\r\n")
    assert b"sk-1" not in heads[0]
    assert (len(heads), len(peer.connections)) == (1, 1)
    assert peer.requests[0].headers["authorization"] == "Bearer sk-1"


async def test_a_proxy_that_refuses_makes_the_provider_unreachable(
    serve: Serve, connect: Connect, fetch: Fetch, clean_environment: pytest.MonkeyPatch
) -> None:
    async def refuse(conn: Connection) -> None:
        await conn.head()
        await conn.send(b"HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n")
        await conn.gone()

    proxy = await serve(refuse)
    clean_environment.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy.port}")
    with pytest.raises(InferenceError, match="Proxy Authentication Required") as caught:
        await fetch(connect("https://provider.test/v1"))
    assert (caught.value.reason, caught.value.phase) == ("upstream_unreachable", "connect")


@pytest.mark.parametrize(
    ("environment", "url", "proxy"),
    [
        ({}, "https://a.test/v1", None),
        ({"HTTPS_PROXY": "http://p:1"}, "https://a.test/v1", "http://p:1"),
        ({"HTTPS_PROXY": "http://p:1"}, "http://a.test/v1", None),
        ({"https_proxy": "p:1"}, "https://a.test/v1", "http://p:1"),
        ({"ALL_PROXY": "http://p:1"}, "https://a.test/v1", "http://p:1"),
        ({"HTTPS_PROXY": "http://p:1", "NO_PROXY": "b.test,a.test"}, "https://a.test/v1", None),
        ({"HTTPS_PROXY": "http://p:1", "NO_PROXY": "*"}, "https://a.test/v1", None),
        ({"HTTP_PROXY": "http://p:1"}, "http://127.0.0.1:8080/v1", None),
        ({"HTTP_PROXY": "http://p:1"}, "http://localhost:8080/v1", None),
        ({"HTTP_PROXY": "http://p:1"}, "http://[::1]:8080/v1", None),
    ],
)
def test_the_environment_says_which_proxy(
    clean_environment: pytest.MonkeyPatch, environment: dict[str, str], url: str, proxy: str | None
) -> None:
    for name, value in environment.items():
        clean_environment.setenv(name, value)
    assert environment_proxy(url) == proxy


def test_a_proxy_of_another_kind_is_refused_at_the_start(
    clean_environment: pytest.MonkeyPatch,
) -> None:
    clean_environment.setenv("ALL_PROXY", "socks5://user:secret@p:1")
    with pytest.raises(ValueError, match=r"NO_PROXY=a\.test") as caught:
        environment_proxy("https://a.test/v1")
    assert "secret" not in str(caught.value)
