"""A nats-server and a connection to it, for every conftest.py that imports them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from broker.bus import Bus
from broker.bus.layout import ensure_layout, ensure_pool
from tests.broker.bus.server import NatsServer


@pytest.fixture
async def nats(tmp_path: Path) -> AsyncIterator[NatsServer]:
    server = NatsServer(tmp_path)
    await server.start()
    yield server
    server.kill()


@pytest.fixture
async def bus(nats: NatsServer) -> AsyncIterator[Bus]:
    """Connected, and laid out with one pool: provider sim, pool main."""
    bus = await nats.bus()
    await ensure_layout(bus, 1)
    await ensure_pool(bus, "sim", "main", 4)
    yield bus
    await bus.close()
