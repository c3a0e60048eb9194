"""A bare aiohttp relay: the least a Python gateway can do, and the base of the bench's ratios.

HTTP in, one aiohttp client call out, the answer passed on untouched: no authentication, queue,
translation or accounting. `python -m bench.relay --upstream http://127.0.0.1:PORT`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal

import aiohttp
import uvloop
from aiohttp import web


class Relay:
    """Passes every request on to one upstream."""

    def __init__(self, upstream: str, session: aiohttp.ClientSession) -> None:
        self._upstream = upstream
        self._session = session

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        headers = {"content-type": request.content_type}
        async with self._session.request(
            request.method, self._upstream + request.path_qs, data=body or None, headers=headers
        ) as answer:
            content_type = answer.headers.get("content-type", "application/octet-stream")
            if content_type != "text/event-stream":
                whole = await answer.read()
                kept = {"content-type": content_type}
                return web.Response(status=answer.status, body=whole, headers=kept)
            stream = web.StreamResponse(status=answer.status)
            stream.headers["content-type"] = content_type
            await stream.prepare(request)
            async for piece in answer.content.iter_any():
                await stream.write(piece)
            await stream.write_eof()
            return stream


async def _serve(upstream: str) -> None:
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, auto_decompress=False) as session:
        app = web.Application(client_max_size=64 << 20)
        app.router.add_route("*", "/{path:.*}", Relay(upstream, session).handle)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, backlog=1024, shutdown_timeout=0.1)
        await site.start()
        host, port = runner.addresses[0][:2]
        print(json.dumps({"listening": f"{host}:{port}"}), flush=True)
        await stopped.wait()
        await runner.cleanup()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.relay", description=__doc__)
    parser.add_argument("--upstream", required=True, help="http://HOST:PORT")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(parser.parse_args().upstream))


if __name__ == "__main__":
    main()
