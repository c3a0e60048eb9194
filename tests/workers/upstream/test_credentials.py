"""Credentials that take more than a key in a header."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from broker.errors import InferenceError
from tests.workers.upstream.peer import Connect, Connection, Fetch, Post, Serve
from workers.provider import Call


class Signer:
    """Signs with everything that it is told."""

    def __init__(self) -> None:
        self.refusals: list[str | None] = []

    async def headers(self, key: str | None, call: Call, url: str) -> Mapping[str, str]:
        if key == "broken":
            raise InferenceError("upstream_credentials", "no token")
        return {"authorization": f"{key} {call.method} {url} {call.body.decode()}"}

    def refused(self, key: str | None) -> None:
        self.refusals.append(key)


async def ok(conn: Connection) -> None:
    while True:
        await conn.request()
        await conn.answer()


async def test_credentials_see_the_key_and_the_whole_call_and_replace_the_keys_header(
    serve: Serve, connect: Connect, fetch: Fetch
) -> None:
    peer = await serve(ok)
    upstream = connect(peer.url, credentials=Signer())
    for key in ("a", "b"):
        await fetch(upstream, key=key, extra={"Authorization": "Bearer mine"})
    signed = [request.headers["authorization"] for request in peer.requests]
    assert signed == [f"{key} POST {peer.url}/chat {{}}" for key in ("a", "b")]


async def test_without_a_key_credentials_are_asked_all_the_same(
    serve: Serve, connect: Connect, fetch: Fetch
) -> None:
    peer = await serve(ok)
    await fetch(connect(peer.url, credentials=Signer()))
    assert peer.requests[0].headers["authorization"].startswith("None POST")


async def test_a_call_that_cannot_be_signed_is_not_made(
    serve: Serve, connect: Connect, post: Post
) -> None:
    peer = await serve(ok)
    upstream = connect(peer.url, credentials=Signer())
    with pytest.raises(InferenceError, match="no token"):
        await post(upstream, key="broken")
    assert (upstream.calls, upstream.in_flight) == (0, 0)


async def test_a_401_is_told_to_the_credentials_and_nothing_else_is(
    serve: Serve, connect: Connect, fetch: Fetch
) -> None:
    async def script(conn: Connection) -> None:
        for status in (401, 403, 200):
            await conn.request()
            await conn.send(b"HTTP/1.1 %d No\r\ncontent-length: 0\r\n\r\n" % status)

    signer = Signer()
    upstream = connect((await serve(script)).url, credentials=signer)
    for key in ("first", "second", "third"):
        await fetch(upstream, key=key)
    assert signer.refusals == ["first"]
