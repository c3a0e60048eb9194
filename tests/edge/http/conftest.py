"""A real server on a real port, in front of a scripted engine."""

from __future__ import annotations

import asyncio
import contextlib
import io
import socket
from collections.abc import AsyncIterator
from dataclasses import replace

import httpx
import pytest
import uvicorn

from broker import telemetry
from broker.config import Address, Limits, Settings
from edge.app import create_app, serve
from edge.auth import Authenticator
from edge.held import Held
from tests.edge.http.standin import SECRET, Edge, Engine, KeyTable, Start


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    return "asyncio", {"use_uvloop": True}


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """Starts edges: `await start(engine, limits={...}, cors_origins=(...))`."""
    running: list[tuple[uvicorn.Server, asyncio.Task[None], socket.socket]] = []

    async def begin(
        engine: Engine | None = None, limits: dict[str, object] | None = None, **more: object
    ) -> Edge:
        engine = engine or Engine()
        table = KeyTable()
        table.put(SECRET)
        settings = Settings(
            http=Address("127.0.0.1", 0),
            limits=replace(Limits(), **(limits or {})),  # type: ignore[arg-type]
            **more,  # type: ignore[arg-type]
        )
        log = io.BytesIO()
        sink = telemetry.Sink(log)
        lines = telemetry.RequestLog(sink, telemetry.JsonFormatter("edge-test"))
        observed = telemetry.Telemetry("edge-test", telemetry.Metrics("edge-test"), lines, sink)
        held = Held(settings.limits)
        app = create_app(settings, engine, Authenticator(table), observed, held=held)
        config = serve(app, settings, held)
        server = uvicorn.Server(config)
        listener = socket.create_server(("127.0.0.1", 0))
        task = asyncio.create_task(server._serve([listener]))
        running.append((server, task, listener))
        async with asyncio.timeout(10):
            while not server.started:
                await asyncio.sleep(0.01)
        return Edge(listener.getsockname()[1], engine, table, server, log, observed)

    yield begin
    for server, task, listener in running:
        # Not by `should_exit`, which polls for a fifth of a second.
        for one in server.servers:
            one.close()
        for connection in list(server.server_state.connections):
            connection.transport.abort()
        handlers = list(server.server_state.tasks)
        await asyncio.wait_for(asyncio.gather(*handlers, return_exceptions=True), 5)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        listener.close()


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(timeout=20, trust_env=False) as client:
        yield client
