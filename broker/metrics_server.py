"""Serves the metrics of a process that has no HTTP of its own: workers and the broker process."""

from __future__ import annotations

import asyncio

from broker.config import Address
from broker.telemetry import Metrics

_MAX_HEAD = 16 << 10


async def serve_metrics(metrics: Metrics, address: Address) -> asyncio.Server:
    """Answer `GET /metrics` on `address`. Raises `OSError` when the port is taken."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(5):
                head = await reader.readuntil(b"\r\n\r\n")
                known = head.startswith((b"GET /metrics ", b"GET /metrics?"))
                body, kind = (
                    metrics.render() if known else (b"only /metrics is here\n", "text/plain")
                )
                status = b"200 OK" if known else b"404 Not Found"
                writer.write(
                    b"HTTP/1.1 %b\r\ncontent-type: %b\r\ncontent-length: %d\r\n"
                    b"connection: close\r\n\r\n%b" % (status, kind.encode(), len(body), body)
                )
                await writer.drain()
        except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # a scraper that left or sent no HTTP
        finally:
            writer.close()

    try:
        return await asyncio.start_server(answer, address.host, address.port, limit=_MAX_HEAD)
    except OSError as exc:
        raise OSError(
            f"cannot serve metrics on {address}: is the port taken? set MILLRACE_METRICS"
        ) from exc
