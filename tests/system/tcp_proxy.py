"""Forwards TCP from one port of 127.0.0.1 to another, as a process of its own.

`python -m tests.system.tcp_proxy FROM TO`. Stopped by a signal (SIGSTOP), it is a network that
carries nothing any more: connections stay open, and nothing comes through.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    writer.close()


async def main(source: int, target: int) -> None:
    """Forward for ever."""

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there = await asyncio.open_connection("127.0.0.1", target)
        except OSError:
            writer.transport.abort()
            return
        await asyncio.gather(_carry(reader, there[1]), _carry(there[0], writer))

    server = await asyncio.start_server(accept, "127.0.0.1", source)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2])))
