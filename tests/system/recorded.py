"""A provider that plays recorded answers and keeps every body it was sent.

The header `x-case` names the case that a request belongs to, `x-side` the front it came through.
A case with the name of a recording gets that answer, any other a plain one of its provider.
"""

from __future__ import annotations

import contextlib
import json
from collections import defaultdict
from collections.abc import AsyncIterator
from typing import Any

from aiohttp import web

from tests.ports import free_port
from tests.workers.conformance.recordings import FOLDER, Recording, all_recordings, load

# Provider -> the prefix of its paths.
PREFIXES = {"openai": "/v1", "openai_compatible": "/v1", "anthropic": ""}
RECORDINGS = {r.id: r for r in all_recordings() if r.provider in PREFIXES}
_PLAIN = {
    "openai": ("text", "stream-text-with-usage"),
    "openai_compatible": ("bare", "stream-comments"),
    "anthropic": ("text", "stream-text-cached"),
}
_NOT_SENT = {"content-length", "content-encoding", "transfer-encoding", "connection"}
# Nor what would have a key rest, and all other cases with it.
_NOT_SENT |= {"retry-after"}


class RecordedProvider:
    """`bodies[case, side]` are the bodies of a case, in the order in which they came."""

    def __init__(self) -> None:
        self.port = free_port()
        self.bodies: dict[tuple[str, str], list[Any]] = defaultdict(list)

    def settings(self) -> dict[str, object]:
        """Rows of `providers` in the settings file."""
        return {
            name: {"base_url": f"http://127.0.0.1:{self.port}/{name}{prefix}", "api_key": "k"}
            for name, prefix in PREFIXES.items()
        }

    @contextlib.asynccontextmanager
    async def serve(self) -> AsyncIterator[None]:
        app = web.Application(client_max_size=64 << 20)
        app.router.add_post("/{provider}/{path:.*}", self._answer)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", self.port).start()
        try:
            yield
        finally:
            await runner.cleanup()

    async def _answer(self, request: web.Request) -> web.Response:
        case, side = request.headers["x-case"], request.headers["x-side"]
        body = json.loads(await request.read())
        self.bodies[case, side].append(body)
        provider = request.match_info["provider"]
        found = RECORDINGS.get(case) or _plain(provider, stream=bool(body.get("stream")))
        headers = {k: v for k, v in found.headers.items() if k not in _NOT_SENT}
        return web.Response(status=found.status, headers=headers, body=found.answer)


def _plain(provider: str, *, stream: bool) -> Recording:
    return load(FOLDER / provider / f"{_PLAIN[provider][stream]}.json")
