"""A light load generator in its own process, which believes no answer it has not read whole.

Reads one job per line from standard input, as JSON of `Job`'s fields, and writes one JSON line per
job: `Outcome.report()`. `python -m bench.load`.
"""

from __future__ import annotations

import asyncio
import gc
import json
import re
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httptools
import orjson
import uvloop

# A closed connection is not reopened faster than this.
_RECONNECT_SECONDS = 0.01
_TIMEOUT_TICK_SECONDS = 0.1
_FIRST_TEXT = re.compile(rb'"content":\s*"[^"]')


@dataclass(frozen=True)
class Job:
    """Load to make: `clients` connections send `body` again and again for `seconds`."""

    host: str
    port: int
    key: str
    body: dict[str, Any]
    clients: int
    seconds: float
    expect: str  # the text of a whole answer
    timeout: float = 30.0
    requests: int | None = None  # stop after that many, if sooner
    stagger_ms: float = 0.0  # clients start spread over this time, so that pacing is not in step
    path: str = "/v1/chat/completions"


@dataclass
class Outcome:
    """What happened. Times are kept for whole answers only; everything else is an error."""

    latencies: list[float] = field(default_factory=list)
    first_texts: list[float] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    events: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0

    def report(self) -> dict[str, Any]:
        """Milliseconds, counts, and requests per second; errors by kind."""
        return {
            "requests": len(self.latencies),
            "errors": dict(self.errors),
            "seconds": self.seconds,
            "rps": len(self.latencies) / self.seconds if self.seconds else 0.0,
            "latency_ms": _spread(self.latencies),
            "ttft_ms": _spread(self.first_texts),
            "events": self.events,
            "generator_cpu_seconds": self.cpu_seconds,
        }


class Client(asyncio.Protocol):
    """One connection that asks, judges the answer, and asks again."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._body: list[bytes] = []
        self._first_text = 0.0
        self.asked_at: float | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]
        self.ask()

    def ask(self) -> None:
        if self._transport is None or self._transport.is_closing():
            self._load.connect(self)
        elif self._load.take_turn():
            self._body = []
            self._first_text = 0.0
            self.asked_at = time.perf_counter()
            self._transport.write(self._load.request)
        else:
            self._transport.close()
            self._load.leave()

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserCallbackError:
            raise
        except httptools.HttpParserError:
            self.give_up("not HTTP")

    def connection_lost(self, exc: Exception | None) -> None:
        if self.asked_at is not None:
            self.give_up("connection lost")

    def give_up(self, why: str) -> None:
        """Counts the request under way as an error and starts afresh."""
        self.asked_at = None
        self._load.outcome.errors[why] += 1
        if self._transport is not None:
            self._transport.abort()
        self._load.connect(self, _RECONNECT_SECONDS)

    def renew(self) -> None:
        """Makes ready for a new connection."""
        self._transport = None
        self._parser = httptools.HttpResponseParser(self)

    # What the parser calls.

    def on_body(self, body: bytes) -> None:
        self._body.append(body)
        if not self._first_text and self._load.stream:
            whole = body if len(self._body) == 1 else b"".join(self._body)
            if _FIRST_TEXT.search(whole):
                self._first_text = time.perf_counter()

    def on_message_complete(self) -> None:
        if self.asked_at is None:
            return
        now = time.perf_counter()
        outcome, started = self._load.outcome, self.asked_at
        self.asked_at = None
        wrong = self._load.wrong(self._parser.get_status_code(), b"".join(self._body))
        if wrong is None:
            outcome.latencies.append(now - started)
            if self._load.stream:
                outcome.first_texts.append(self._first_text - started)
        else:
            outcome.errors[wrong] += 1
        if not self._parser.should_keep_alive() and self._transport is not None:
            self._transport.close()
        # Not from within the parser: it has yet to finish this answer.
        self._load.soon(self.ask)


class Load:
    """One job under way."""

    def __init__(self, job: Job) -> None:
        self._loop = asyncio.get_running_loop()
        self._job = job
        self._left = job.requests
        self._end = 0.0
        self._clients: list[Client] = []
        self._present = 0
        self._gone = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self.soon: Callable[[Callable[[], None]], Any] = self._loop.call_soon
        self.stream = bool(job.body.get("stream"))
        self.outcome = Outcome()
        body = orjson.dumps(job.body)
        self.request = (
            f"POST {job.path} HTTP/1.1\r\nhost: {job.host}:{job.port}\r\n"
            f"authorization: Bearer {job.key}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\n\r\n"
        ).encode() + body

    async def run(self) -> Outcome:
        job = self._job
        cpu, start = time.process_time(), time.perf_counter()
        self._end = start + job.seconds
        self._present = job.clients
        for place in range(job.clients):
            client = Client(self)
            self._clients.append(client)
            self.connect(client, job.stagger_ms / 1000 * place / job.clients)
        watch = asyncio.create_task(self._watch())
        await self._gone.wait()
        watch.cancel()
        self.outcome.seconds = time.perf_counter() - start
        self.outcome.cpu_seconds = time.process_time() - cpu
        return self.outcome

    def take_turn(self) -> bool:
        """Whether one more request may start."""
        if time.perf_counter() >= self._end or self._left == 0:
            return False
        if self._left is not None:
            self._left -= 1
        return True

    def leave(self) -> None:
        self._present -= 1
        if not self._present:
            self._gone.set()

    def connect(self, client: Client, delay: float = 0.0) -> None:
        task = self._loop.create_task(self._connect(client, delay))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connect(self, client: Client, delay: float) -> None:
        await asyncio.sleep(delay)
        while time.perf_counter() < self._end:
            client.renew()
            try:
                await self._loop.create_connection(lambda: client, self._job.host, self._job.port)
            except OSError:
                self.outcome.errors["cannot connect"] += 1
                await asyncio.sleep(_RECONNECT_SECONDS)
            else:
                return
        self.leave()

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(_TIMEOUT_TICK_SECONDS)
            oldest = time.perf_counter() - self._job.timeout
            for client in self._clients:
                if client.asked_at is not None and client.asked_at < oldest:
                    client.give_up("timeout")

    def wrong(self, status: int, body: bytes) -> str | None:
        """What is wrong with an answer, None if it is whole."""
        if status != 200:
            return f"status {status}"
        try:
            text, finish = self._streamed(body) if self.stream else _unary(body)
        except (ValueError, KeyError, TypeError, IndexError):
            return "not a completion"
        if finish != "stop":
            return "no finish reason"
        return None if text == self._job.expect else "wrong text"

    def _streamed(self, body: bytes) -> tuple[str, str | None]:
        text, finish, last = [], None, b""
        for line in body.split(b"\n"):
            if not line.startswith(b"data:"):
                continue
            last = line[5:].strip()
            if last == b"[DONE]":
                continue
            for choice in orjson.loads(last)["choices"]:
                finish = choice.get("finish_reason") or finish
                if piece := choice["delta"].get("content"):
                    text.append(piece)
                    self.outcome.events += 1
        if last != b"[DONE]":
            finish = None
        return "".join(text), finish


def _unary(body: bytes) -> tuple[str, str | None]:
    choice = orjson.loads(body)["choices"][0]
    return choice["message"]["content"], choice["finish_reason"]


def _spread(seconds: list[float]) -> dict[str, float] | None:
    """p50, p99 and max in milliseconds."""
    if not seconds:
        return None
    ordered = sorted(seconds)
    at = {name: min(len(ordered) - 1, int(len(ordered) * q)) for name, q in _QUANTILES.items()}
    return {name: ordered[place] * 1000 for name, place in at.items()}


_QUANTILES = {"p50": 0.5, "p99": 0.99, "max": 1.0}


async def _run(job: Job) -> Outcome:
    return await Load(job).run()


def main() -> None:
    gc.disable()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        for line in sys.stdin:
            outcome = runner.run(_run(Job(**json.loads(line))))
            print(json.dumps(outcome.report()), flush=True)
            gc.collect()


if __name__ == "__main__":
    main()
