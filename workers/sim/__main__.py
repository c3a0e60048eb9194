"""Starts the simulator: `python -m workers.sim`.

Prints one JSON line, {"listening": "HOST:PORT"}, once it accepts connections.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys

import uvloop

from workers.sim.knobs import FAULTS, KNOBS
from workers.sim.server import Simulator


def main() -> None:
    """Runs until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(
        prog="python -m workers.sim",
        description="A make-believe provider that speaks the OpenAI wire format.",
        epilog=_knobs(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0, the default, takes a free one")
    arguments = parser.parse_args()
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve(arguments.host, arguments.port))
    except OSError as exc:
        sys.exit(f"sim cannot listen on {arguments.host}:{arguments.port}: {exc.strerror or exc}")


async def _serve(host: str, port: int) -> None:
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    server = await loop.create_server(Simulator().connection, host, port, backlog=1024)
    address = server.sockets[0].getsockname()
    sys.stdout.write(json.dumps({"listening": f"{address[0]}:{address[1]}"}) + "\n")
    sys.stdout.flush()
    await stopped.wait()
    server.close()


def _knobs() -> str:
    lines = ["knobs, in the model name (tokens=50,burst) or the body's sim object:"]
    lines += [f"  {name:<12} {knob.kind:<7} {knob.does}" for name, knob in KNOBS.items()]
    lines += ["", "faults:"]
    lines += [f"  {name:<12} {does}" for name, does in FAULTS.items()]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
