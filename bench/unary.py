"""Has workers answer requests without an edge between: `python -m bench.unary --requests 20000`.

What an edge does between HTTP and the queue is done here, and nothing else: what workers cost for
a request, and how many they answer, is seen without the cost of HTTP. Prints one line of JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
import uuid

from broker import process
from broker.bus import Bus
from broker.bus.fleet import fleet_token
from broker.config import Settings
from broker.errors import InferenceError
from broker.keys import KeyRecord
from broker.telemetry import Telemetry
from broker.translate.chat_request import parse_chat
from broker.v1 import generation_pb2
from edge.engine import Engine

_KEY = KeyRecord(id="bench", name="bench", created_at=0)
_TIMEOUT_S = 60.0
_STARTING_S = 15.0
_POLL_S = 0.05


def main() -> int:
    """Prints {"requests": N, "errors": N, "seconds": S}, the seconds without its own start."""
    parser = argparse.ArgumentParser(prog="python -m bench.unary", description=__doc__)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--clients", type=int, default=128)
    parser.add_argument("--model", default="sim/tokens=8")
    arguments = parser.parse_args()

    async def body(settings: Settings, bus: Bus, telemetry: Telemetry, _: asyncio.Event) -> None:
        engine = Engine(bus, settings, await fleet_token(bus, settings), telemetry)
        await engine.start()
        try:
            print(json.dumps(await _run(engine, arguments)), flush=True)
        finally:
            await engine.close()

    return process.run("unary", body)


async def _run(engine: Engine, arguments: argparse.Namespace) -> dict[str, float]:
    deadline = time.monotonic() + _STARTING_S
    while not engine.ready() and time.monotonic() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(_POLL_S)
    numbers = iter(range(arguments.requests))
    errors = 0

    async def client() -> None:
        nonlocal errors
        for number in numbers:
            errors += not await _answered(engine, arguments.model, number)

    begun = time.monotonic()
    await asyncio.gather(*(client() for _ in range(arguments.clients)))
    seconds = time.monotonic() - begun
    return {"requests": arguments.requests, "errors": errors, "seconds": seconds}


async def _answered(engine: Engine, model: str, number: int) -> bool:
    try:
        request = uuid.uuid4().hex
        exchange = await engine.submit(
            _request(model, number), _KEY, request_id=request, timeout_s=_TIMEOUT_S
        )
        try:
            last = None
            while batch := await exchange.next():
                last = batch[-1]
        finally:
            exchange.close()
    except InferenceError as exc:
        print(f"bench: {exc}", file=sys.stderr)
        return False
    return last is not None and last.HasField("completed")


def _request(model: str, number: int) -> generation_pb2.Request:
    content = f"Say the number {number}."
    body = {"model": model, "messages": [{"role": "user", "content": content}]}
    return parse_chat(json.dumps(body).encode())


if __name__ == "__main__":
    sys.exit(main())
