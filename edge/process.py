"""The edge process: engine, HTTP server and public gRPC server, started and drained together."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from importlib import metadata

import uvicorn

from broker import process
from broker.bus import Bus
from broker.bus.fleet import fleet_token
from broker.bus.keyring import Keyring
from broker.config import Settings
from broker.tasks import keep
from broker.telemetry import Telemetry
from edge.app import create_app, serve
from edge.attach import AttachService, OtherEdges
from edge.auth import Authenticator
from edge.claims import Claims
from edge.engine import Engine
from edge.held import Held
from edge.kept import Kept
from edge.once import Once
from edge.openstreams import OpenStreams
from edge.rpc.server import RpcServer

_log = logging.getLogger(__name__)


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers, and with one look a second at what it has to do.

    The process has its own handlers; uvicorn's ten looks a second are half of what wakes an idle
    edge.
    """

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._leaving = asyncio.Event()

    def leave(self) -> None:
        """End `serve`."""
        self.should_exit = True
        self._leaving.set()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen. Raises `OSError` where that fails; uvicorn has logged why."""
        try:
            await super().startup(sockets)
        except SystemExit as exc:
            place = f"{self.config.host}:{self.config.port}"
            raise OSError(
                f"cannot serve HTTP on {place}: is the port taken? set MILLRACE_HTTP"
            ) from exc

    async def main_loop(self) -> None:
        while not await self.on_tick(0):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._leaving.wait(), 1.0)

    @contextlib.contextmanager
    def capture_signals(self):  # type: ignore[no-untyped-def]  # noqa: ANN202
        yield


async def _body(settings: Settings, bus: Bus, telemetry: Telemetry, stop: asyncio.Event) -> None:
    token = await fleet_token(bus, settings)
    engine = Engine(bus, settings, token, telemetry)
    claims = Claims(bus, engine.name, engine.edge_lives)
    others = OtherEdges(token, engine)
    once = Once(claims, others)
    engine.serve_beside(AttachService(token, engine, once.standing).add)
    keyring = Keyring(bus)
    auth = Authenticator(keyring)
    kept = Kept.of(bus, engine, settings)
    # What both fronts count together.
    held = Held(settings.limits, engine.refused)
    streams = OpenStreams(settings.limits.streams_per_key)
    await engine.start()
    await kept.responses.start()
    if settings.api_key:
        await keyring.add(settings.api_key, "MILLRACE_API_KEY")
    follow = keep(auth.follow, "keys")
    version = metadata.version("millrace")
    rpc = RpcServer(
        engine, auth, settings, version, telemetry, once=once, held=held, kept=kept, streams=streams
    )
    await rpc.start()
    app = create_app(settings, engine, auth, telemetry, kept, once=once, held=held, streams=streams)
    server = _Server(serve(app, settings, held))
    serving = asyncio.create_task(server.serve(), name="http")
    stopping = asyncio.create_task(stop.wait(), name="stop")
    try:
        await asyncio.wait((serving, stopping), return_when=asyncio.FIRST_COMPLETED)
        if serving.done():
            await serving
            raise OSError("the HTTP server ended by itself")
        # Refuse first, so that load balancers see it, then let the rest finish.
        await rpc.drain()
        await engine.drain(settings.limits.drain_grace_s)
        server.leave()
        await serving
    finally:
        stopping.cancel()
        follow.cancel()
        await rpc.close()
        await kept.responses.close()
        await engine.close()
        await others.close()
        await claims.close()


def main() -> int:
    """Run until told to stop; returns the exit code."""
    return process.run("edge", _body)
