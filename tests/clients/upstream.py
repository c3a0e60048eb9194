"""Every provider on one port, each in its own wire format: what the matrix of clients runs against.

`python -m tests.clients.upstream PORT`. The first segment of a path names the provider. What is said
follows from what was asked, so that a client's answer can be told from everybody else's: a schema is
filled, a tool is called, and anything else is repeated with the provider's name before it.
`GET /calls` lists the calls that came since it was last asked.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable
from typing import Any

from aiohttp import web

from tests.clients import formats, media
from tests.clients.asked import Call, Said

Answer = Callable[[Call], Said]

# The end of a path -> who answers; the first that fits.
_ROUTES: dict[str, Answer] = {
    "/v2/chat": formats.cohere_chat,
    "/v2/rerank": media.ranking,
    "/rerank": media.ranking,
    "/v1/messages": formats.anthropic_messages,
    "/v1/messages/count_tokens": formats.anthropic_count,
    ":countTokens": formats.gemini_count,
    ":batchEmbedContents": media.gemini_embeddings,
    "/v2/embed": media.cohere_embeddings,
    ":generateContent": formats.gemini,
    ":streamGenerateContent": formats.gemini,
    "/chat/completions": formats.openai_chat,
    "/responses": formats.openai_responses,
    "/completions": formats.openai_completions,
    "/moderations": media.moderation,
    "/embeddings": media.embeddings,
    "/images/generations": media.image,
    "/images/edits": media.image,
    "/audio/transcriptions": media.transcript,
    "/audio/translations": media.transcript,
    "/audio/speech": media.speech,
}


# What providers say, each in its own way, to somebody who asks for what they refuse.
REFUSED = "this is refused"
# Somebody who says this is not answered for a minute.
SLOW = "take your time"
_OPENAI = {"error": {"message": REFUSED, "type": "invalid_request_error", "param": None}}
_REFUSALS: dict[str, Any] = {
    "anthropic": {
        "type": "error",
        "error": {"type": "invalid_request_error", "message": REFUSED},
        "request_id": "req_up",
    },
    "gemini": {"error": {"code": 400, "message": REFUSED, "status": "INVALID_ARGUMENT"}},
    "mistral": {"object": "error", "message": REFUSED, "type": "invalid_request", "param": None},
    "cohere": {"message": REFUSED},
}


class Upstream:
    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []

    async def answer(self, request: web.Request) -> web.Response:
        call = await _read(request)
        shown = call.body if call.is_json else sorted(call.body)
        self.calls.append(
            {
                "provider": call.provider,
                "path": call.path,
                "headers": dict(call.headers),
                "body": shown,
            }
        )
        if REFUSED in json.dumps(shown):
            return web.json_response(_REFUSALS.get(call.provider, _OPENAI), status=400)
        if SLOW in json.dumps(shown):
            await asyncio.sleep(60)
        for end, answer in _ROUTES.items():
            if call.path.endswith(end):
                said = answer(call)
                return web.Response(body=said.body, status=said.status, content_type=said.type)
        return web.json_response({"error": {"message": f"no such path: {call.path}"}}, status=404)

    async def take(self, _request: web.Request) -> web.Response:
        calls, self.calls = self.calls, []
        return web.json_response(calls)


async def _read(request: web.Request) -> Call:
    provider = request.match_info["provider"]
    path = "/" + request.match_info["path"]
    headers = {name.lower(): value for name, value in request.headers.items()}
    if request.content_type != "multipart/form-data":
        return Call(provider, path, headers, json.loads(await request.read() or b"{}"))
    fields: dict[str, Any] = {}
    for name, value in (await request.post()).items():
        fields[name] = value.file.read() if isinstance(value, web.FileField) else value
    return Call(provider, path, headers, fields, is_json=False)


async def serve(port: int) -> None:
    upstream = Upstream()
    app = web.Application(client_max_size=64 << 20)
    app.router.add_get("/calls", upstream.take)
    app.router.add_post("/{provider}/{path:.*}", upstream.answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1])))
