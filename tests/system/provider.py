"""A provider that does what a test says: real HTTP on a real socket, and all it was sent."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Received:
    """One call as it came; `provider` is the first segment of its path."""

    provider: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    method: str = "POST"

    @property
    def key(self) -> str:
        """The key that it was made with, whatever the header."""
        for name in ("authorization", "x-api-key", "api-key", "x-goog-api-key"):
            if value := self.headers.get(name):
                return value.removeprefix("Bearer ")
        return ""

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Said:
    """An answer; with `cut` its body stops there, unfinished, and the connection is closed."""

    status: int = 200
    body: bytes | Mapping[str, Any] = b"{}"
    headers: Mapping[str, str] = field(default_factory=dict)
    cut: bool = False
    # How long it takes to begin.
    delay_s: float = 0.0

    def encode(self) -> bytes:
        body = self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()
        headers = {"content-type": "application/json", **self.headers}
        # One byte more than there will be.
        headers["content-length"] = str(len(body) + self.cut)
        lines = [f"HTTP/1.1 {self.status} said", *(f"{n}: {v}" for n, v in headers.items())]
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


Script = Callable[[Received], Said]


class FakeProvider:
    """Answers every call by `script`."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.calls: list[Received] = []
        self.port = 0
        self._open: set[asyncio.Task[None]] = set()

    def url(self, provider: str) -> str:
        return f"http://127.0.0.1:{self.port}/{provider}"

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._open)

    def take(self) -> list[Received]:
        """What came since the last time."""
        calls, self.calls = self.calls, []
        return calls

    async def close(self) -> None:
        """Close every connection."""
        for task in self._open:
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._open.add(task)
        task.add_done_callback(self._open.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._talk(reader, writer)
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(EOFError, OSError):
            while True:
                said = self._answer(await _read(reader))
                await asyncio.sleep(said.delay_s)
                writer.write(said.encode())
                await writer.drain()
                if said.cut:
                    break

    def _answer(self, received: Received) -> Said:
        self.calls.append(received)
        return self.script(received)


async def _read(reader: asyncio.StreamReader) -> Received:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    method, target, _ = head[0].split(" ")
    pairs = (line.partition(":") for line in head[1:] if line)
    headers = {name.lower(): value.strip() for name, _, value in pairs}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    _, provider, path = target.split("/", 2)
    return Received(provider, "/" + path, headers, body, method)


@contextlib.asynccontextmanager
async def fake_provider(script: Script) -> AsyncIterator[FakeProvider]:
    fake = FakeProvider(script)
    server = await asyncio.start_server(fake.accept, "127.0.0.1", 0)
    fake.port = server.sockets[0].getsockname()[1]
    try:
        yield fake
    finally:
        server.close()
        await fake.close()


def chat_answer(text: str = "hello", finish: str = "stop") -> Said:
    """An answer of OpenAI's chat completions."""
    message = {"role": "assistant", "content": text, "refusal": None}
    return Said(
        body={
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 1700000000,
            "model": "m-1",
            "choices": [{"index": 0, "message": message, "finish_reason": finish}],
            "usage": {"prompt_tokens": 2, "completion_tokens": 1, "total_tokens": 3},
        }
    )
