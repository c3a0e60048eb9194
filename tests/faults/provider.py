"""A provider that fails as it is told, in OpenAI's and Anthropic's formats: a process of its own.

`python -m tests.faults.provider PORT`. Models are called SCENE.HITS.KEY: the scene of
`tests.faults.scenes`, how many calls it hits before all is fine (0 = every one), and what tells
models of one scene apart. `GET /stats` gives the calls of each model, `GET /mend?MODEL` ends its
fault.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import socket
import struct
import sys
import time
from collections import Counter
from typing import Any

from tests.faults.formats import ANSWERS, error
from tests.faults.scenes import (
    SCENES,
    VOICES,
    Asked,
    Close,
    Pause,
    Reset,
    Slowly,
    Steps,
    body,
    fine,
)

_FORMATS = {"/v1/chat/completions": "openai", "/v1/messages": "anthropic"}
_LINGER = struct.pack("ii", 1, 0)


class Provider:
    """What it saw: calls by model, when, and those that ended in an assistant's words."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.prefills: Counter[str] = Counter()
        # By model, when each call came, in seconds after the first.
        self.times: dict[str, list[float]] = {}
        self._begun: dict[str, float] = {}
        # Models that are fine from now on.
        self.mended: set[str] = set()

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection."""
        writer.transport.set_write_buffer_limits(high=0)
        raw = writer.get_extra_info("socket")
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(EOFError, OSError, asyncio.LimitOverrunError):
            while await self._play(self._steps(*await _read(reader)), reader, writer):
                pass
        writer.close()

    async def _play(
        self, steps: Steps, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        """Whether the connection goes on."""
        for step in steps:
            match step:
                case Pause():
                    # Whoever leaves meanwhile ends it.
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(step.seconds):
                            if not await reader.read(1):
                                return False
                case Slowly():
                    for at in range(len(step.data)):
                        writer.write(step.data[at : at + 1])
                        await writer.drain()
                        await asyncio.sleep(step.seconds)
                case Reset():
                    raw = writer.get_extra_info("socket")
                    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER)
                    writer.transport.abort()
                    return False
                case Close():
                    return False
                case bytes():
                    writer.write(step)
                    await writer.drain()
        return True

    def _steps(self, target: str, sent: bytes) -> Steps:
        path, _, rest = target.partition("?")
        if path == "/stats":
            stats = {"calls": self.calls, "prefills": self.prefills, "times": self.times}
            return [body(json.dumps(stats).encode())]
        if path == "/mend":
            self.mended.add(rest)
            return [body(b"{}")]
        if path == "/v1/audio/speech":
            return VOICES[json.loads(sent)["model"].partition(".")[0]]
        if path not in _FORMATS:
            return [body(error("openai", 404), 404)]
        asked: Any = json.loads(sent)
        return self._answer(_FORMATS[path], asked)

    def _answer(self, format_: str, asked: Any) -> Steps:
        model = str(asked["model"])
        scene, hits, _ = model.split(".", 2)
        self.calls[model] += 1
        times = self.times.setdefault(model, [])
        times.append(time.monotonic() - (self._begun.setdefault(model, time.monotonic())))
        if asked["messages"][-1]["role"] == "assistant":
            self.prefills[model] += 1
            return [body(error(format_, 400, "this model takes no prefill"), 400)]
        hit = model not in self.mended and self.calls[model] <= (int(hits) or math.inf)
        play = SCENES[scene] if hit else fine
        answer = ANSWERS[format_](model, tool="tools" in asked)
        return play(Asked(answer, bool(asked.get("stream")), time.time(), self.calls[model]))


async def _read(reader: asyncio.StreamReader) -> tuple[str, bytes]:
    """The target and the body of the next request."""
    lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines[1:])}
    sent = await reader.readexactly(int(headers.get("content-length", "0")))
    return lines[0].split(" ")[1], sent


async def main(port: int) -> None:
    """Serve for ever."""
    server = await asyncio.start_server(Provider().talk, "127.0.0.1", port, backlog=1000)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
