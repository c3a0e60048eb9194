"""Time limits, cancelling and backpressure: nothing waits longer, reads more or stays open."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Iterator

import pytest

from broker.errors import InferenceError
from tests.workers.upstream.peer import Connect, Connection, Fetch, Post, Script, Serve


def failure(exc: InferenceError) -> tuple[str, str]:
    return exc.reason, exc.phase


async def fails(awaitable: Awaitable[object], within: float) -> InferenceError:
    """The error of a call, which must come in time."""
    async with asyncio.timeout(within):
        with pytest.raises(InferenceError) as caught:
            await awaitable
    return caught.value


async def silent(conn: Connection) -> None:
    await conn.request()
    await conn.gone()


async def headers_only(conn: Connection) -> None:
    await conn.request()
    await conn.start("x-request-id: req_1")
    await conn.gone()


async def deaf(conn: Connection) -> None:
    await conn.head()
    # A reader that nobody reads from stops the socket after 128 KB.
    await asyncio.Event().wait()


async def drip(conn: Connection) -> None:
    """One byte each 20 ms, in chunks that the two sides cut differently."""
    await conn.request()
    await conn.start()
    for byte in b"data: tokens\r\n\r\n" * 3:
        for part in (b"1\r", b"\n%c" % byte, b"\r\n"):
            await conn.send(part)
            await asyncio.sleep(0.007)
    await conn.send(b"0\r\n\r\n")
    await conn.gone()


async def three_then_silence(conn: Connection) -> None:
    await conn.request()
    await conn.start("x-request-id: req_1")
    for _ in range(3):
        await conn.chunk(b"token ")
    await conn.gone()


@pytest.fixture
def full_listener() -> Iterator[str]:
    """A port whose queue of connections is full: connecting to it hangs."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"


async def test_a_connection_that_is_not_accepted_ends_at_the_connect_limit(
    full_listener: str, connect: Connect, post: Post
) -> None:
    upstream = connect(full_listener)
    error = await fails(post(upstream, connect_s=0.2), within=1)
    assert failure(error) == ("connect_timeout", "connect")
    assert "0.2 s" in error.message
    assert upstream.in_flight == 0


async def test_waiting_for_one_of_the_allowed_connections_counts_as_connecting(
    serve: Serve, connect: Connect, post: Post
) -> None:
    upstream = connect((await serve(headers_only)).url, max_connections=1)
    first = await post(upstream)
    error = await fails(post(upstream, connect_s=0.2), within=1)
    assert error.reason == "connect_timeout"
    await first.aclose()


async def test_a_tls_handshake_that_is_not_answered_ends_at_the_connect_limit(
    serve: Serve, connect: Connect, post: Post
) -> None:
    async def script(conn: Connection) -> None:
        await conn.gone()

    peer = await serve(script)
    upstream = connect(peer.url.replace("http:", "https:"))
    error = await fails(post(upstream, connect_s=0.3), within=2)
    assert failure(error) == ("connect_timeout", "connect")
    await peer.until(lambda: peer.connections[0].gone_at)


@pytest.mark.parametrize("script", [silent, headers_only])
async def test_an_answer_that_does_not_begin_ends_at_the_first_byte_limit(
    serve: Serve, connect: Connect, fetch: Fetch, script: Script
) -> None:
    peer = await serve(script)
    error = await fails(fetch(connect(peer.url), first_byte_s=0.3, stall_s=9), within=1)
    assert failure(error) == ("first_token_timeout", "before_content")
    assert "0.3 s" in error.message
    await peer.until(lambda: peer.connections[0].gone_at, within=0.5)


async def test_headers_do_not_buy_more_time_for_the_first_byte(
    serve: Serve, connect: Connect, fetch: Fetch
) -> None:
    async def script(conn: Connection) -> None:
        await conn.request()
        await asyncio.sleep(0.35)
        await conn.start()
        await conn.gone()

    loop = asyncio.get_running_loop()
    begun = loop.time()
    await fails(fetch(connect((await serve(script)).url), first_byte_s=0.5), within=2)
    assert 0.45 < loop.time() - begun < 0.8


async def test_headers_that_drip_in_for_ever_end_at_the_first_byte_limit(
    serve: Serve, connect: Connect, fetch: Fetch
) -> None:
    async def script(conn: Connection) -> None:
        await conn.request()
        await conn.send(b"HTTP/1.1 200 OK\r\nx-slow: ")
        while True:
            await conn.send(b"a")
            await asyncio.sleep(0.02)

    error = await fails(fetch(connect((await serve(script)).url), first_byte_s=0.3), within=1)
    assert error.reason == "first_token_timeout"


async def test_a_peer_that_does_not_read_the_request_ends_at_the_first_byte_limit(
    serve: Serve, connect: Connect, fetch: Fetch
) -> None:
    upstream = connect((await serve(deaf)).url)
    error = await fails(fetch(upstream, b"x" * (20 << 20), first_byte_s=0.3), within=1)
    assert failure(error) == ("first_token_timeout", "before_content")


async def test_silence_within_a_body_ends_at_the_stall_limit(
    serve: Serve, connect: Connect, post: Post
) -> None:
    peer = await serve(three_then_silence)
    reply = await post(connect(peer.url), first_byte_s=9, stall_s=0.3)
    got = b""
    with pytest.raises(InferenceError) as caught:
        async with asyncio.timeout(1):
            async for chunk in reply:
                got += chunk
    assert got == b"token token token "
    assert failure(caught.value) == ("stalled", "content")
    assert (caught.value.upstream_status, caught.value.upstream_request_id) == (200, "req_1")
    # The connection goes at once, not when the consumer lets go.
    await peer.until(lambda: peer.connections[0].gone_at, within=0.5)
    await reply.aclose()


async def test_until_the_first_token_its_limit_holds_whatever_came_before(
    serve: Serve, connect: Connect, post: Post
) -> None:
    for first_byte_s, stall_s in ((0.4, 9), (0.4, 0.1)):
        peer = await serve(three_then_silence)
        begun = asyncio.get_running_loop().time()
        reply = await post(
            connect(peer.url), first_byte_s=first_byte_s, stall_s=stall_s, first_token=True
        )
        with pytest.raises(InferenceError) as caught:
            async with asyncio.timeout(2):
                async for _ in reply:
                    pass
        assert failure(caught.value) == ("first_token_timeout", "before_content")
        assert asyncio.get_running_loop().time() - begun > 0.3
        await reply.aclose()


async def test_from_the_first_token_on_silence_counts(
    serve: Serve, connect: Connect, post: Post
) -> None:
    peer = await serve(three_then_silence)
    reply = await post(connect(peer.url), first_byte_s=9, stall_s=0.3, first_token=True)
    with pytest.raises(InferenceError) as caught:
        async with asyncio.timeout(2):
            async for _ in reply:
                reply.settle()
    assert failure(caught.value) == ("stalled", "content")
    await reply.aclose()


@pytest.mark.parametrize("first_byte_s", [0, 9])
async def test_the_stall_limit_counts_from_the_last_byte(
    serve: Serve, connect: Connect, fetch: Fetch, first_byte_s: float
) -> None:
    peer = await serve(drip)
    upstream = connect(peer.url)
    body = await fetch(upstream, first_byte_s=first_byte_s, stall_s=0.25)
    assert body == b"data: tokens\r\n\r\n" * 3


async def test_the_deadline_ends_a_stream_that_never_stalls(
    serve: Serve, connect: Connect, post: Post
) -> None:
    async def script(conn: Connection) -> None:
        await conn.request()
        await conn.start()
        while True:
            await conn.chunk(b"token ")
            await asyncio.sleep(0.02)

    peer = await serve(script)
    reply = await post(connect(peer.url), stall_s=5, deadline_s=0.4)
    with pytest.raises(InferenceError) as caught:
        async with asyncio.timeout(1):
            async for _ in reply:
                pass
    assert failure(caught.value) == ("deadline", "content")
    await reply.aclose()


async def test_the_deadline_closes_the_connection_though_nobody_reads(
    serve: Serve, connect: Connect, post: Post
) -> None:
    peer = await serve(headers_only)
    reply = await post(connect(peer.url), deadline_s=0.2)
    await peer.until(lambda: peer.connections[0].gone_at, within=1)
    assert (await fails(anext(reply), within=0.5)).reason == "deadline"
    await reply.aclose()


async def test_the_deadline_ends_connecting_and_waiting(
    full_listener: str, serve: Serve, connect: Connect, post: Post
) -> None:
    for url in (full_listener, (await serve(silent)).url):
        error = await fails(post(connect(url), connect_s=9, first_byte_s=9, deadline_s=0.2), 1)
        assert error.reason == "deadline"


@pytest.mark.parametrize("script", [silent, headers_only, three_then_silence])
async def test_cancelling_closes_the_upstream_connection_at_once(
    serve: Serve, connect: Connect, fetch: Fetch, script: Script
) -> None:
    peer = await serve(script)
    upstream = connect(peer.url)
    task = asyncio.create_task(fetch(upstream))
    await peer.until(lambda: peer.requests)
    await asyncio.sleep(0.05)
    cancelled_at = asyncio.get_running_loop().time()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await peer.until(lambda: peer.connections[0].gone_at, within=0.5)
    assert (peer.connections[0].gone_at or 0) - cancelled_at < 0.5
    assert upstream.in_flight == 0


async def test_cancelling_an_upload_that_the_peer_does_not_read_closes_it_at_once(
    serve: Serve, connect: Connect, fetch: Fetch
) -> None:
    async def script(conn: Connection) -> None:
        await conn.head()
        heard.set()
        await cancelled.wait()
        # It still reads nothing, so an orderly close would wait; that it is closed shows in writing.
        with contextlib.suppress(OSError):
            while True:
                await conn.send(b"x")
                await asyncio.sleep(0.01)
        conn.gone_at = asyncio.get_running_loop().time()

    heard, cancelled = asyncio.Event(), asyncio.Event()
    peer = await serve(script)
    task = asyncio.create_task(fetch(connect(peer.url), b"x" * (20 << 20)))
    await heard.wait()
    await asyncio.sleep(0.1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    cancelled.set()
    await peer.until(lambda: peer.connections[0].gone_at, within=0.5)


async def test_letting_go_of_an_unfinished_answer_closes_its_connection(
    serve: Serve, connect: Connect, post: Post
) -> None:
    peer = await serve(three_then_silence)
    reply = await post(connect(peer.url))
    assert await anext(reply)
    await reply.aclose()
    await reply.aclose()
    await peer.until(lambda: peer.connections[0].gone_at, within=0.5)


async def test_closing_the_upstream_ends_what_still_runs(
    serve: Serve, connect: Connect, fetch: Fetch
) -> None:
    peer = await serve(headers_only)
    upstream = connect(peer.url)
    task = asyncio.create_task(fetch(upstream))
    await peer.until(lambda: peer.requests)
    await upstream.close()
    await peer.until(lambda: peer.connections[0].gone_at, within=0.5)
    assert (await fails(task, within=0.5)).reason in {"upstream_incomplete", "upstream_error"}


async def test_a_consumer_that_stops_taking_stops_the_reading(
    serve: Serve, connect: Connect, post: Post
) -> None:
    total, sent = 64 << 20, 0

    async def script(conn: Connection) -> None:
        nonlocal sent
        await conn.request()
        await conn.start()
        while sent < total:
            await conn.chunk(bytes(64 << 10))
            sent += 64 << 10
        await conn.send(b"0\r\n\r\n")
        await conn.gone()

    peer = await serve(script)
    reply = await post(connect(peer.url), stall_s=0.3)
    taken = len(await anext(reply))
    level = -1
    while level != sent:  # until the peer cannot send any more
        level = sent
        await asyncio.sleep(0.2)
    # Socket buffers on both sides take a few MB; the rest waits at the peer.
    assert sent < 24 << 20
    # Longer than the stall limit: our own slowness is not the provider's silence.
    await asyncio.sleep(0.5)
    chunk = await anext(reply)
    assert len(chunk) <= 1 << 20
    taken += len(chunk)
    async for chunk in reply:
        assert len(chunk) <= 1 << 20
        taken += len(chunk)
    assert taken == total
    await reply.aclose()


async def test_a_slow_consumer_slows_nobody_else(
    serve: Serve, connect: Connect, post: Post, fetch: Fetch
) -> None:
    async def script(conn: Connection) -> None:
        while (await conn.request()).body == b"small":
            await conn.answer()
        await conn.answer(bytes(32 << 20))

    upstream = connect((await serve(script)).url)
    slow = await post(upstream, b"large")
    async with asyncio.timeout(2):
        for _ in range(20):
            assert await fetch(upstream, b"small") == b"ok"
    await slow.aclose()


async def test_the_limits_of_a_finished_call_do_not_touch_the_next_on_its_connection(
    serve: Serve, connect: Connect, fetch: Fetch
) -> None:
    async def script(conn: Connection) -> None:
        await conn.request()
        await conn.answer()
        await drip(conn)

    peer = await serve(script)
    upstream = connect(peer.url)
    assert await fetch(upstream, first_byte_s=0.2, stall_s=0.2, deadline_s=0.3) == b"ok"
    assert await fetch(upstream) == b"data: tokens\r\n\r\n" * 3
    assert len(peer.connections) == 1


async def test_finished_calls_leave_no_task_behind(
    serve: Serve, connect: Connect, fetch: Fetch
) -> None:
    async def script(conn: Connection) -> None:
        while True:
            await conn.request()
            await conn.answer()

    peer = await serve(script)
    upstream = connect(peer.url)
    before = asyncio.all_tasks()
    await asyncio.gather(*(fetch(upstream, stall_s=60, first_byte_s=60) for _ in range(30)))
    # The peer has one task for each connection that is kept.
    assert len(asyncio.all_tasks() - before) == len(peer.connections)
