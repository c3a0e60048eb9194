"""The bus: the only package that speaks NATS."""

from __future__ import annotations

from broker.bus import lean  # noqa: F401  isort: skip
from broker.bus.connection import Bus, BusError, connect

__all__ = ["Bus", "BusError", "connect"]
