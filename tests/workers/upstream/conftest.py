"""Peers, and calls to them, on both event loops."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator

import pytest

from tests.workers.upstream.peer import CERTIFICATE, Connect, Fetch, Peer, Post, Script, Serve
from workers.failures import Limits
from workers.provider import Call, Provider
from workers.upstream import Reply, Upstream


@pytest.fixture(params=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": request.param == "uvloop"}


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    async with contextlib.AsyncExitStack() as stack:

        async def start(script: Script, tls: ssl.SSLContext | None = None) -> Peer:
            peer = Peer(script)
            server = await asyncio.start_server(peer.run, "127.0.0.1", 0, ssl=tls)
            peer.port = server.sockets[0].getsockname()[1]
            stack.callback(peer.abort)
            stack.callback(server.close)
            return peer

        yield start


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    made: list[Upstream] = []

    def make(url: str, **options: object) -> Upstream:
        names = ("max_connections", "credentials", "transport")
        own = {k: options.pop(k) for k in names if k in options}
        facts = {
            "name": "acme",
            "dialect": None,
            "base_url": url,
            **options,
        }  # sending asks no dialect
        made.append(Upstream(Provider(**facts), **own))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for upstream in made:
        await upstream.close()
        assert upstream.in_flight == 0, "a reply was not let go"


@pytest.fixture
def post() -> Post:
    async def call(
        upstream: Upstream,
        body: bytes = b"{}",
        *,
        key: str | None = None,
        extra: dict[str, str] | None = None,
        **limits: float,
    ) -> Reply:
        request = Call("/chat", body, {"Content-Type": "application/json"})
        # Every call ends by itself, so that a broken limit fails its test instead of hanging it.
        timing = Limits(**{"deadline_s": 20.0, **limits})  # type: ignore[arg-type]
        return await upstream.open(request, key=key, limits=timing, extra_headers=extra)

    return call


@pytest.fixture
def fetch(post: Post) -> Fetch:
    async def call(
        upstream: Upstream,
        body: bytes = b"{}",
        *,
        key: str | None = None,
        extra: dict[str, str] | None = None,
        **limits: float,
    ) -> bytes:
        reply = await post(upstream, body, key=key, extra=extra, **limits)
        try:
            return await reply.read()
        finally:
            await reply.aclose()

    return call


@pytest.fixture
def certificate(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    path.write_text(CERTIFICATE)
    return str(path)


@pytest.fixture
def tls(certificate: str) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    return context


@pytest.fixture
def trusted_tls(
    tls: ssl.SSLContext, certificate: str, monkeypatch: pytest.MonkeyPatch
) -> ssl.SSLContext:
    """As `tls`, and the environment trusts its certificate."""
    monkeypatch.setenv("SSL_CERT_FILE", certificate)
    return tls
