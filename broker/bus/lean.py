"""Loads nats-py without aiohttp, which costs each process 10 MB and serves WebSockets alone.

Has to be imported before anything else of nats-py is.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

_HEAVY = "aiohttp"

if _HEAVY not in sys.modules:
    # An import of a name that stands for None fails, which nats-py is prepared for.
    sys.modules[_HEAVY] = None  # type: ignore[assignment]
    try:
        from nats.aio import transport
    finally:
        del sys.modules[_HEAVY]
else:
    from nats.aio import transport


def use_websockets() -> None:
    """Let connections to `ws://` and `wss://` be made after all."""
    lean: Any = transport
    lean.aiohttp = importlib.import_module(_HEAVY)
