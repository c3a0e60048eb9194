from __future__ import annotations

from tests.broker.bus.fixtures import bus, nats

__all__ = ["bus", "nats"]
