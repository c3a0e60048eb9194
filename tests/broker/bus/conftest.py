from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from broker.bus import Bus, connect
from tests.broker.bus.server import NatsServer, Proxy


@pytest.fixture
async def proxy(nats: NatsServer) -> AsyncIterator[Proxy]:
    proxy = Proxy(nats.port)
    await proxy.start()
    yield proxy
    await proxy.close()


@pytest.fixture
async def far(bus: Bus, proxy: Proxy) -> AsyncIterator[Bus]:
    """A second connection to the same server, over the proxy."""
    far = await connect(proxy.settings(), name="far")
    yield far
    await far.close()
